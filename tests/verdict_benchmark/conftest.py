"""What is measured of the verdict lies outside of the package, in benchmarks/verdict."""

import sys
from pathlib import Path

PLACE = Path(__file__).parents[2] / "benchmarks" / "verdict"
if str(PLACE) not in sys.path:
    sys.path.append(str(PLACE))
