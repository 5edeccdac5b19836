"""Where results and buffers lie."""

import pytest
import torch

from stillscape.hessian import memory


@pytest.mark.parametrize("limit", [0, 2**40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fresh_memory_is_like_what_it_is_for(dtype, limit, monkeypatch):
    monkeypatch.setattr(memory, "HUGE_BYTES", limit)
    found = memory.fresh(torch.zeros(2, dtype=dtype), 3, 4)
    assert (found.dtype, tuple(found.shape), found.is_contiguous()) == (dtype, (3, 4), True)
    assert float(found.fill_(2.0).sum()) == 24.0


def test_a_buffer_is_kept_until_more_is_asked_for():
    buffers, like = memory.Buffers(), torch.zeros(1)
    first = buffers.get("a", like, 4, 3)
    again = buffers.get("a", like, 2, 5)
    assert again.shape == (2, 5)
    assert again.data_ptr() == first.data_ptr()
    assert buffers.get("b", like, 4, 3).data_ptr() != first.data_ptr()
    assert buffers.get("a", like, 100).shape == (100,)
