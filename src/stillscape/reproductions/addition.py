"""Sums of numbers written digit by digit, and the small transformers that Ormaniec et al. (2024) read them with."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

PLUS, EQUALS, VOCABULARY = 10, 11, 12


def addition(count: int, digits: int, generator: torch.Generator) -> Int[Tensor, "count tokens"]:
    """Return lines "a + b = c" as tokens: digits, the longest place first, PLUS, EQUALS, and one digit more for c.

    >>> addition(2, 2, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 9])
    """
    top = 10**digits
    a, b = torch.randint(top, (2, count), generator=generator)

    def written(numbers: Tensor, places: int) -> Tensor:
        return torch.stack([numbers // 10**place % 10 for place in reversed(range(places))], 1)

    def mark(token: int) -> Tensor:
        return torch.full((count, 1), token)

    return torch.cat([written(a, digits), mark(PLUS), written(b, digits), mark(EQUALS), written(a + b, digits + 1)], 1)


def answer_loss(logits: Float[Tensor, "one tokens vocabulary"], tokens: Int[Tensor, "one tokens"]) -> Tensor:
    """Return the mean cross-entropy of the digits after EQUALS, each predicted from the tokens before it."""
    start = int((tokens[0] == EQUALS).nonzero()[0])
    return F.cross_entropy(logits[0, start:-1], tokens[0, start + 1 :])


class Layer(nn.Module):
    """One-head causal attention with a residual connection, then a ReLU network with another; LayerNorm before each."""

    def __init__(self, dim: int, width: int, pre_norm: bool, generator: torch.Generator) -> None:
        super().__init__()
        for name in ("W_Q", "W_K", "W_V", "W_O"):
            self.register_parameter(name, normal(dim, dim, generator))
        self.W_1, self.W_2 = normal(dim, width, generator), normal(width, dim, generator)
        self.norms = nn.ModuleList(
            [nn.LayerNorm(dim, dtype=torch.float64) if pre_norm else nn.Identity() for _ in "12"]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens after this layer."""
        inside = self.norms[0](x)
        scores = (inside @ self.W_Q) @ (inside @ self.W_K).transpose(-1, -2) / math.sqrt(x.shape[-1])
        ahead = torch.ones(x.shape[-2], x.shape[-2], dtype=torch.bool).triu(1)
        x = x + scores.masked_fill(ahead, -math.inf).softmax(-1) @ (inside @ self.W_V) @ self.W_O
        return x + (self.norms[1](x) @ self.W_1).relu() @ self.W_2


class Adder(nn.Module):
    """A transformer over embeddings, which are its inputs: (n, tokens, dim) to (n, tokens, vocabulary), in float64."""

    def __init__(self, dim: int, width: int, depth: int, pre_norm: bool, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.Sequential(*(Layer(dim, width, pre_norm, generator) for _ in range(depth)))
        self.last = nn.LayerNorm(dim, dtype=torch.float64) if pre_norm else nn.Identity()
        self.W_U = normal(dim, VOCABULARY, generator)

    def forward(self, embedded: Tensor) -> Tensor:
        """Return class scores of the next token, for every token."""
        return self.last(self.layers(embedded)) @ self.W_U


class LinearAttention(nn.Module):
    """Attention without softmax, A = T, in a chain without residual connections."""

    def __init__(self, dim: int, depth: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weights = nn.ParameterList([normal(dim, dim, generator) for _ in range(3 * depth)])

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens at the end of the chain."""
        for place in range(0, len(self.weights), 3):
            W_Q, W_K, W_V = (self.weights[place + part] for part in range(3))  # a slice would wrap them anew
            x = (x @ W_Q) @ (x @ W_K).transpose(-1, -2) @ x @ W_V / math.sqrt(x.shape[-1])
        return x


def normal(rows: int, columns: int, generator: torch.Generator) -> nn.Parameter:
    """Return a float64 matrix with entries N(0, 1 / rows), so that lengths of inputs are kept."""
    return nn.Parameter(torch.randn(rows, columns, generator=generator, dtype=torch.float64) / math.sqrt(rows))
