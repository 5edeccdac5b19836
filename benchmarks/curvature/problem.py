"""The common problem: a tiny ViT on digits, a small network with a LayerNorm, vectors from fixed seeds.

Imported in the environment of every peer, so that it needs PyTorch and nothing else. `prepare.py` trains the ViT once
and leaves weights and samples in a file which each environment reads.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FILE = "problem.pt"
Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Sizes:
    """How much is computed.

    Attributes:
        batch: samples of a batch; Hessian-vector products are timed on one.
        batches: how many the eigenvalue is taken over.
        curve: the largest k of the curve over k.
        solved: the k at which peers are run.
        repeats: timed calls of a product.
        starts: random starts from all of which a solver must get there.
        rounds: timed calls of every eigensolver, in turn, each in a process of its own and from another start.
    """

    batch: int
    batches: int
    curve: int
    solved: tuple[int, ...]
    repeats: int
    starts: int
    rounds: int


FULL = Sizes(batch=256, batches=4, curve=1000, solved=(10, 100, 1000), repeats=7, starts=4, rounds=3)
SMALL = Sizes(batch=16, batches=4, curve=40, solved=(10, 40), repeats=2, starts=1, rounds=0)


class Attention(nn.Module):
    """Self-attention written out, so that every second derivative exists."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        split = self.qkv(x).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = split[0], split[1], split[2]
        weights = (q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    """A pre-LN transformer block with GELU."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class TinyViT(nn.Module):
    """28 x 28 gray images in patches of 7, two blocks of width 64 with 4 heads, a class token: 105,098 parameters.

    `forward` counts the samples that went through, also where a caller goes past the hooks of a module.
    """

    def __init__(self, width: int = 64, depth: int = 2, heads: int = 4, hidden: int = 256, classes: int = 10) -> None:
        super().__init__()
        self.samples_seen = 0
        self.patches = nn.Linear(49, width)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*(Block(width, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        n = len(images)
        self.samples_seen += n
        tiles = images.view(n, 4, 7, 4, 7).transpose(2, 3).reshape(n, 16, 49)
        x = torch.cat([self.token.expand(n, -1, -1), self.patches(tiles)], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class SignedMean(nn.Module):
    r"""Cross-entropy of sample k+1 less the mean of those before: its Hessian is :math:`H_{k+1} - \bar H_k`.

    All k+1 samples come as one batch, which is how every peer can take it.
    """

    reduction = "sum"

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = F.cross_entropy(outputs, targets, reduction="none")
        return losses[-1] - losses[:-1].mean()


def layer_norm_network() -> tuple[nn.Module, Batches]:
    """Return Linear, affine LayerNorm, Linear with 32 samples; float32."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        model[1].weight += 0.3 * torch.randn(16)
        model[1].bias += 0.3 * torch.randn(16)
    return model, [(torch.randn(32, 8), torch.randint(4, (32,)))]


def load(folder: Path) -> tuple[TinyViT, Tensor, Tensor]:
    """Return the trained ViT, images and labels; float32."""
    found = torch.load(folder / FILE, weights_only=True)
    model = TinyViT()
    model.load_state_dict(found["weights"])
    return model.eval(), found["images"], found["labels"]


def in_batches(images: Tensor, labels: Tensor, sizes: list[int]) -> Batches:
    """Return the first samples, in batches of those sizes."""
    count = sum(sizes)
    return list(zip(images[:count].split(sizes), labels[:count].split(sizes), strict=True))


def product_problems(folder: Path, sizes: Sizes) -> dict[str, tuple[nn.Module, Batches]]:
    """Return what products are taken of: one batch, one of 32 and one of 8, and the small network."""
    model, images, labels = load(folder)
    return {
        "product": (model, in_batches(images, labels, [sizes.batch])),
        "ragged": (model, in_batches(images, labels, [32, 8])),
        "layernorm": layer_norm_network(),
    }


def direction(model: nn.Module) -> Tensor:
    """Return the unit vector that products are taken with; float32."""
    count = sum(p.numel() for p in model.parameters())
    v = torch.randn(count, generator=torch.Generator().manual_seed(1))
    return v / v.norm()


def flat(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Return the entries of all tensors in one vector."""
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def unflat(v: Tensor, model: nn.Module) -> list[Tensor]:
    """Return the pieces of a vector, shaped as the model's parameters."""
    params = list(model.parameters())
    pieces = v.split([p.numel() for p in params])
    return [piece.view_as(p) for piece, p in zip(pieces, params, strict=True)]


def gradient(model: nn.Module, loss: nn.Module, batches: Batches) -> Tensor:
    """Return the gradient of the mean over all samples, batch by batch."""
    params, total = list(model.parameters()), sum(len(y) for _, y in batches)
    parts = [flat(torch.autograd.grad(loss(model(x), y), params)) * (len(y) / total) for x, y in batches]
    return torch.stack(parts).sum(0)
