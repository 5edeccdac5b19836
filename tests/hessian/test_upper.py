"""Sums held as the upper half, and halves of symmetric matrices."""

import pytest
import torch

from stillscape.hessian import memory, upper
from stillscape.hessian.layout import Patch
from stillscape.hessian.symmetric import half_of, half_of_squares, half_size, places, unpacked


def _rows(start: int, left: int, right: int) -> Patch:
    return Patch(slice(0, left), slice(0, right), start, right, 1)


@pytest.mark.parametrize("panels", [1, 2, 100])
def test_the_whole_is_what_was_added(panels, monkeypatch):
    monkeypatch.setattr(upper, "HUGE_BYTES", 1)
    monkeypatch.setattr(upper, "PANELS", panels)
    draw = torch.Generator().manual_seed(0)
    F = torch.randn(3, 9, generator=draw, dtype=torch.float64)
    block = torch.randn(1, 2, 2, 1, 3, generator=draw, dtype=torch.float64)
    a, b = _rows(0, 2, 2), _rows(6, 1, 3)
    out = upper.Upper(F, 9, [a, _rows(4, 1, 2), b])
    out.add_squares(F)
    out.at(a, b).add_(block)
    want = F.T @ F
    want[:4, 6:] += block.reshape(4, 3)
    want[6:, :4] += block.reshape(4, 3).T
    torch.testing.assert_close(out.whole(), want)


def test_panels_begin_where_no_patch_goes_on():
    woven = [Patch(slice(0, 2), slice(0, 1), start, 2, 1) for start in (0, 1)]  # 0, 2 and 1, 3
    assert upper._cuts([*woven, _rows(4, 1, 2), _rows(6, 1, 1)], least=1) == [0, 4, 6]
    assert upper._cuts([*woven, _rows(4, 1, 2), _rows(6, 1, 1)], least=5) == [0, 6]


def test_a_half_tells_the_whole():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, generator=draw, dtype=torch.float64)
    M = torch.randn(5, 4, 4, generator=draw, dtype=torch.float64)
    M = M + M.mT
    packed = half_of_squares(x, x.new_empty(5, half_size(3))).T @ half_of(M)
    found = unpacked(packed, places(3)[:, 1:], places(4))
    torch.testing.assert_close(found, torch.einsum("tx,ty,trs->xyrs", x, x[:, 1:], M))


def test_memory_can_be_given_back_anywhere(monkeypatch):
    memory.give_back()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())  # a C library without malloc_trim
    memory.give_back()
