"""What only an NVIDIA GPU can show: training, memory that runs out, curvature and half precision there.

Run by hand where there is one (`pytest tests/test_cuda.py`); everywhere else these are skipped, and say why.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stillscape.curvature import PerSampleHessian, hessian_difference_curve
from stillscape.experiments import run
from stillscape.experiments.threads import deterministic
from stillscape.training import Recipe, fit, score
from tests.curvature.networks import CLASSES, encoder
from tests.experiments.small import small_plan
from tests.training.problems import problem, small_net

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: needs an NVIDIA GPU and a CUDA PyTorch"),
]
RECIPE = Recipe(steps=60, batch=32, learning_rate=1e-2)
ROWS = np.arange(200)


@pytest.fixture(scope="module")
def data():
    return problem(400, 16, 4, noise=1.0)


def trained(data, device, precision="float32", net=None):
    net = (net or small_net(16, 4)).to(device)
    return net, fit(net, *data, ROWS, RECIPE, seed=0, precision=precision)


def accuracy(net, data):
    rows = np.arange(200, 400)
    return (score(net, *data, rows).probabilities.argmax(1) == data[1][rows]).mean()


def test_training_on_the_device_ends_where_the_cpu_does(data):
    (here, _), (there, outcome) = trained(data, "cpu"), trained(data, "cuda")
    assert outcome.status == "ok"
    assert {p.device.type for p in there.parameters()} == {"cuda"}
    for name, weight in there.state_dict().items():
        torch.testing.assert_close(weight.cpu(), here.state_dict()[name], rtol=1e-2, atol=1e-3)
    losses = [score(net, *data, np.arange(200, 400)).losses for net in (here, there)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_reaches_the_same_accuracy(data, precision):
    plain, _ = trained(data, "cuda")
    half, outcome = trained(data, "cuda", precision)
    assert outcome.status == "ok"
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert np.isfinite(outcome.scores.losses).all()
    assert abs(accuracy(half, data) - accuracy(plain, data)) < 0.05


def test_deterministic_reruns_are_equal_to_the_bit(data):
    with deterministic(True):
        nets = [trained(data, "cuda")[0] for _ in range(2)]
    for one, two in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(one, two)


class Wide(nn.Module):
    """Takes 16 MiB of activations for each sample, so that the device can be made too small for a batch."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 4)

    def forward(self, x):
        wide = self.linear(x)[:, :, None].expand(-1, -1, 2**20).tanh()
        return wide.mean(2)


def test_memory_that_runs_out_halves_the_batch(data):
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        net = Wide()
    whole, outcome = trained(data, "cuda", net=copy.deepcopy(net))
    assert outcome.micro_batch is None
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 600 * 2**20) / total)
        parted, outcome = trained(data, "cuda", net=copy.deepcopy(net))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert outcome.status == "ok"
    assert outcome.micro_batch is not None
    torch.testing.assert_close(parted.linear.weight, whole.linear.weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_run_on_the_device_says_what_one_on_the_cpu_does(photos, tiny_vit, tmp_path, precision):
    asked = {"adapt": ["head", "last-layers:1", "lora:2"], "curvature": 6, "surface": 6, "surface_points": 3,
             "evidence": True, "repeats": 1, "precision": precision}  # fmt: skip
    plan = small_plan(photos, tiny_vit, **asked, device="cuda")
    there = run(plan, tmp_path / "cuda")
    assert there["provenance"]["device"] == "cuda"
    kinds = [path.parent.parent.name for path in (tmp_path / "cuda").glob("*/*/record.json")]
    assert {"cells", "probes", "hessians", "spectra", "surfaces", "trajectories"} <= set(kinds)
    if precision == "float32":
        here = run(plan.model_copy(update={"device": "cpu"}), tmp_path / "cpu")
        for one, other in zip(here["results"], there["results"], strict=True):
            assert one["curves"].keys() == other["curves"].keys()
            losses = [[cell["heldout_loss"] for cell in entry["cells"]] for entry in (one, other)]
            np.testing.assert_allclose(*losses, rtol=1e-2)
            assert (one["spectrum"] is None) == (other["spectrum"] is None)


def test_curvature_on_the_device_is_that_of_the_cpu():
    model, x, y = encoder(12)
    here = PerSampleHessian(model, F.cross_entropy, x, y)
    there = PerSampleHessian(copy.deepcopy(model).cuda(), F.cross_entropy, x, y)  # samples are sent chunk by chunk
    vectors = torch.randn(2, here.num_parameters, generator=torch.Generator().manual_seed(0), dtype=here.dtype)
    rows = range(12)
    found, expected = there.sample_matmat(rows, vectors.cuda()).cpu(), here.sample_matmat(rows, vectors)
    assert (found - expected).norm() <= 1e-4 * expected.norm()
    curves = [hessian_difference_curve(hv, 4) for hv in (there, here)]
    torch.testing.assert_close(curves[0].spectral, curves[1].spectral, rtol=1e-4, atol=0)
    torch.testing.assert_close(curves[0].frobenius, curves[1].frobenius, rtol=1e-4, atol=0)


def test_memory_that_runs_out_halves_products_with_hessians():
    net, x = Wide().cuda(), torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    hv = PerSampleHessian(net, F.cross_entropy, x, torch.arange(32) % CLASSES, memory_bytes=2**40, check=False)
    vector = torch.ones(hv.num_parameters)
    whole = hv.mean_matvec(vector)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**30) / total)
        parted = hv.mean_matvec(vector)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert hv.at_once < 32
    torch.testing.assert_close(parted, whole, rtol=1e-4, atol=1e-6)
