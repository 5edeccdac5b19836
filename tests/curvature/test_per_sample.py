"""Products against dense Hessians by double backward, on every kind of module and of input that is promised."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from stillscape._errors import InputError, SelfCheckError
from stillscape.curvature import PerSampleHessian
from tests.curvature.networks import (
    DOUBLE,
    all_columns,
    dense,
    dense_outer,
    encoder,
    filled,
    hugging_face,
    logits_loss,
)

EXACT = 1e-10


def close(got, truth, tolerance=EXACT):
    assert (got - truth).norm() <= tolerance * truth.norm()


def math_only(f):
    def run():
        with sdpa_kernel(SDPBackend.MATH):
            return f()

    return run


@pytest.mark.parametrize("part", ["full", "outer", "functional", "fisher"])
def test_every_part_of_an_encoder(part):
    model, x, y = encoder()
    hv = PerSampleHessian(model, F.cross_entropy, x, y, part=part)
    model.eval()
    params = list(model.parameters())

    def logits():
        return model(x[2:3])

    def loss():
        return F.cross_entropy(logits(), y[2:3])

    with sdpa_kernel(SDPBackend.MATH):
        full, outer = dense(loss, params), dense_outer(logits, params, y)
        g = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(), params, materialize_grads=True)])
    truth = {"full": full, "outer": outer, "functional": full - outer, "fisher": torch.outer(g, g)}[part]
    close(all_columns(hv, 2), truth)


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
def test_hugging_face_and_peft(lora):
    model, x, y = hugging_face(lora=lora)
    assert not lora or any("lora_A" in name for name, p in model.named_parameters() if p.requires_grad)
    hv = PerSampleHessian(model, logits_loss, x, y)
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert hv.num_parameters == sum(p.numel() for p in trainable)
    pixels = x["pixel_values"]
    model.eval()
    truth = dense(math_only(lambda: F.cross_entropy(model(pixel_values=pixels[1:2]).logits, y[1:2])), trainable)
    close(all_columns(hv, 1), truth)
    mean = dense(math_only(lambda: F.cross_entropy(model(pixel_values=pixels).logits, y)), trainable)
    close(hv.mean_matmat(torch.eye(hv.num_parameters, dtype=DOUBLE)).mT, mean)


def test_squared_error():
    """jvp(grad) of it raises in PyTorch; double backward doesn't."""
    model = nn.Linear(3, 2).double()
    x, y = torch.randn(4, 3, dtype=DOUBLE), torch.randn(4, 2, dtype=DOUBLE)
    for part in ("full", "outer"):
        hv = PerSampleHessian(model, F.mse_loss, x, y, part=part)
        close(all_columns(hv, 1), dense(lambda: F.mse_loss(model(x[1:2]), y[1:2]), list(model.parameters())))
    assert not PerSampleHessian(model, F.mse_loss, x, y, part="functional").mean_matmat(torch.eye(8).double()).any()


def test_ragged_batches_are_weighted_right():
    """40 samples in batches of 32 and 8 or of any other size: the mean is over samples, not over batches."""
    model, x, y = encoder(40)
    v = torch.randn(3, sum(p.numel() for p in model.parameters()), dtype=DOUBLE)
    whole = PerSampleHessian(model, F.cross_entropy, x, y)
    truth = torch.stack([whole.sample_matmat([i], v)[0] for i in range(40)]).mean(0)
    for at_once in (1, 7, 32, 40):
        budget = 2 * at_once * whole._runner.sample_bytes
        hv = PerSampleHessian(model, F.cross_entropy, x, y, memory_bytes=budget, check=False)
        assert len(next(hv._runner.chunks_of_batch(range(40)))[1]) == at_once
        close(hv.mean_matmat(v), truth, 1e-12)
        close(hv.sample_matmat(range(40), v).mean(0), truth, 1e-12)
        close(hv.losses().mean(), F.cross_entropy(copy.deepcopy(model).eval()(x), y), 1e-12)


