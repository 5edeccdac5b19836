"""Blocks of a whole small ViT's Hessian in closed form, against products of the real Hugging Face model."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import ViTConfig, ViTForImageClassification

from stillscape.curvature import PerSampleHessian, spectral_norms, top_eigenvalues
from stillscape.hessian import CrossEntropy, ExactHessian, transformer_chain

DOUBLE = torch.float64
CLASSES, SAMPLES, BLOCKS = 3, 2, 2
#: Our names and theirs; theirs are (out, in), ours (in, out).
THEIR_NAMES = {
    "W_Q": "attention.q_proj.weight",
    "W_K": "attention.k_proj.weight",
    "W_V": "attention.v_proj.weight",
    "W_O": "attention.o_proj.weight",
    "b_Q": "attention.q_proj.bias",
    "b_K": "attention.k_proj.bias",
    "b_V": "attention.v_proj.bias",
    "b_O": "attention.o_proj.bias",
    "W_1": "mlp.fc1.weight",
    "b_1": "mlp.fc1.bias",
    "W_2": "mlp.fc2.weight",
    "b_2": "mlp.fc2.bias",
    "gamma_1": "layernorm_before.weight",
    "beta_1": "layernorm_before.bias",
    "gamma_2": "layernorm_after.weight",
    "beta_2": "layernorm_after.bias",
}
HEAD_NAMES = {"W_h": "classifier.weight", "b_h": "classifier.bias"}


@dataclass(frozen=True)
class Pair:
    """The same Hessian twice; `order[i]` is where our parameter i stands among theirs."""

    exact: ExactHessian
    free: PerSampleHessian
    order: Tensor

    def products(self, v: Tensor) -> Tensor:
        """Return the model's H_i v, (samples, columns of v), in our order."""
        theirs = torch.empty_like(v)
        theirs[self.order] = v
        columns = theirs.mT.repeat_interleave(SAMPLES, 0)
        rows = list(range(SAMPLES)) * v.shape[1]
        with sdpa_kernel(SDPBackend.MATH):
            found = self.free.products(rows, columns)
        return found[:, self.order].unflatten(0, (v.shape[1], SAMPLES)).permute(1, 2, 0)


@pytest.fixture(scope="module")
def vit(tiny_vit):
    """The tiny ViT in float64, its weights large enough for every nonlinearity to matter."""
    # "eager" would do: but it takes its softmax in float32, whatever the model's precision.
    config = ViTConfig.from_pretrained(tiny_vit, num_labels=CLASSES, attn_implementation="sdpa")
    with torch.random.fork_rng():
        model = ViTForImageClassification(config).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator, dtype=DOUBLE)
            weight.copy_(0.35 * drawn + (1.0 if "layernorm" in name and "weight" in name else 0.0))
    return model


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(SAMPLES, 3, 8, 8, generator=generator, dtype=DOUBLE), torch.tensor([0, 2])


def pair(vit: nn.Module, data: tuple[Tensor, Tensor], wrt: int | str, head: bool = False) -> Pair:
    """Return both Hessians in the parameters of a block, with the head's or not, or of the head alone."""
    pixels, labels = data
    weights = {name: value.detach() for name, value in vit.named_parameters()}
    blocks = [
        {ours: value if value.ndim == 1 else value.mT for ours, value in
         ((ours, weights[f"vit.layers.{number}.{theirs}"]) for ours, theirs in THEIR_NAMES.items())}
        for number in range(BLOCKS)
    ]  # fmt: skip
    with torch.no_grad():
        hidden = vit.vit.embeddings(pixels)
    exact = transformer_chain(
        hidden,
        blocks,
        wrt=wrt,
        head=head,
        loss=CrossEntropy(labels, weights["classifier.weight"].mT, weights["classifier.bias"], pool="cls"),
        norm="pre",
        heads=vit.config.num_attention_heads,
        eps=vit.config.layer_norm_eps,
        final_norm=(weights["vit.layernorm.weight"], weights["vit.layernorm.bias"]),
    )
    full_names = HEAD_NAMES | {ours: f"vit.layers.{wrt}.{theirs}" for ours, theirs in THEIR_NAMES.items()}
    names = [full_names[name] for name in exact.names]
    order, start = [], 0
    for name in names:
        place = start + torch.arange(weights[name].numel()).reshape(weights[name].shape)
        order.append((place if place.ndim == 1 else place.mT).reshape(-1))
        start += place.numel()
    return Pair(exact, operator(vit, data, names), torch.cat(order))


def operator(vit, data, names):
    def loss_fn(output, y):
        return nn.functional.cross_entropy(output.logits, y)

    return PerSampleHessian(vit, loss_fn, *data, params=names)


def error_of_columns(got: Tensor, want: Tensor) -> float:
    """Return the largest error of a sample's columns, on the scale of that sample's columns."""
    return float(((got - want).flatten(1).norm(dim=1) / want.flatten(1).norm(dim=1)).max())


def rows_of(h: ExactHessian, name: str) -> slice:
    sizes = [torch.Size(shape).numel() for shape in h.shapes.values()]
    start = sum(sizes[: h.names.index(name)])
    return slice(start, start + sizes[h.names.index(name)])


