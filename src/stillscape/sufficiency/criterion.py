"""What a rule says about a curve: a status, a size with its interval, and what it rests on."""

from dataclasses import dataclass

STATUSES = ("reached", "not_reached", "cannot_tell", "vacuous_bound")


@dataclass(frozen=True)
class Criterion:
    """The outcome of one rule. k* always means: for every k' >= k* that was measured (or that a closed form covers).

    Attributes:
        name: of the rule, after the curve that it reads.
        status: "reached", "not_reached", "cannot_tell" or "vacuous_bound".
        k_star: the size; None unless reached (a vacuous bound keeps the size that it asks for).
        low: lower end of the interval of k_star; None where it has none.
        high: upper end; None where it has none, or where it lies beyond what was measured.
        epsilon: the tolerance (for a target: the target), in the unit of the curve.
        assumes: what must hold for it to mean something.
        is_null: whether it would come out so for any model, and thus never votes.
        reason: why, with the numbers, without a full stop.
        advice: what to do about it; empty where nothing is called for.
        is_bound: whether it inverts an upper bound, which may be far above the truth, and thus never votes.
        is_estimate: whether it reads what a theory of the surface forecasts and not a measured gain; it never votes.
    """

    name: str
    status: str
    k_star: int | None
    low: int | None
    high: int | None
    epsilon: float
    assumes: tuple[str, ...]
    is_null: bool
    reason: str
    advice: str = ""
    is_bound: bool = False
    is_estimate: bool = False

    @property
    def votes(self) -> bool:
        """Whether it has a say in the verdict: nulls, bounds, forecasts and those that can't tell have none."""
        return not (self.is_null or self.is_bound or self.is_estimate) and self.status in ("reached", "not_reached")

    def to_dict(self) -> dict:
        """Return plain values for JSON.

        >>> Criterion("accuracy", "reached", 9, 5, 9, 0.01, ("x",), False, "why").to_dict()["assumes"]
        ['x']
        """
        return {
            "status": self.status,
            "k_star": self.k_star,
            "low": self.low,
            "high": self.high,
            "epsilon": self.epsilon,
            "assumes": list(self.assumes),
            "is_null": self.is_null,
            "reason": self.reason,
        }
