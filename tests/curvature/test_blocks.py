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
        share = own.square().sum().item() / dense["full"].square().sum().item()
        assert abs(block.norm_share - share) < 4 * block.norm_share_stderr
        assert block.norm_share_stderr < 0.3 * block.norm_share
    assert table.between == pytest.approx(1 - sum(block.norm_share for block in table.blocks))
    blocks = sum(dense["full"][at][:, at].square().sum().item() for at in place)
    assert abs(table.between - 1 + blocks / dense["full"].square().sum().item()) < 4 * table.between_stderr


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
    shares = (expected.square().diagonal() / whole.square().sum()).tolist()
    assert [block.norm_share for block in table.blocks] == pytest.approx(shares)
    assert table.between == pytest.approx(1 - sum(shares))
    assert table.between_stderr == sum(block.norm_share_stderr for block in table.blocks) == 0
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


def test_errors_of_shares_are_as_large_as_their_spread(hv):
    """Over seeds, shares scatter by what their standard errors say, to the accuracy of twelve draws."""
    tables = [block_table(hv, num_vectors=4, parts=["full"], max_steps=1, seed=seed) for seed in range(12)]
    for number in range(len(tables[0].blocks)):
        found = torch.tensor([[t.blocks[number].norm_share, t.blocks[number].norm_share_stderr] for t in tables])
        assert 0.4 < found[:, 0].std() / found[:, 1].square().mean().sqrt() < 2
    between = torch.tensor([[table.between, table.between_stderr] for table in tables])
    assert 0.4 < between[:, 0].std() / between[:, 1].square().mean().sqrt() < 2


def test_one_group_has_all_of_the_norm_without_error():
    """Its norm is an estimate, and errs; its share is that norm over itself."""
    generator = torch.Generator().manual_seed(0)
    model, x = torch.nn.Linear(40, 5, bias=False).double(), torch.randn(30, 40, generator=generator, dtype=torch.double)
    hv = PerSampleHessian(model, F.cross_entropy, x, torch.arange(30) % 5)
    table = block_table(hv, by="parameter", num_vectors=4, parts=["full"], max_steps=1)
    (block,) = table.blocks
    assert block.frobenius_stderr["full"] > 1e-3 * block.frobenius["full"]
    assert (block.norm_share, table.between) == (pytest.approx(1), pytest.approx(0, abs=1e-12))
    assert block.norm_share_stderr == pytest.approx(0, abs=1e-12)