def test_float32_is_right_to_its_precision():
    model, x, y = encoder()
    v = torch.randn(sum(p.numel() for p in model.parameters()), dtype=DOUBLE)
    truth = PerSampleHessian(model, F.cross_entropy, x, y).mean_matvec(v)
    hv = PerSampleHessian(copy.deepcopy(model).float(), F.cross_entropy, x.float(), y)
    assert hv.mean_matvec(v).dtype == torch.float32
    close(hv.mean_matvec(v).double(), truth, 3e-6)


def test_graphs_kept_give_the_same_and_are_let_go():
    model, x, y = encoder()
    hv = PerSampleHessian(model, F.cross_entropy, x, y)
    v = torch.randn(hv.num_parameters, dtype=DOUBLE)
    fresh = hv.mean_matvec(v)
    with hv.linearized():
        for _ in range(2):
            torch.testing.assert_close(hv.mean_matvec(v), fresh, rtol=0, atol=0)
        assert hv._runner.kept
    assert hv._runner.kept is None
    with torch.no_grad():
        model.head.weight.mul_(2)
    assert not torch.equal(hv.mean_matvec(v), fresh)


def test_modes_and_attention_are_put_back(caplog):
    model, x, y = hugging_face()
    model.train()
    model.vit.layers[0].eval()  # a frozen part of a model in training
    before = {name: module.training for name, module in model.named_modules()}
    with caplog.at_level(logging.WARNING, "stillscape"):
        hv = PerSampleHessian(model, logits_loss, x, y)
    assert [r.message for r in caplog.records] == [
        "attention: flash kernels have no second derivative; PyTorch's math kernel is used for curvature."
    ]
    hv.mean_gradient()
    assert {name: module.training for name, module in model.named_modules()} == before
    assert model.config._attn_implementation == "sdpa"


class OwnKernels(nn.Module):
    """Picks its kernels as Hugging Face models do; its fast one has no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.config = nn.Linear(3, 2).double(), SimpleNamespace(_attn_implementation="flash_attention_2")

    def set_attn_implementation(self, name: str) -> None:
        self.config._attn_implementation = name

    def forward(self, x):
        assert self.config._attn_implementation == "eager"
        return self.layer(x).tanh()


def test_other_kernels_are_switched_to_eager(caplog):
    model, x, y = OwnKernels(), torch.randn(5, 3, dtype=DOUBLE), torch.tensor([0, 1, 1, 0, 1])
    with caplog.at_level(logging.WARNING, "stillscape"):
        hv = PerSampleHessian(model, F.cross_entropy, x, y)
    assert "flash_attention_2 has no second derivative; eager attention is used" in caplog.text
    assert model.config._attn_implementation == "flash_attention_2"
    hv.mean_gradient()
    assert model.config._attn_implementation == "flash_attention_2"


class Branching(nn.Module):
    """Looks at its data, which a function transform can't."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2).double()

    def forward(self, x):
        return self.layer(x) if bool((x.sum() > -1e9).item()) else x


