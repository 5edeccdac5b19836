"""The last block of a model whose classifier reads the class token alone: one query instead of one for every token."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_PARTS = {"attention", "layernorm_before", "layernorm_after", "mlp", "dropout"}
_PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj"}


class ClassTokenBlock(nn.Module):
    """A pre-norm transformer block, evaluated for token 0 alone, on the given block's own submodules.

    With one query q for each head, keys and values need not be formed:

        q' k_j = (W_K' q)' x_j + q' b_K        and        sum_j a_j v_j = W_V (sum_j a_j x_j) + b_V sum_j a_j

    so a head costs 2 d multiplications a token where keys and values together cost 2 d d_K. Only the last block of a
    model may be replaced so, and only if nothing after it reads another token.

    Args:
        block: a block of the form x + attention(norm(x)), then y + mlp(norm(y)); see `of`.

    Cost: tokens * heads * d for attention and one token's projections and MLP, for each image.
    """

    attention: Any  # Hugging Face's own class, one for each architecture
    layernorm_before: nn.Module
    layernorm_after: nn.Module
    mlp: nn.Module
    dropout: nn.Module

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, part in block.named_children():
            self.add_module(name, part)

    @classmethod
    def of(cls, block: nn.Module) -> Self:
        """Make one from a block that has the parts this class knows and no others.

        Raises:
            TypeError: any other block.
        """
        parts = dict(block.named_children())
        attention = parts.get("attention", block)
        known = (
            parts.keys() == _PARTS
            and not list(block.parameters(recurse=False))
            and dict(attention.named_children()).keys() == _PROJECTIONS
        )
        if not known:
            raise TypeError(f"{type(block).__name__} has other parts than a plain pre-norm block")
        return cls(block)

    def forward(
        self, hidden_states: Float[Tensor, "n tokens d"], attention_mask: Tensor | None = None, **_: object
    ) -> Float[Tensor, "n 1 d"]:
        """Token 0 after the block."""
        if attention_mask is not None:
            raise NotImplementedError("ClassTokenBlock takes no attention mask")
        attended = self._attend(self.layernorm_before(hidden_states))
        token = hidden_states[:, :1] + self.dropout(attended)
        return token + self.dropout(self.mlp(self.layernorm_after(token)))

    def _attend(self, x: Float[Tensor, "n tokens d"]) -> Float[Tensor, "n 1 d"]:
        part = self.attention
        heads = part.num_attention_heads
        query = part.q_proj(x[:, 0]).unflatten(-1, (heads, -1))
        key_weight = part.k_proj.weight.unflatten(0, (heads, -1))
        value_weight = part.v_proj.weight.unflatten(0, (heads, -1))
        scores = torch.einsum("nhk,hkd->nhd", query, key_weight) @ x.transpose(1, 2)
        if part.k_proj.bias is not None:
            # The same for every token, so softmax drops it; kept so that the bias stays part of the graph.
            scores = scores + (query * part.k_proj.bias.unflatten(0, (heads, -1))).sum(-1, keepdim=True)
        weights = F.dropout(torch.softmax(scores * part.scaling, dim=-1), part.attention_dropout, self.training)
        mixed = torch.einsum("nhd,hkd->nhk", weights @ x, value_weight)
        if part.v_proj.bias is not None:
            # Dropout of attention weights changes their sum, which would otherwise be 1.
            mixed = mixed + weights.sum(-1, keepdim=True) * part.v_proj.bias.unflatten(0, (heads, -1))
        return part.o_proj(mixed.flatten(1)).unsqueeze(1)
