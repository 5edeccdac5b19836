"""Known vulnerabilities of what is pinned, by pip-audit; where its database can't be reached, say so.

    python scripts/audit_dependencies.py

Exit codes: 0 none is known, or nothing could be audited (said on stderr); 1 there are some.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).parents[1] / "constraints.txt"


def main() -> int:
    """Audit, and return the exit code."""
    if importlib.util.find_spec("pip_audit") is None:
        sys.stderr.write("audit-deps: pip-audit is not installed; nothing was audited. pip install pip-audit\n")
        return 0
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(PINS), "--no-deps", "--disable-pip"]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    sys.stdout.write(found.stdout)
    sys.stderr.write(found.stderr)
    if found.returncode and "found" not in found.stderr.lower():
        sys.stderr.write("audit-deps: no database of vulnerabilities could be read; nothing was audited.\n")
        return 0
    return found.returncode


if __name__ == "__main__":
    sys.exit(main())
