"""Known vulnerabilities of what is pinned, by pip-audit; where its database can't be reached, say so.

    python scripts/audit_dependencies.py [--required]

Exit codes: 0 none is known, or nothing could be audited (said on stderr); 1 there are some; 2 nothing could be audited,
and `--required` asks for it.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PINS = Path(__file__).parents[1] / "constraints.txt"
PATIENCE_S = 300


def main(arguments: list[str]) -> int:
    """Audit, and return the exit code."""
    found, why = audited()
    checked = [each for each in found if "skip_reason" not in each]
    if not checked:
        sys.stderr.write(f"audit-deps: nothing was audited: {why or 'the database knows none of the pins'}.\n")
        return 2 if "--required" in arguments else 0
    bad = [each for each in checked if each["vulns"]]
    for each in bad:
        for known in each["vulns"]:
            mended = ", ".join(known.get("fix_versions") or []) or "no version"
            sys.stdout.write(f"{each['name']} {each['version']}: {known['id']}, mended in {mended}\n")
    skipped = [each["name"] for each in found if "skip_reason" in each]
    if skipped:
        sys.stderr.write(f"audit-deps: the database knows nothing of {', '.join(skipped)}.\n")
    sys.stdout.write(f"audit-deps: {len(checked)} pins audited, {len(bad)} with known vulnerabilities.\n")
    return 1 if bad else 0


def audited() -> tuple[list[dict[str, Any]], str]:
    """Return what pip-audit says of each pin, and why it says nothing where it does.

    Its exit code is not asked: it is 0 as well where no pin was found in the database.
    """
    if importlib.util.find_spec("pip_audit") is None:
        return [], "pip-audit is not installed; pip install pip-audit"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        command = [
            sys.executable, "-m", "pip_audit", "--requirement", str(PINS), "--no-deps", "--disable-pip",
            "--timeout", "15", "--progress-spinner", "off", "--format", "json", "--output", str(path),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
            return json.loads(path.read_text(encoding="utf-8"))["dependencies"], ""
        except subprocess.TimeoutExpired:
            return [], f"no database of vulnerabilities answered within {PATIENCE_S} s"
        except (OSError, ValueError, KeyError):
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return [], f"no database of vulnerabilities could be read ({last})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
