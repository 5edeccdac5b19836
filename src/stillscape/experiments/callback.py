"""A callback that keeps what a training run says about a size of the data, for `stillscape forecast`."""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stillscape import _checks
from stillscape._errors import InputError
from stillscape._scores import append_score


class DataCurveCallback(TrainerCallback):
    """Write (size of the training set, metric) of each training to a table that ``stillscape forecast`` reads.

    The last value before training ends is kept; a training that is evaluated only afterwards writes it then. Apart
    from its own file the callback changes nothing: neither control nor arguments nor what is reported to whom.

    Args:
        path: of the CSV file, columns size, score, repeat; made if missing, rows are added to one that is there. One
            file holds one metric.
        metric: as evaluation names it, with or without "eval_": "loss", "accuracy", ...
        size: number of training samples; None counts the rows of the training set.

    Example:
        >>> callback = DataCurveCallback("runs/scores.csv", metric="accuracy")
        >>> callback.metric
        'eval_accuracy'
    """

    def __init__(self, path: str | Path, *, metric: str = "loss", size: int | None = None) -> None:
        self.path = Path(path)
        self.metric = metric if metric.startswith(("eval_", "test_")) else f"eval_{metric}"
        self.size = None if size is None else _checks.at_least("size", size, 1)
        self._begin()

    def _begin(self) -> None:
        self._value: float | None = None
        self._counted: int | None = None
        self._training = False
        self._written = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the training set."""
        self._begin()
        self._training = True
        self._counted = self.size or _rows(kwargs.get("train_dataloader"))

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the metric; write it if training is over already."""
        if metrics is None or self.metric not in metrics:
            held = ", ".join(sorted(metrics or {})) or "nothing"
            raise InputError(f"metric is {self.metric!r}; the evaluation gave {held}. Name one of these.")
        if self._written:
            return  # a second evaluation of the same training is no repeat
        self._value = float(metrics[self.metric])
        if not self._training:
            self._counted = self._counted or self.size or _rows(kwargs.get("train_dataloader"))
            self._write()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the last value, where there is one."""
        self._training = False
        if self._value is not None:
            self._write()

    def _write(self) -> None:
        if self._counted is None:
            raise InputError("size is None, and the training set can't be counted; give its size.")
        assert self._value is not None
        append_score(self.path, self._counted, self._value)
        self._written = True


def _rows(loader: Any) -> int | None:
    try:
        return len(loader.dataset)
    except (AttributeError, TypeError):
        return None  # a stream has no length