def test_the_chain_is_the_model(vit, data):
    both = pair(vit, data, 0)
    with sdpa_kernel(SDPBackend.MATH):
        gradients = both.free.gradients(range(SAMPLES))[:, both.order]
    with torch.no_grad():
        losses = nn.functional.cross_entropy(vit(data[0]).logits, data[1], reduction="none")
    torch.testing.assert_close(both.exact.losses(), losses, rtol=1e-12, atol=0)
    assert error_of_columns(both.exact.gradient(), gradients) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("block", range(BLOCKS))
def test_every_entry_of_a_block(vit, data, block):
    both = pair(vit, data, block)
    unit = torch.eye(both.exact.num_parameters, dtype=DOUBLE)
    H = both.exact.dense()
    scale = H.flatten(1).norm(dim=1)
    error = torch.zeros(SAMPLES, dtype=DOUBLE)
    for columns in unit.split(200):
        error += (H @ columns.mT - both.products(columns.mT)).square().sum((1, 2))
    assert float((error.sqrt() / scale).max()) < 1e-10


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("name", THEIR_NAMES)
def test_directions_in_every_parameter(vit, data, block, name):
    """Columns of one parameter, against all rows of the block: dense, and product."""
    both = pair(vit, data, block)
    rows = rows_of(both.exact, name)
    v = torch.zeros(both.exact.num_parameters, 3, dtype=DOUBLE)
    v[rows] = torch.randn(rows.stop - rows.start, 3, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    want = both.products(v)
    by_product = torch.stack([both.exact.matvec(column) for column in v.mT], -1)
    by_blocks = torch.cat([both.exact.block(row, name) for row in both.exact.names], 1) @ v[rows]
    if name == "b_K":  # softmax does not see it: there is nothing but rounding on either side
        scale = both.exact.spectral_norm(tol=1e-2).max() * v.norm()
        assert float(torch.stack([want, by_product, by_blocks]).norm() / scale) < 1e-12
        return
    assert error_of_columns(by_product, want) < 1e-10
    assert error_of_columns(by_blocks, want) < 1e-10


@pytest.mark.parametrize("wrt", ["head", "last block and head"])
def test_the_head(vit, data, wrt):
    both = pair(vit, data, "head") if wrt == "head" else pair(vit, data, BLOCKS - 1, head=True)
    assert both.exact.names[-2:] == ("W_h", "b_h")
    size = both.exact.num_parameters
    v = torch.zeros(size, both.exact.block("W_h", "W_h").shape[-1] + CLASSES, dtype=DOUBLE)
    v[-v.shape[1] :] = torch.eye(v.shape[1], dtype=DOUBLE)  # every column of the head, against all rows
    assert error_of_columns(both.exact.dense() @ v, both.products(v)) < 1e-10


@pytest.mark.parametrize("part", ["outer", "functional"])
def test_parts(vit, data, part):
    """The model's outer part is taken at its logits: the same B as that of a loss with a head that is fixed."""
    both = pair(vit, data, 0)

    def loss_fn(logits, y):
        return nn.functional.cross_entropy(logits, y)

    names = [f"vit.layers.0.{THEIR_NAMES[name]}" for name in both.exact.names]
    names = [f"model.{name}" for name in names]
    free = PerSampleHessian(Logits(vit), loss_fn, *data, params=names, part=part)
    v = torch.randn(both.exact.num_parameters, 4, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    want = Pair(both.exact, free, both.order).products(v)
    assert error_of_columns(both.exact.dense(part) @ v, want) < 1e-10


class Logits(nn.Module):
    """The model, with the logits alone as its output: a tensor, as the split into parts needs it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixels).logits


@pytest.mark.parametrize("wrt", [0, 1, "head"])
def test_spectra(vit, data, wrt):
    both = pair(vit, data, wrt)
    with sdpa_kernel(SDPBackend.MATH):
        norms = spectral_norms(both.free, list(range(SAMPLES)), tol=1e-6, max_steps=100)
        top = top_eigenvalues(both.free, count=2, tol=1e-6)
    assert top.converged
    torch.testing.assert_close(both.exact.spectral_norm(), norms, rtol=1e-9, atol=0)
    values = torch.linalg.eigvalsh(both.exact.mean())
    largest = values[values.abs().argsort(descending=True)[:2]]
    torch.testing.assert_close(top.values, largest, rtol=1e-9, atol=0)


def test_eager_attention_of_transformers_is_single_precision_inside(vit, data):
    """Why these tests take PyTorch's kernel: the model's default loses half of the digits of float64.

    When this fails, transformers has mended it, and the models of this package gain those digits.
    """
    both = pair(vit, data, 0)
    v = torch.randn(both.exact.num_parameters, 2, generator=torch.Generator().manual_seed(4), dtype=DOUBLE)
    want = both.exact.dense() @ v
    vit.set_attn_implementation("eager")
    try:
        error = error_of_columns(both.products(v), want)
    finally:
        vit.set_attn_implementation("sdpa")
    assert 1e-10 < error < 1e-5
