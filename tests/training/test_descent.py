import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from stillscape._errors import InputError
from stillscape.models import trained_state
from stillscape.training import EarlyStop, Recipe, descent, fit, rows, score
from tests.training.problems import problem, small_net

RECIPE = Recipe(steps=60, batch=16, learning_rate=1e-2, weight_decay=0.1, clip=1.0)


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_training_lowers_the_loss_and_reports_itself():
    x, y = problem(120, 6, 3, noise=1.0)
    net = small_net(6, 3)
    before = score(net, x, y, np.arange(100)).losses.mean()
    outcome = fit(net, x, y, np.arange(100), RECIPE, seed=0)
    after = score(net, x, y, np.arange(100)).losses.mean()
    assert after < 0.7 * before
    assert (outcome.status, outcome.reason, outcome.stop) == ("ok", "", "steps done")
    assert outcome.steps == 60
    # 100 images in batches of 16: six full ones and one of 4, so 60 steps are eight epochs and four batches.
    assert outcome.epochs == pytest.approx(8 + 4 * 16 / 100)
    assert not net.training
    assert outcome.seconds > 0
    assert len(outcome.trace) == 50
    assert outcome.trace[0]["step"] == 0
    assert outcome.trace[-1]["step"] == 59
    assert outcome.trace[0]["loss"] > outcome.trace[-1]["loss"]