class Mixing(nn.Module):
    """Normalizes by statistics of the batch, whatever the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2).double()

    def forward(self, x):
        return self.layer(x - x.mean(0) * (len(x) > 1)).tanh()


@pytest.mark.parametrize("kind", [Branching, Mixing])
@pytest.mark.parametrize("part", ["full", "outer", "fisher"])
def test_models_that_no_transform_takes_are_run_one_by_one(kind, part, caplog):
    model = kind()
    x, y = torch.randn(5, 3, dtype=DOUBLE), torch.tensor([0, 1, 1, 0, 1])
    with caplog.at_level(logging.WARNING, "stillscape"):
        hv = PerSampleHessian(model, F.cross_entropy, x, y, part=part)
    assert "one by one, which is slower" in caplog.text
    v = torch.randn(2, hv.num_parameters, dtype=DOUBLE)
    if part == "full":
        ones = [
            dense(lambda i=i: F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters()))
            for i in range(5)
        ]
        close(hv.sample_matmat(range(5), v), torch.stack([v @ one for one in ones]))
    close(hv.mean_matmat(v), hv.sample_matmat(range(5), v).mean(0), 1e-12)
    close(hv.gradients().mean(0), hv.mean_gradient(), 1e-12)


def test_loss_that_no_transform_takes():
    def loss(z, y):
        return F.cross_entropy(z, y) * (1.0 if y.item() >= 0 else 0.0)

    model, x, y = encoder()
    plain, odd = (PerSampleHessian(model, f, x, y) for f in (F.cross_entropy, loss))
    v = torch.randn(plain.num_parameters, dtype=DOUBLE)
    close(odd.mean_matvec(v), plain.mean_matvec(v), 1e-12)
    close(odd.products([0, 3], v.expand(2, -1)), plain.products([0, 3], v.expand(2, -1)), 1e-12)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2).double(), nn.Linear(4, 2).double()

    def forward(self, left, right):
        return {"first": self.a(left), "second": self.b(right).tanh()}


def test_several_inputs_outputs_and_targets():
    model = TwoInputs()
    left, right = torch.randn(5, 3, dtype=DOUBLE), torch.randn(5, 4, dtype=DOUBLE)
    y = {"label": torch.tensor([0, 1, 0, 1, 1]), "weight": torch.rand(5, dtype=DOUBLE)}

    def loss(z, t):
        return t["weight"][0] * F.cross_entropy(z["first"] * z["second"], t["label"])

    def truth(i):
        z = model(left[i : i + 1], right[i : i + 1])
        return y["weight"][i] * F.cross_entropy(z["first"] * z["second"], y["label"][i : i + 1])

    for inputs in ((left, right), {"left": left, "right": right}):
        hv = PerSampleHessian(model, loss, inputs, y)
        close(all_columns(hv, 3), dense(lambda: truth(3), list(model.parameters())))
    outer, rest = hv.with_part("outer"), hv.with_part("functional")
    close(all_columns(outer, 3) + all_columns(rest, 3), all_columns(hv, 3), 1e-12)


def test_patterns_subsets_and_blocks():
    model, x, y = encoder()
    hv = PerSampleHessian(model, F.cross_entropy, x, y)
    norms = hv.restricted(["*.norm1.*", "head.bias"])
    assert [name.split(".")[-2] for name in norms.slices] == ["norm1"] * 4 + ["head"]
    index = torch.cat([torch.arange(hv.num_parameters)[hv.slices[name]] for name in norms.slices])
    close(all_columns(norms, 0), all_columns(hv, 0)[index][:, index], 1e-12)
    some = hv.subset([4, 1])
    v = torch.randn(hv.num_parameters, dtype=DOUBLE)
    close(some.mean_matvec(v), hv.products([4, 1], v.expand(2, -1)).mean(0), 1e-12)
    assert (some.num_sample_products, hv.num_sample_products) == (2, 2 + hv.num_parameters)


def test_frozen_and_unused_parameters():
    model, x, y = encoder()
    model.unused = nn.Parameter(torch.ones(3, dtype=DOUBLE))
    model.embed.requires_grad_(False)
    hv = PerSampleHessian(model, F.cross_entropy, x, y)
    assert "unused" in hv.slices
    assert "embed.weight" not in hv.slices
    v = torch.randn(hv.num_parameters, dtype=DOUBLE)
    assert not hv.mean_matvec(v)[hv.slices["unused"]].any()
    assert all(p.grad is None for p in model.parameters())
    assert not model.embed.weight.requires_grad


def test_scipy_takes_vectors_and_matrices():
    model, x, y = encoder()
    hv = PerSampleHessian(model, F.cross_entropy, x, y)
    v = torch.randn(hv.num_parameters, 2, dtype=DOUBLE)
    operator, truth = hv.as_scipy(), hv.mean_matmat(v.mT).mT.numpy()
    torch.testing.assert_close(operator @ v.numpy(), truth)
    torch.testing.assert_close(operator @ v[:, 0].numpy(), truth[:, 0])


class Wrong(torch.autograd.Function):
    """The square, with a first derivative that forgets it depends on x."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2 * ctx.saved_tensors[0].detach()


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2).double()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        return self.layer(x) * (1 + torch.rand((), generator=self.generator, dtype=DOUBLE)) ** 2


