"""The paper, statement by statement: what is printed, whether it holds, and what holds in its place.

statement         what a statement is: fixed words, measured numbers
derivatives, attention_blocks, theorem_1, block, convergence, finite_sample   the statements, in the paper's order
tables            the same as JSON, CSV and Markdown
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from stillscape._checks import at_least
from stillscape.bounds.audit import attention_blocks, block, convergence, derivatives, finite_sample, theorem_1
from stillscape.bounds.audit.statement import Claim, Statement
from stillscape.bounds.audit.tables import to_csv, to_json, to_markdown

__all__ = ["CLAIMS", "Statement", "audit", "to_csv", "to_json", "to_markdown"]

_ALL: tuple[Claim, ...] = (
    *derivatives.CLAIMS,
    *attention_blocks.CLAIMS,
    *theorem_1.CLAIMS,
    *block.CLAIMS,
    *convergence.CLAIMS,
    *finite_sample.CLAIMS,
)
#: All statements: #1 to #25 first, then lemmas, theorems and what the drafts don't have.
CLAIMS = tuple(sorted(_ALL, key=lambda claim: not claim.number.startswith("#")))


def audit(draws: int = 2000, seed: int = 0, progress: Callable[[int, int, str], None] | None = None) -> list[Statement]:
    """Return every statement of the paper with its verdict, its corrected form, and what both measured just now.

    Nothing but words is stored: each number comes from autodiff, exact enumeration or random draws of this call. A
    statement that can't be computed says so in its row, counts as not holding, and leaves the others alone.

    Args:
        draws: random cases for each bound; dear statements, such as Hessians of whole blocks, take a share of them.
        seed: of all draws. A statement's draws depend on it and on the statement's number alone.
        progress: called before each statement with (statements done, statements in all, number), and at the end.

    Returns:
        the statements (docs/theory, section 1, then lemmas and theorems).

    Raises:
        InputError: `draws` is no whole number of at least 1, or `seed` none of at least 0.

    Cost: about 15 s on one core at 2000 draws; beyond, linear in `draws`.
    """
    at_least("draws", draws, 1)
    at_least("seed", seed, 0)
    statements = []
    with _one_thread():
        for done, claim in enumerate(CLAIMS):
            if progress is not None:
                progress(done, len(CLAIMS), claim.number)
            statements.append(claim.examine(int(draws), int(seed)))
    if progress is not None:
        progress(len(CLAIMS), len(CLAIMS), "")
    return statements


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute inside this block with one thread: faster on matrices so small, and the same sums on any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
