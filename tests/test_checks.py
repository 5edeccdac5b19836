"""What counts as a number at the public door."""

import numpy as np
import pytest
import torch

from stillscape import _checks


@pytest.mark.parametrize(
    "value", [2**70, 10**400, 3, 2.0, np.int64(2), np.float32(2), np.array(2.0), torch.tensor(2.0)]
)
def test_numbers_of_any_kind_and_size_pass(value):
    assert _checks.positive("x", value) == value
    assert _checks.not_negative("x", value) == value
    assert _checks.at_least("x", value, 2) == int(value)


@pytest.mark.parametrize("value", [None, "2", True, [2.0], np.ones(1), float("nan"), float("inf"), 2 + 1j, -1])
def test_anything_else_is_named(value):
    for check in (_checks.positive, _checks.not_negative, lambda name, x: _checks.at_least(name, x, 0)):
        with pytest.raises(ValueError, match=r"^x is"):
            check("x", value)
