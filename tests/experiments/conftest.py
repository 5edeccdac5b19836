"""Faults that tests make are counted, for the table in docs/faults.md (see scripts/faults.py)."""

import pytest


@pytest.fixture
def fault(record_property):
    """Return a function that a test calls at its end with the fault that was survived, and how many times."""

    def survived(name: str, tries: int) -> None:
        record_property("fault", name)
        record_property("tries", tries)

    return survived


def pytest_itemcollected(item):
    if "fault" in getattr(item, "fixturenames", ()):
        item.add_marker("fault")
