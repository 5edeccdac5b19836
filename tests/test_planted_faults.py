"""Tests that can fail: every planted fault turns those red that are named for it."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "planted_faults.py"


def load():
    spec = importlib.util.spec_from_file_location("planted_faults", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up by name
    spec.loader.exec_module(module)
    return module


planted_faults = load()
FAULTS = planted_faults.FAULTS
EVERY_FAULT = pytest.mark.parametrize("fault", FAULTS, ids=str)


@EVERY_FAULT
def test_the_patch_applies_once_and_its_tests_are_there(fault):
    text = planted_faults.patched(fault)
    compile(text, fault.file, "exec")
    assert fault.tests
    for test in fault.tests:
        file, name = re.fullmatch(r"(.+\.py)::(\w+)(\[.+\])?", test).groups()[:2]
        assert f"def {name}(" in (SCRIPT.parents[1] / file).read_text(encoding="utf-8")


def test_names_are_unique():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_a_patch_that_does_not_apply_is_told():
    gone = planted_faults.Fault("gone", "hessian/exact.py", "no such line", "", ("tests/test_cli.py::test",))
    with pytest.raises(ValueError, match=r"gone: 'no such line' is 0 times in hessian/exact.py; it must be there once"):
        planted_faults.patched(gone)


@pytest.mark.slow
def test_without_a_fault_all_are_green():
    with planted_faults.workspace() as root:
        assert planted_faults.are_green(FAULTS, root)


@pytest.mark.slow
@EVERY_FAULT
def test_every_fault_is_found(fault):
    with planted_faults.workspace() as root:
        assert planted_faults.is_found(fault, root)


@pytest.mark.slow
def test_a_change_that_is_no_fault_survives():
    harmless = planted_faults.Fault(
        "none", "hessian/layers.py", "return x + super().forward(x)", "return super().forward(x) + x",
        (planted_faults.BLOCK_TESTS,),
    )  # fmt: skip
    with planted_faults.workspace() as root:
        assert not planted_faults.is_found(harmless, root)


@pytest.mark.slow
def test_a_test_that_is_not_there_is_no_red():
    with planted_faults.workspace() as root, pytest.raises(RuntimeError, match="tests did not run"):
        planted_faults.run_tests(root, [f"{planted_faults.SAME}::test_that_is_not_there"])


@pytest.mark.slow
def test_only_the_copy_is_run(tmp_path):
    """Without a package of its own, the folder's tests would run the installed one: that is no answer."""
    with pytest.raises(RuntimeError, match=r"tests did not run \(exit 90\)"):
        planted_faults.run_tests(tmp_path, ["--version"])
