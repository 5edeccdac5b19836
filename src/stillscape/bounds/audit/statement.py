"""What a statement of the paper comes to: its words, which are fixed, and its numbers, which are measured."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

VERDICTS = ("holds", "fails", "undefined", "vacuous")
#: What stands in place of a verdict where the measuring function raised.
NOT_COMPUTED = "not computed"


@dataclass(frozen=True)
class Statement:
    """One statement of the drafts after measuring.

    Attributes:
        number: "#1" to "#25" as in docs/theory, section 1, or the name of a lemma or theorem.
        where: section of the draft.
        printed: what is printed there, in own words; "nothing" where the draft is silent.
        verdict: "holds"; "fails" (a counterexample was computed); "undefined" (shapes that don't conform, a symbol
            without a meaning, or left open); "vacuous" (a premise that nothing meets); or "not computed".
        evidence: the counterexample with its numbers, or what the printed statement survived.
        corrected: the statement as it holds.
        corrected_evidence: how many draws it survived, violations, worst error.
        tightness: how far the corrected statement is from the truth.
        corrected_holds: whether the corrected statement survived everything.
        numbers: the measured numbers by name.
    """

    number: str
    where: str
    printed: str
    verdict: str
    evidence: str
    corrected: str
    corrected_evidence: str
    tightness: str
    corrected_holds: bool
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """The measured half of a statement; see `Statement`."""

    verdict: str
    evidence: str
    corrected_evidence: str
    tightness: str
    corrected_holds: bool
    numbers: dict[str, float] = field(default_factory=dict)


class Setting:
    """How many draws a statement may take, and its own source of randomness, the same whatever else is measured."""

    def __init__(self, number: str, draws: int, seed: int) -> None:
        self.draws = draws
        own = np.random.SeedSequence([seed, zlib.crc32(number.encode())])
        self.rng = np.random.default_rng(own)
        self.generator = torch.Generator().manual_seed(int(own.generate_state(1, np.uint64)[0] >> 1))

    def share(self, part: int, least: int = 4) -> int:
        """Return one `part`-th of the draws, for what is dear; at least a few."""
        return max(least, self.draws // part)


@dataclass(frozen=True)
class Claim:
    """The words of a statement, and the function that measures it."""

    number: str
    where: str
    printed: str
    corrected: str
    measure: Callable[[Setting], Finding]

    def examine(self, draws: int, seed: int) -> Statement:
        """Return the statement with its numbers; where they can't be computed, say why in their place."""
        try:
            found = self.measure(Setting(self.number, draws, seed))
        except Exception as error:  # one statement that breaks must not hide the others
            reason = f"could not be computed: {type(error).__name__}: {error}"
            found = Finding(NOT_COMPUTED, reason, reason, "", False)
        return Statement(
            number=self.number, where=self.where, printed=self.printed, verdict=found.verdict, evidence=found.evidence,
            corrected=self.corrected, corrected_evidence=found.corrected_evidence, tightness=found.tightness,
            corrected_holds=bool(found.corrected_holds),
            numbers={name: float(value) for name, value in found.numbers.items()},
        )  # fmt: skip


def judged(holds: bool) -> str:
    """Return the verdict on a statement that can be evaluated."""
    return "holds" if holds else "fails"


def judged_product(misfit: str | None) -> str:
    """Return the verdict on a wrong product of matrices: a formula that doesn't even conform is undefined."""
    return "undefined" if misfit else "fails"
