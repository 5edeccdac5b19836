"""Write docs/theory-table.md: each formula, its place in docs/theory, function, test, and its error, measured here.

    python -m scripts.formula_table                     the file anew, a minute or two on one core
    python -m scripts.formula_table --quick --out FILE  few cases, as the tests run it

To be run from the root of the repository. An error is relative to the whole Hessian, float64. Errors are those of the
worst of all cases. What is refuted has to come out above its limit, what is proved at or below it; the script ends with
an error where anything does not.
"""

import argparse
import sys
from pathlib import Path

import torch

from scripts.formula_table.table import table

OUT = Path(__file__).resolve().parents[2] / "docs" / "theory-table.md"


def main() -> int:
    """Write the table; return 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(prog="python -m scripts.formula_table", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few cases")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text, failed = table(0.05 if options.quick else 1.0)
    options.out.write_text(text, encoding="utf-8")
    for line in failed:
        sys.stderr.write(f"limit not kept: {line}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
