"""Small random checkpoints of several architectures, written to a folder as a user's would be."""

import contextlib
import functools
import tempfile
from pathlib import Path

import torch
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)
from transformers.utils import logging

from stillscape.models import Pretrained, load_pretrained

SIDE = 32
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": SIDE,
    "patch_size": 8,
    # Far from the usual 0.02, so that tokens differ and a wrong token or norm is seen.
    "initializer_range": 0.2,
}
DINO = {key: value for key, value in SHAPE.items() if key != "intermediate_size"}

MAKERS = {
    "vit": lambda: ViTForImageClassification(ViTConfig(**SHAPE)),
    "vit-dropout": lambda: ViTForImageClassification(
        ViTConfig(**SHAPE, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    ),
    "vit-backbone": lambda: ViTModel(ViTConfig(**SHAPE)),
    "deit": lambda: DeiTForImageClassification(DeiTConfig(**SHAPE)),
    "deit-distilled": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**SHAPE)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**DINO)),
    "beit": lambda: BeitForImageClassification(
        BeitConfig(**SHAPE, use_relative_position_bias=True, vocab_size=8, layer_scale_init_value=1.0)
    ),
    "swin": lambda: SwinForImageClassification(
        SwinConfig(
            image_size=SIDE, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=4,
            initializer_range=0.2, drop_path_rate=0.0,
        )
    ),
    "resnet": lambda: ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ),
}  # fmt: skip


@contextlib.contextmanager
def quiet():
    """Without progress bars, and with the global random state put back."""
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(0).get_state())
        yield
    logging.enable_progress_bar()


def write(kind: str, folder: Path, side: int = SIDE, **save) -> Path:
    with quiet():
        MAKERS[kind]().save_pretrained(folder, **save)
        ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return folder


def pixels(n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@functools.cache
def pretrained(kind: str) -> Pretrained:
    """Load a small checkpoint; made once for all tests, none of which may change it."""
    with tempfile.TemporaryDirectory() as folder:
        return load_pretrained(str(write(kind, Path(folder))))
