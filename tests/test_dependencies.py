"""Every dependency is pinned, and the audit of the pins fails where it finds something and nowhere else."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "audit_dependencies.py"


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line.partition("#")[0]) for line in lines if line.partition("#")[0].strip()]
    return {canonicalize_name(each.name): each for each in found}


def wanted():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return [each for each in (Requirement(text) for texts in lists for text in texts) if each.name != project["name"]]


@pytest.mark.parametrize("requirement", wanted(), ids=str)
def test_every_dependency_has_a_pin_that_it_accepts(requirement):
    pin = pins()[canonicalize_name(requirement.name)]
    version = re.fullmatch(r"==([\w.+!]+)", str(pin.specifier))
    assert version, f"{pin} is no pin"
    assert requirement.specifier.contains(version[1])


def test_no_pin_stands_twice():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] not in ("", "#")]
    assert len(lines) == len(pins())


OK = {"name": "numpy", "version": "2.4.6", "vulns": []}
BAD = {"name": "pillow", "version": "1.0", "vulns": [{"id": "CVE-2026-1", "fix_versions": ["1.1"]}]}
SKIPPED = {"name": "torch", "skip_reason": "not found"}


@pytest.fixture
def audit(tmp_path):
    """Run the script with a pip-audit that writes this list of dependencies, or says this on stderr."""

    def run(found=None, code=0, said="", *arguments, installed=True):
        if installed:
            lines = ["import sys", f"sys.stderr.write({said!r})", "path = sys.argv[sys.argv.index('--output') + 1]"]
            if found is not None:
                lines.append(f"open(path, 'w').write({json.dumps({'dependencies': found})!r})")
            (tmp_path / "pip_audit.py").write_text("\n".join([*lines, f"sys.exit({code})"]))
        hide = "import sys; sys.modules['pip_audit'] = None" if not installed else ""
        (tmp_path / "sitecustomize.py").write_text(hide)
        return subprocess.run(
            [sys.executable, str(SCRIPT), *arguments],
            capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )  # fmt: skip

    return run


def test_nothing_found(audit):
    done = audit([OK, SKIPPED])
    assert done.returncode == 0
    assert "1 pins audited, 0 with known vulnerabilities" in done.stdout
    assert "knows nothing of torch" in done.stderr


@pytest.mark.parametrize("code", [0, 1])
def test_a_finding_fails_whatever_pip_audit_ends_with(audit, code):
    done = audit([OK, BAD], code)
    assert done.returncode == 1
    assert "pillow 1.0: CVE-2026-1, mended in 1.1" in done.stdout


@pytest.mark.parametrize(
    ("found", "code", "said", "told"),
    [
        (None, 1, "ERROR: could not connect, host not found", r"could be read \(ERROR: could not connect"),
        ([], 0, "", "knows none of the pins"),
        ([SKIPPED], 0, "No known vulnerabilities found", "knows none of the pins"),  # as behind a mirror
    ],
)
def test_no_database_is_said_and_fails_nothing_unless_asked(audit, found, code, said, told):
    done = audit(found, code, said)
    assert done.returncode == 0
    assert re.search(rf"audit-deps: nothing was audited: .*{told}", done.stderr)
    assert audit(found, code, said, "--required").returncode == 2


def test_without_pip_audit(audit):
    done = audit(installed=False)
    assert done.returncode == 0
    assert "nothing was audited: pip-audit is not installed" in done.stderr
