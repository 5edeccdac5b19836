"""Blocks against dense ones; names of real models sorted; parts' shares; bad patterns."""

import pytest
import torch
import torch.nn.functional as F

from stillscape._errors import InputError
from stillscape.curvature import PerSampleHessian, block_table
from stillscape.curvature.groups import group_names, kind_of
from tests.curvature.networks import DOUBLE, encoder, hugging_face, logits_loss


@pytest.fixture(scope="module")
def hv():
    model, x, y = encoder(6)
    return PerSampleHessian(model, F.cross_entropy, x, y, params=["blocks.layers.0.*", "head.*"])


def test_against_dense(hv):
    table = block_table(hv, num_vectors=12, tol=1e-6)
    dense = {p: hv.with_part(p).mean_matmat(torch.eye(hv.num_parameters, dtype=DOUBLE)) for p in ("full", "outer")}
    names = [block.group for block in table.blocks]
    assert names == ["query, key, value", "attention output", "feed-forward", "LayerNorm", "head"]
    place = [torch.cat([torch.arange(hv.num_parameters)[hv.slices[n]] for n in block.names]) for block in table.blocks]
    for number, block in enumerate(table.blocks):
        own = dense["full"][place[number]][:, place[number]]
        assert block.size == len(own)
        assert block.converged
        assert block.spectral == pytest.approx(torch.linalg.matrix_norm(own, 2).item(), rel=1e-5)
        assert block.spectral_residual <= 1e-6 * block.spectral
        assert abs(block.trace - own.trace().item()) <= 4 * block.trace_stderr
        assert block.trace_stderr < 0.5 * own.norm()  # Hutchinson's by as many products: (2 / 24) ** 0.5 = 0.29
        for part, whole in dense.items():
            truth = whole[place[number]][:, place[number]].norm().item()
            assert abs(block.frobenius[part] - truth) <= 4 * block.frobenius_stderr[part] + 1e-12 * own.norm()
            assert abs(block.share[part] - truth / own.norm().item()) <= 4 * block.share_stderr[part] + 1e-12
        for other in range(len(names)):
            truth = dense["full"][place[number]][:, place[other]].norm().item()
            gap = abs(table.coupling[number, other].item() - truth)
            assert gap < 4 * table.coupling_stderr[number, other]


def test_shares(hv):
    rows = {row["group"]: row for row in block_table(hv, num_vectors=4).rows()}
    assert rows["head"]["share_outer"] == pytest.approx(1)  # linear in the head: nothing functional
    assert rows["head"]["share_functional"] == pytest.approx(0, abs=1e-12)
    assert rows["query, key, value"]["share_functional"] > 0.1
    assert rows["head"]["share_full"] == 1


@pytest.mark.parametrize("lora", [False, True])
def test_names_of_hugging_face(lora):
    model, x, y = hugging_face(lora=lora)
    hv = PerSampleHessian(model, logits_loss, x, y, check=False)
    kinds = set(map(kind_of, hv.slices))
    assert kinds == (
        {"LoRA A", "LoRA B"}
        if lora
        else {"embedding", "query", "key", "value", "attention output", "feed-forward", "LayerNorm", "head"}
    )
    layers = group_names(list(hv.slices), None, "layer")
    assert sum("layers.0" in layer for layer in layers) == 1


def test_small_groups_are_done_exactly(hv):
    """A group of no more numbers than products is known column by column: no errors, one product each."""
    small = hv.restricted(["blocks.layers.0.norm1.weight", "head.bias"])
    table = block_table(small, by="parameter", num_vectors=4, parts=["full"], max_steps=1)
    whole = small.mean_matmat(torch.eye(12, dtype=DOUBLE))
    expected = torch.stack([torch.stack([b.norm() for b in row.split([8, 4], 1)]) for row in whole.split([8, 4])])
    torch.testing.assert_close(table.coupling, expected)
    assert not table.coupling_stderr.any()
    assert table.num_sample_products == (8 + 4 + 1 + 1) * 6


def test_rows_state_errors(hv):
    rows = block_table(hv, num_vectors=4).rows()
    for row in rows:
        assert row["share_full_stderr"] == 0  # a share of itself
        assert row["frobenius_stderr"] > 0
        assert row["spectral_residual"] <= 1e-2 * row["spectral"]
    assert rows[0]["share_functional_stderr"] > 0


def test_own_groups(hv):
    table = block_table(hv, {"top": "head.*", "norms": ["*.norm1.*", "*.norm2.*"]}, parts=["full"], num_vectors=4)
    assert [block.group for block in table.blocks] == ["other", "norms", "top"]
    assert sum(block.size for block in table.blocks) == hv.num_parameters


def test_bad_arguments(hv):
    with pytest.raises(InputError, match=r"groups\['x'\] holds 'nothing'"):
        block_table(hv, {"x": "nothing"})
    with pytest.raises(InputError, match="by is 'color'"):
        block_table(hv, by="color")
    with pytest.raises(InputError, match="parts is 'half'"):
        block_table(hv, parts=["half"])
    with pytest.raises(InputError, match="num_vectors is 3"):
        block_table(hv, num_vectors=3)
    with pytest.raises(InputError, match="parts is empty"):
        block_table(hv, parts=[])