def plain_adamw(net, x, y, recipe, seed):
    """The same training, written out with torch's unfused optimizer and in one loop."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, foreach=False, fused=False)
    step = 0
    while step < recipe.steps:
        for batch in torch.randperm(len(x), generator=generator).split(recipe.batch):
            if step == recipe.steps:
                break
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step, recipe.steps)
            optimizer.step()
            step += 1


def test_against_a_plain_loop():
    x, y = problem(50, 6, 3)
    net, plain = small_net(6, 3), small_net(6, 3)
    fit(net, x, y, np.arange(50), RECIPE, seed=4)
    plain_adamw(plain, x, y, RECIPE, 4)
    assert not same(net, small_net(6, 3))
    for a, b in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_same_seed_same_bits_whatever_the_global_state(dropout):
    x, y = problem(60, 6, 3)
    nets = [small_net(6, 3, dropout=dropout) for _ in range(3)]
    state = torch.get_rng_state()
    fit(nets[0], x, y, np.arange(60), RECIPE, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    fit(nets[1], x, y, np.arange(60), RECIPE, seed=1)
    fit(nets[2], x, y, np.arange(60), RECIPE, seed=2)
    assert same(nets[0], nets[1])
    assert not same(nets[0], nets[2])


def test_only_given_rows_are_read_and_only_trainable_parameters_move():
    x, y = problem(60, 6, 3)
    subset = np.arange(10, 40)
    spoiled = np.full_like(x, np.nan)
    spoiled[subset] = x[subset]
    one, two = small_net(6, 3), small_net(6, 3)
    for net in (one, two):
        net[0].requires_grad_(False)
    frozen = one[0].weight.clone()
    fit(one, x, y, subset, RECIPE, seed=0)
    fit(two, spoiled, y, subset, RECIPE, seed=0)
    assert same(one, two)
    assert torch.equal(one[0].weight, frozen)
    assert set(trained_state(one)) == {"1.weight", "1.bias", "4.weight", "4.bias"}


def test_memory_mapped_inputs_read_batch_by_batch_give_the_same_bits(tmp_path, monkeypatch):
    x, y = problem(60, 6, 3)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    order = np.random.default_rng(0).permutation(60)[:45]
    held, read = small_net(6, 3), small_net(6, 3)
    first = fit(held, x, y, order, RECIPE, seed=0)
    monkeypatch.setattr(rows, "_IN_MEMORY_BYTES", 0)
    second = fit(read, mapped, y, order, RECIPE, seed=0)
    assert same(held, read)
    assert first.gradient_norm == second.gradient_norm


def test_gradient_norm_is_of_the_mean_loss_over_all_rows(monkeypatch):
    x, y = problem(70, 6, 3)
    net = small_net(6, 3, dropout=0.5)
    monkeypatch.setattr(descent, "_EVALUATION_BATCH", 16)
    outcome = fit(net, x, y, np.arange(70), RECIPE, seed=0)
    loss = nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y))
    gradient = torch.autograd.grad(loss, list(net.parameters()))
    expected = math.sqrt(sum(float(g.double().square().sum()) for g in gradient))
    assert outcome.gradient_norm == pytest.approx(expected, rel=1e-4)


def test_nan_in_the_data_is_a_status():
    x, y = problem(40, 6, 3)
    x[7] = np.nan
    net = small_net(6, 3)
    outcome = fit(net, x, y, np.arange(40), RECIPE, seed=0)
    assert outcome.status == "failed"
    assert outcome.stop == "failed"
    assert "the loss is nan at step" in outcome.reason
    assert outcome.steps < 3
    assert math.isnan(outcome.gradient_norm)
    assert not net.training


def test_divergence_is_a_status():
    x, y = problem(40, 6, 3)
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    recipe = Recipe(steps=50, learning_rate=1e30, warmup=0.0, schedule="constant")
    outcome = fit(net, x, y, np.arange(40), recipe, seed=0)
    assert outcome.status == "failed"
    assert "step" in outcome.reason


def test_overflow_in_the_very_last_step_is_seen():
    x, y = problem(40, 6, 3)
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    outcome = fit(net, x, y, np.arange(40), Recipe(steps=1, learning_rate=1e38, warmup=0.0), seed=0)
    assert outcome.status == "failed"
    assert "after the last step" in outcome.reason


def test_early_stop_returns_to_the_best_epoch(monkeypatch):
    x, y = problem(80, 20, 3, noise=4.0)  # noise to be learned by heart
    recipe = Recipe(epochs=200, batch=16, learning_rate=3e-2, early_stop=EarlyStop(fraction=0.25, patience_epochs=3))
    watches, measured = [], []
    plain = descent._Watch._loss

    def noting(watch):
        watches.append(watch)
        measured.append(plain(watch))
        return measured[-1]

    monkeypatch.setattr(descent._Watch, "_loss", noting)
    outcome = fit(small_net(20, 3), x, y, np.arange(80), recipe, seed=0)
    assert outcome.stop == "early stop"
    best = int(np.argmin(measured))
    assert len(measured) == best + 1 + 3
    # 80 images less a quarter of each class: 60 or so, in batches of 16.
    assert outcome.steps == 4 * len(measured)
    assert plain(watches[0]) == pytest.approx(measured[best], rel=1e-6)


def test_validation_part_is_stratified_and_inside_the_subset():
    labels = np.repeat([0, 1, 2, 3], [40, 20, 1, 39])
    subset = np.arange(61)
    generator = torch.Generator().manual_seed(0)
    training, held = descent._set_apart(labels, subset, EarlyStop(fraction=0.25), generator)
    assert sorted([*training, *held]) == list(subset)
    assert np.bincount(labels[held], minlength=4).tolist() == [10, 5, 0, 0]


def test_one_image_can_be_fitted():
    x, y = problem(5, 6, 3)
    recipe = RECIPE.model_copy(update={"early_stop": EarlyStop()})
    outcome = fit(small_net(6, 3), x, y, np.array([2]), recipe, seed=0)
    assert outcome.status == "ok"
    assert outcome.epochs == 60


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y, r: (x[:5], y, r), "inputs has 5 rows"),
        (lambda x, y, r: (x, y, r[:0]), "rows is"),
        (lambda x, y, r: (x, y, r + 35), "inputs has rows 0 to 39"),
        (lambda x, y, r: (x, y, r.astype(float)), "rows is float64"),
        (lambda x, y, r: (x, y - 1, r), "labels must be"),
        (lambda x, y, r: (x, y + 1, r), "the model has 3 classes"),
    ],
)
@pytest.mark.parametrize("head", [True, False])
def test_bad_input_is_refused(spoil, message, head):
    x, y = problem(40, 6, 3)
    y[:3] = [0, 1, 2]
    x, y, r = spoil(x, y, np.arange(20))
    with pytest.raises(InputError, match=message):
        fit(nn.Linear(6, 3) if head else small_net(6, 3), x, y, r, RECIPE, seed=0)


def test_scores_of_the_last_look_are_those_of_the_model_it_leaves():
    x, y = problem(40, 5, 3)
    net = small_net(5, 3)
    rows = np.arange(3, 33)
    outcome = fit(net, x, y, rows, RECIPE, seed=0)
    again = score(net, x, y, rows)
    np.testing.assert_allclose(outcome.scores.losses, again.losses, rtol=1e-6)
    np.testing.assert_allclose(outcome.scores.probabilities, again.probabilities, rtol=1e-5)


@pytest.mark.parametrize("early_stop", [None, EarlyStop(fraction=0.2, patience_epochs=1)])
def test_who_watches_sees_each_step_and_changes_nothing(early_stop):
    x, y = problem(60, 6, 3, noise=1.0)
    recipe = Recipe(steps=12, batch=16, learning_rate=1e-2, early_stop=early_stop)
    nets, seen = [small_net(6, 3) for _ in range(2)], []
    nets[1].load_state_dict(nets[0].state_dict())
    start = trained_state(nets[0])

    def watch(step):
        seen.append((step, trained_state(nets[0])))

    watched = fit(nets[0], x, y, np.arange(60), recipe, seed=3, watch=watch)
    assert watched.steps == fit(nets[1], x, y, np.arange(60), recipe, seed=3).steps
    assert same(*nets)
    assert [step for step, _ in seen] == list(range(watched.steps + 1))
    assert all(torch.equal(seen[0][1][name], start[name]) for name in start)
    moved = [float(sum((b[n] - a[n]).square().sum() for n in a)) for (_, a), (_, b) in pairwise(seen)]
    assert min(moved) > 0
    if early_stop is None:
        end = trained_state(nets[0])
        assert all(torch.equal(seen[-1][1][name], end[name]) for name in end)