def test_a_wrong_rule_fails_the_self_check():
    model = nn.Linear(3, 2).double()
    x, y = torch.randn(5, 3, dtype=DOUBLE), torch.randn(5, 2, dtype=DOUBLE)

    def loss(z, t):
        return Wrong.apply(z - t).sum()

    with pytest.raises(SelfCheckError, match=r"finite difference.*second derivative"):
        PerSampleHessian(model, loss, x, y)
    PerSampleHessian(model, loss, x, y, check=False)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_kinks_pass_the_self_check(dtype, caplog):
    """A wide ReLU network has kinks within any step; its Hessian off them is right, and a difference can't tell."""
    generator = torch.Generator().manual_seed(0)
    for seed in range(5):
        model = filled(nn.Sequential(nn.Linear(6, 400), nn.ReLU(), nn.Linear(400, 3)), seed=seed).to(dtype)
        x = torch.randn(3, 6, generator=generator).to(dtype)
        hv = PerSampleHessian(model, F.cross_entropy, x, torch.arange(3))
    truth = dense(lambda: F.cross_entropy(model(x[:1]), torch.tensor([0])), list(model.parameters()))
    v = torch.randn(2, hv.num_parameters, generator=generator).to(dtype)
    close(hv.sample_matmat([0], v)[0], v @ truth, 1e-2 if dtype == torch.float32 else EXACT)


def test_randomness_fails_the_self_check():
    x, y = torch.randn(5, 3, dtype=DOUBLE), torch.tensor([0, 1, 1, 0, 1])
    with pytest.raises(SelfCheckError, match=r"two passes.*random"):
        PerSampleHessian(Noisy(), F.cross_entropy, x, y)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"params": "nothing"}, "'nothing', which fits no parameter"),
        ({"params": []}, "params is empty"),
        ({"part": "half"}, "part is 'half'"),
        ({"targets": torch.zeros(3, dtype=torch.long)}, "inputs hold 6 samples and targets 3"),
        ({"inputs": {"x": [1, 2]}}, "inputs holds a int"),
        ({"inputs": torch.zeros(0, 4, 5)}, "inputs holds tensors of"),
        ({"inputs": torch.full((6, 4, 5), torch.nan, dtype=DOUBLE)}, "loss of sample 0 is nan"),
        ({"loss_fn": lambda z, y: z}, r"loss_fn returns a tensor of shape \(1, 4\)"),
        ({"memory_bytes": 0}, "memory_bytes is 0"),
    ],
)
def test_bad_arguments(changes, match):
    model, x, y = encoder()
    arguments = {"model": model, "loss_fn": F.cross_entropy, "inputs": x, "targets": y} | changes
    with pytest.raises(InputError, match=match):
        PerSampleHessian(**arguments)


def test_bad_vectors_rows_and_precision():
    model, x, y = encoder()
    hv = PerSampleHessian(model, F.cross_entropy, x, y)
    v = torch.zeros(hv.num_parameters, dtype=DOUBLE)
    with pytest.raises(InputError, match=r"v is \(3,\)"):
        hv.mean_matvec(torch.zeros(3))
    with pytest.raises(InputError, match="numbered from 0 to 5"):
        hv.matvec(6, v)
    with pytest.raises(InputError, match="2 rows for 1 samples"):
        hv.products([0], v.expand(2, -1))
    with pytest.raises(InputError, match=r"bfloat16.*model.float\(\)"):
        PerSampleHessian(copy.deepcopy(model).bfloat16(), F.cross_entropy, x.bfloat16(), y)
    mixed = copy.deepcopy(model)
    mixed.head.float()
    with pytest.raises(InputError, match="several dtypes"):
        PerSampleHessian(mixed, F.cross_entropy, x, y)
