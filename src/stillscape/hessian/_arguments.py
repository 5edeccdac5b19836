"""Checks of tensors at the public door: shape, dtype, device and finiteness, each message naming the argument."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from stillscape._errors import InputError

FLOATS = (torch.float32, torch.float64)


def real_tensor(name: str, value: object, shape: tuple[int | None, ...], like: Tensor | None = None) -> Tensor:
    """Return `value` if it is a finite float tensor of `shape` (None: any length) that fits `like`, else raise."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is a {type(value).__name__}; it must be a torch.Tensor.")
    if value.dtype not in FLOATS:
        raise InputError(f"{name} has dtype {value.dtype}; it must be torch.float32 or torch.float64.")
    fitting(name, value, shape, like)
    if not torch.isfinite(value).all():
        raise InputError(f"{name} holds NaN or infinity; every entry must be finite.")
    return value.detach()


def fitting(name: str, value: Tensor, shape: tuple[int | None, ...], like: Tensor | None = None) -> Tensor:
    """Return a tensor if it has that shape (None: any length), and the dtype and device of `like`, else raise."""
    _shaped(name, value, shape)
    if like is not None and value.dtype != like.dtype:
        raise InputError(f"{name} has dtype {value.dtype} and the input has {like.dtype}; convert one with .to().")
    if like is not None and value.device != like.device:
        raise InputError(f"{name} is on {value.device} and the input on {like.device}; move one with .to().")
    return value


def class_labels(labels: object, shape: tuple[int, ...], classes: int) -> Tensor:
    """Return `labels` if they are whole numbers in 0..classes-1 of `shape`, else raise."""
    if not isinstance(labels, Tensor) or labels.dtype.is_floating_point or labels.dtype.is_complex:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(f"labels are {got}; they must be a tensor of whole numbers, such as torch.int64.")
    _shaped("labels", labels, shape)
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise InputError(
            f"labels run from {int(labels.min())} to {int(labels.max())}; W_h has {classes} columns, "
            f"so they must lie in 0..{classes - 1}."
        )
    return labels.detach().long()


def attention_mask(mask: object, X: Tensor) -> Tensor | None:
    """Return `mask` as (1 or n, L, L) booleans, True = may attend, or None; anything else raises."""
    if mask is None:
        return None
    samples, tokens = X.shape[:2]
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(f"mask is {got}; it must be a boolean tensor, True where a token may attend.")
    if mask.shape not in ((tokens, tokens), (samples, tokens, tokens)):
        raise InputError(
            f"mask has shape {tuple(mask.shape)}; it must be ({tokens}, {tokens}) or ({samples}, {tokens}, {tokens})."
        )
    if mask.device != X.device:
        raise InputError(f"mask is on {mask.device} and X on {X.device}; move one with .to().")
    return mask.reshape(-1, tokens, tokens)


def loss_on(loss: object, samples: int) -> None:
    """Raise unless `loss` is an object with `expand` and `take`, of as many samples where it says how many."""
    offers = all(callable(getattr(loss, name, None)) for name in ("expand", "take"))
    if isinstance(loss, type | Tensor) or not offers:  # a tensor has methods of these names, too
        got = f"the class {loss.__name__}" if isinstance(loss, type) else f"a {type(loss).__name__}"
        raise InputError(f"loss is {got}; it must be an MSE, a CrossEntropy or an OutputLoss, made with its data.")
    for name in ("target", "labels", "gradient"):
        held = getattr(loss, name, None)
        if isinstance(held, Tensor) and len(held) != samples:
            raise InputError(f"{name} has {len(held)} samples and the input {samples}; they must be as many.")


def flag(name: str, value: object) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; it must be True or False.")


def known_keys(name: str, given: Mapping[str, object], needed: Collection[str], optional: Collection[str] = ()) -> None:
    """Raise unless the mapping holds every needed key and nothing beyond the optional ones."""
    if not isinstance(given, Mapping):
        raise InputError(f"{name} is a {type(given).__name__}; it must be a dict of tensors.")
    missing = [key for key in needed if key not in given]
    extra = [key for key in given if key not in (*needed, *optional)]
    if missing or extra:
        said = [f"lacks {', '.join(missing)}"] if missing else []
        said += [f"has the unknown {', '.join(map(str, extra))}"] if extra else []
        raise InputError(f"{name} {' and '.join(said)}; it takes {', '.join([*needed, *optional])}.")


def _shaped(name: str, value: Tensor, shape: tuple[int | None, ...]) -> None:
    fits = value.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, value.shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise InputError(f"{name} has shape {tuple(value.shape)}; it must be ({wanted}).")
    if value.numel() == 0:
        raise InputError(f"{name} is empty: its shape is {tuple(value.shape)}. Every axis needs at least one entry.")
