"""Keep the findings of reproductions in docs/reproductions/, and write the page and the plans from what is kept.

    stillscape reproduce NAME --out runs/reproduce/NAME           # each at full size
    stillscape reproduce NAME --quick --out runs/reproduce/NAME-quick
    stillscape audit --json > docs/reproductions/audit.json
    python -m scripts.reproductions --from runs/reproduce         # without --from nothing is taken over

A test holds page and plans against what this writes.
"""

import argparse
import json
from pathlib import Path

from stillscape.reproductions import CATALOGUE, Findings, read_findings
from stillscape.reproductions.figures import figure_files
from stillscape.reproductions.page import header, page
from stillscape.reproductions.run import plan_text

ROOT = Path(__file__).parents[1]
KEPT, PLANS, PAGE = ROOT / "docs/reproductions", ROOT / "plans", ROOT / "docs/reproductions.md"
AUDIT = KEPT / "audit.json"


def keep(source: Path) -> None:
    """Copy findings into docs/reproductions/, those of full size with their figure."""
    for path in sorted(source.glob("*/findings.json")):
        found = read_findings(path)
        place = KEPT / ("quick" if found.size == "quick" else "") / f"{found.name}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if found.size == "full":
            place.with_suffix(".svg").write_bytes(figure_files(found)["svg"])


def kept(size: str) -> dict[str, Findings]:
    """Return the findings that are kept, by name."""
    folder = KEPT / "quick" if size == "quick" else KEPT
    return {name: read_findings(folder / f"{name}.json") for name in CATALOGUE if (folder / f"{name}.json").is_file()}


def texts() -> dict[Path, str]:
    """Return what page and plans should hold, by path."""
    full, quick = kept("full"), kept("quick")
    plans = {PLANS / f"reproduce-{name}.toml": plan_text(name, header(full[name], quick.get(name))) for name in full}
    return {PAGE: page(full, json.loads(AUDIT.read_text(encoding="utf-8"))), **plans}


def main() -> None:
    """Take over findings, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="source", type=Path, help="folder of folders with findings.json")
    args = parser.parse_args()
    if args.source is not None:
        keep(args.source)
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
