"""What came of a fit."""

from dataclasses import dataclass, field
from typing import Literal, TypedDict

from stillscape.training.losses import Scores

Stop = Literal["steps done", "early stop", "gradient tolerance", "failed"]


class TracePoint(TypedDict):
    """One point of a fit's history."""

    step: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class Fit:
    """Outcome of one fit; the trained parameters are in the model.

    Attributes:
        status: "ok", or "failed" where a loss or a gradient was not finite or an optimum was not reached.
        reason: of a failure; "" otherwise.
        steps: optimizer steps (for a head: iterations).
        epochs: passes over the training rows.
        trace: at most 50 points; losses are batch means in nats (for a head: the penalized objective).
        gradient_norm: norm of the gradient of the mean loss over all training rows, in eval mode, after the last
            step; nan if the fit failed.
        penalized_gradient_norm: head only: of the penalized objective at its float64 optimum, before the weights are
            rounded to the model's own precision.
        seconds: wall time.
        stop: why it ended.
        scores: losses and probabilities of the training rows, in their order, from the pass that gave the gradient;
            None if the fit failed.
        micro_batch: images at a time to which a batch had to be cut for want of memory; None where it was not.
    """

    status: Literal["ok", "failed"]
    reason: str
    steps: int
    epochs: float
    gradient_norm: float
    seconds: float
    stop: Stop
    trace: list[TracePoint] = field(default_factory=list)
    penalized_gradient_norm: float | None = None
    scores: Scores | None = None
    micro_batch: int | None = None


TRACE_POINTS = 50


def thin(trace: list[TracePoint]) -> list[TracePoint]:
    """Keep at most 50 points, evenly spread, the first and the last among them.

    >>> [point["step"] for point in thin([TracePoint(step=i, loss=0.0, learning_rate=0.0) for i in range(99)])][:3]
    [0, 2, 4]
    """
    if len(trace) <= TRACE_POINTS:
        return trace
    last = TRACE_POINTS - 1
    return [trace[round(i * (len(trace) - 1) / last)] for i in range(TRACE_POINTS)]
