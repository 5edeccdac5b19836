"""Split an adapted model into a frozen prefix, whose output can be cached, and the suffix that is trained."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from PIL import Image
from torch import Tensor, nn

from stillscape._errors import InputError
from stillscape.models.adapt import Adaptation
from stillscape.models.architecture import (
    Call,
    call_order,
    entered_before,
    entered_from,
    find_blocks,
    input_of,
    is_within,
)
from stillscape.models.lora import add_lora
from stillscape.models.pixels import pixel_values
from stillscape.models.pretrained import Pretrained
from stillscape.models.suffix import Tail, WholeModel

TOLERANCE = 1e-4


@dataclass
class Split:
    """An adapted model in two parts.

    Attributes:
        encode: frozen prefix, from a batch of pixel values to the batch of activations to cache; None where the
            suffix takes pixel values itself.
        suffix: from activations to class scores (n, C); `requires_grad` is set on exactly what is trained.
        boundary: where the two meet, for the cache's key: "pixels", "classifier input", "before block 11" (blocks
            are counted from 0).
    """

    encode: Callable[[Tensor], Tensor] | None
    suffix: nn.Module
    boundary: str


def split_model(pretrained: Pretrained, adaptation: Adaptation, num_labels: int, seed: int) -> Split:
    """Build a model with a fresh classifier, adapted, and split where its frozen part ends.

    The parts of an architecture are found by running it once; then suffix(encode(x)) is compared with the whole model
    on two random inputs, and where they differ by more than 1e-4 of the largest score, the suffix is the whole model,
    with its prefix run anew each time: the same numbers, only slower. What was found is kept with `pretrained`, so
    that later calls copy the trained weights and no others.

    Args:
        pretrained: from `load_pretrained`.
        adaptation: what is trained.
        num_labels: number of classes, at least 2.
        seed: of the classifier and of LoRA's start; the global random state is neither used nor changed.

    Raises:
        InputError: the architecture has no transformer blocks, or fewer than asked for; or the processor's image size
            isn't the model's.

    Cost: the first call for an adaptation runs the model about five times on two images; later ones run nothing.
    """
    layout = pretrained.findings.get(str(adaptation))
    if not isinstance(layout, _Layout):
        layout = _explore(pretrained, adaptation)
        pretrained.findings[str(adaptation)] = layout
    encode = None if layout.cut is None else partial(input_of, pretrained.backbone, layout.cut)
    return Split(encode, _build(pretrained, layout, num_labels, seed), layout.boundary)


@dataclass(frozen=True)
class _Layout:
    """How to build the suffix: all that doesn't depend on the seed and the number of classes."""

    boundary: str = "pixels"
    cut: str | None = None  # the module whose input is cached
    trained: tuple[str, ...] = ()  # names of parameters, the classifier's included
    active: tuple[str, ...] = ("",)
    rank: int = 0
    blocks: tuple[str, ...] = ()
    count: int = 0
    skipped: tuple[str, ...] = ()
    image_shape: tuple[int, ...] = ()
    class_token: bool = False


def _build(pretrained: Pretrained, layout: _Layout, num_labels: int, seed: int) -> nn.Module:
    if layout.cut in pretrained.classifiers:
        return pretrained.fresh_classifiers(num_labels, seed)[layout.cut].eval()
    model = pretrained.share(num_labels, seed, layout.trained)
    if layout.rank:
        add_lora(model, layout.rank, seed)
        for name in pretrained.classifiers:  # peft froze it
            model.get_submodule(name).requires_grad_(True)
    if layout.cut is None:
        return WholeModel(model, layout.active).eval()
    args = (layout.skipped, layout.blocks, layout.count, layout.image_shape, layout.class_token)
    return Tail(model, *args).eval()


