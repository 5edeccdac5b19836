"""Small networks with everything that second derivatives go wrong at, and their dense Hessians by double backward."""

import warnings

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

DOUBLE = torch.float64
CLASSES = 4


class Encoder(nn.Module):
    """Two pre-norm blocks of several heads with affine LayerNorm and GELU, mean-pooled; dropout that must be off."""

    def __init__(self, width: int = 8, heads: int = 2, depth: int = 2, features: int = 5) -> None:
        super().__init__()
        self.embed = nn.Linear(features, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.3, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x))).mean(1))


def filled(model: nn.Module, scale: float = 0.5, seed: int = 0) -> nn.Module:
    """Give the model float64 weights large enough that every nonlinearity matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.double().named_parameters():
            ones = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=DOUBLE) + ones)
    return model


def encoder(n: int = 6, **changes) -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 4, changes.get("features", 5), generator=generator, dtype=DOUBLE)
    with torch.random.fork_rng(devices=[]):
        return filled(Encoder(**changes)), x, torch.arange(n) % CLASSES


def hugging_face(n: int = 4, lora: bool = False) -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    """Return a ViT as the hub gives it (attention "sdpa", output a mapping), perhaps with LoRA on its queries."""
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        num_labels=CLASSES, attn_implementation="sdpa", hidden_dropout_prob=0.2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        model: nn.Module = ViTForImageClassification(config)
        if lora:
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft's own
            model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.1))
    pixels = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    return filled(model), {"pixel_values": pixels}, torch.arange(n) % CLASSES


def logits_loss(output, y: Tensor) -> Tensor:
    return F.cross_entropy(output.logits, y)


def dense(loss_of, params: list[Tensor]) -> Tensor:
    """Return the Hessian of a scalar by double backward, all rows at once."""
    first = torch.autograd.grad(loss_of(), params, create_graph=True, materialize_grads=True)
    flat = torch.cat([g.reshape(-1) for g in first])
    eye = torch.eye(len(flat), dtype=flat.dtype)
    rows = torch.autograd.grad(flat, params, grad_outputs=eye, is_grads_batched=True, materialize_grads=True)
    return torch.cat([r.reshape(len(flat), -1) for r in rows], 1).detach()


def dense_outer(logits_of, params: list[Tensor], y: Tensor) -> Tensor:
    """Return J' B J of a cross-entropy by its parts, with one row of the Jacobian after the other."""
    logits = logits_of()[0]
    rows = [torch.autograd.grad(z, params, retain_graph=True, materialize_grads=True) for z in logits]
    jacobian = torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in rows])
    p = torch.softmax(logits.detach(), 0)
    return (jacobian.mT @ (torch.diag(p) - torch.outer(p, p)) @ jacobian).detach()


def all_columns(hv, row: int) -> Tensor:
    """Return H_i from its products with unit vectors."""
    return hv.sample_matmat([row], torch.eye(hv.num_parameters, dtype=hv.dtype))[0].mT
