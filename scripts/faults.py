"""Make every fault that the tests know, count, and write docs/faults.md from what was counted.

    python scripts/faults.py

About ten minutes on two cores. Each test ends with the faults that it made, after it has held the result of the run
that went on against that of an undisturbed one; a test that fails is a loss, and its row says so.
"""

import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
HEAD = """# Faults that were made, and what was lost

Written by `scripts/faults.py` from what it counted; each row is a kind of fault, made in a run of a small plan. After
each the run was taken up again, and its result.json held against that of an undisturbed run: byte by byte for killed
processes, value by value otherwise.

| Fault | Times made | Runs that ended otherwise than the undisturbed one |
|---|---|---|
"""


def counted(report: Path) -> tuple[dict[str, int], list[str]]:
    """Return how many times each fault was survived, and the tests that failed."""
    tries: dict[str, int] = defaultdict(int)
    failed = []
    for case in ElementTree.parse(report).iter("testcase"):
        properties = {item.get("name"): item.get("value") for item in case.iter("property")}
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(str(case.get("name")))
        elif "fault" in properties:
            tries[str(properties["fault"])] += int(str(properties["tries"]))
    return dict(tries), failed


def main() -> None:
    """Run the tests and write the page."""
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-m", "fault", "tests/experiments"]
        subprocess.run([*command, "-o", "junit_family=xunit1", f"--junitxml={report}"], cwd=ROOT, check=False)
        tries, failed = counted(report)
    rows = [f"| {name} | {number} | 0 |" for name, number in sorted(tries.items())]
    rows += [f"| test `{name}` failed | | at least 1 |" for name in failed]
    where = f"\nPython {platform.python_version()}, {platform.machine()}.\n"
    (ROOT / "docs" / "faults.md").write_text(HEAD + "\n".join(rows) + "\n" + where, encoding="utf-8")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