def _explore(pretrained: Pretrained, adaptation: Adaptation) -> _Layout:
    """Choose the fastest layout that gives the whole model's scores."""
    shape, calls = _run_once(pretrained)
    whole, *faster = _layouts(pretrained, adaptation, shape, calls)
    pixels = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(pretrained.device)
    reference = _build(pretrained, whole, 2, 0)
    with torch.enable_grad():  # the caller may be measuring
        scores = reference(pixels)
        scores.square().sum().backward()
    # Parameters that take no part (mask tokens, unused poolers) have no gradient and must not count as trained.
    used = {name.removeprefix("model.") for name, p in reference.named_parameters() if p.grad is not None}
    for layout in reversed(faster):
        layout = replace(layout, trained=tuple(name for name in layout.trained if name in used))
        if _agrees(pretrained, layout, pixels, scores.detach()):
            return layout
    return replace(whole, trained=tuple(name for name in whole.trained if name in used))


def _run_once(pretrained: Pretrained) -> tuple[tuple[int, ...], list[Call]]:
    blank = pixel_values(pretrained.processor, [Image.new("RGB", (64, 64))])
    shape = tuple(blank.shape[1:])
    try:
        return shape, call_order(pretrained.backbone, blank.to(pretrained.device))
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"model is {pretrained.name!r}; its image processor gives {' x '.join(map(str, shape))} pixels, which the "
            f"model refuses ({str(error).strip().splitlines()[0]}). Mend the size in preprocessor_config.json."
        ) from error


def _layouts(
    pretrained: Pretrained, adaptation: Adaptation, shape: tuple[int, ...], calls: list[Call]
) -> Iterator[_Layout]:
    """Layouts for an adaptation, the whole model first, then ever faster ones that may not fit."""
    names = [name for name, _ in pretrained.backbone.named_parameters()]
    heads = pretrained.classifiers
    if adaptation.kind == "full":
        yield _Layout(trained=tuple(names))
    elif adaptation.kind == "lora":
        yield _Layout(trained=_inside(names, heads), rank=adaptation.amount or 1)
    elif adaptation.kind == "head":
        whole = _Layout("pixels, prefix not cached", trained=_inside(names, heads), active=heads)
        yield whole
        yield replace(whole, boundary="classifier input", cut=heads[0])
    else:
        yield from _last_layers(pretrained, adaptation, names, shape, calls)


def _last_layers(
    pretrained: Pretrained, adaptation: Adaptation, names: list[str], shape: tuple[int, ...], calls: list[Call]
) -> Iterator[_Layout]:
    lists = find_blocks(pretrained.backbone)
    blocks = tuple(name for part in lists for name in part)
    count = adaptation.amount or 1
    if count > len(blocks):
        what = f"has {len(blocks)} transformer blocks" if blocks else "has no transformer blocks; use head or full"
        raise InputError(f"adapt is '{adaptation}', but model {pretrained.name!r} {what}.")
    first = blocks[-count]
    active = tuple(entered_from(calls, first))
    whole = _Layout("pixels, prefix not cached", trained=_inside(names, active), active=active)
    yield whole
    if len(lists) > 1:
        return
    boundary = f"before block {len(blocks) - count}"
    skipped = tuple(entered_before(calls, blocks[0]))
    tail = replace(whole, boundary=boundary, cut=first, blocks=blocks, count=count, skipped=skipped, image_shape=shape)
    yield tail
    # With more blocks than one, the others still need every token; the last one alone is cut short.
    yield replace(tail, class_token=True)


def _inside(names: list[str], modules: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if any(is_within(name, module) for module in modules))


def _agrees(pretrained: Pretrained, layout: _Layout, pixels: Tensor, scores: Tensor) -> bool:
    """Whether a layout gives the whole model's scores; one that can't even be built or run does not."""
    assert layout.cut is not None
    try:
        with torch.no_grad():
            suffix = _build(pretrained, layout, scores.shape[1], 0)
            found = suffix(input_of(pretrained.backbone, layout.cut, pixels))
    except Exception:  # whatever an unknown architecture raises, the whole model remains
        return False
    if found.shape != scores.shape:
        return False
    # Written so that NaN counts as a difference.
    return bool((found - scores).abs().max() <= TOLERANCE * scores.abs().max())
