"""A second device without hardware: tensors that lie "on a board", and that nothing on the CPU may touch unasked.

PyTorch lets a Python backend stand in for a device. Every operation on the board is done on the CPU by the same kernel,
so that a run there must give the same numbers to the last bit; an operation that mixes the two devices, or takes a
tensor of the board for an array, raises as it does on a GPU.

Run by itself (`python -m tests.experiments.board IMAGES MODEL OUT`) it measures a small plan on both, and prints where
the two results differ; in a process of its own, since a device that is registered stays.
"""

import copy
import json
import sys
from pathlib import Path

import torch
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from stillscape.experiments import probe, run
from stillscape.training import directional_slopes
from tests.experiments.small import Said, small_plan

NAME = "board"
aten = torch.ops.aten


class OnBoard(torch.Tensor):
    """A tensor of the board, which wraps the one that is computed with."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw):
        how = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype}
        wrapped = torch.Tensor._make_wrapper_subclass(cls, raw.size(), device=f"{NAME}:0", **how)
        wrapped.raw = raw
        return wrapped

    @classmethod
    def __torch_dispatch__(cls, operation, _types, args=(), kwargs=None):
        return computed(operation, args, dict(kwargs or {}))

    def data_ptr(self):
        """Return what tells this tensor from others; it has no memory of its own."""
        return self.raw.data_ptr()

    def tolist(self):
        """Return the numbers; a device with memory of its own would copy them."""
        return self.raw.tolist()

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copied = OnBoard(self.raw.detach().clone())
            is_parameter = getattr(self, "_is_param", False)
            memo[id(self)] = torch.nn.Parameter(copied, self.requires_grad) if is_parameter else copied
        return memo[id(self)]


def _told_apart(address):
    """Return the method with an answer for storages of wrapped tensors, which have no address."""

    def data_ptr(storage):
        try:
            return address(storage)
        except RuntimeError:
            return storage._cdata

    return data_ptr


def computed(operation, args, kwargs):
    """Do one operation on what is wrapped, and wrap what comes of it if it lies on the board."""
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    there = any(isinstance(tensor, OnBoard) for tensor in tensors)
    wanted = kwargs.get("device")
    if wanted is not None:
        there, kwargs["device"] = torch.device(wanted).type == NAME, "cpu"
    elif operation is not aten.copy_.default:
        strangers = [tensor for tensor in tensors if there and not isinstance(tensor, OnBoard) and tensor.dim()]
        if strangers and "index" not in str(operation):  # as on a GPU, where an index may lie on the CPU
            raise RuntimeError(f"{operation}: tensors on {NAME} and on the CPU, of shape {tuple(strangers[0].shape)}")
    plain, named = tree_map(lambda leaf: leaf.raw if isinstance(leaf, OnBoard) else leaf, (args, kwargs))
    found = operation(*plain, **named)
    if operation._schema.name.endswith("_"):  # in place
        return args[0] if operation._schema.returns else None
    if not there:
        return found
    return tree_map(lambda leaf: OnBoard(leaf) if isinstance(leaf, torch.Tensor) else leaf, found)


def register():
    """Make the device known to this process, and return what must be kept alive."""
    _setup_privateuseone_for_python_backend(NAME)
    torch.UntypedStorage.data_ptr = _told_apart(torch.UntypedStorage.data_ptr)
    library = torch.library.Library("aten", "IMPL")

    def made(operation):
        return lambda *args, **kwargs: OnBoard(operation(*args, **{**kwargs, "device": "cpu"}))

    library.impl("empty.memory_format", made(aten.empty.memory_format), "PrivateUse1")
    library.impl("_efficientzerotensor", made(aten.zeros.default), "PrivateUse1")
    library.impl("empty_strided", made(aten.empty_strided.default), "PrivateUse1")
    return library


def slopes_on_the_cpu(suffix, *where):
    """Return them by a copy of the model: PyTorch's forward mode doesn't go through devices made in Python."""
    return directional_slopes(on_cpu(suffix), *where)


def on_cpu(suffix):
    """Return a copy of a model whose tensors are those that the board wraps."""
    copied = copy.deepcopy(suffix)
    for module in copied.modules():
        for kept in (module._parameters, module._buffers):
            for name, tensor in kept.items():
                if isinstance(tensor, OnBoard):
                    plain = tensor.raw
                    kept[name] = (
                        torch.nn.Parameter(plain, tensor.requires_grad) if kept is module._parameters else plain
                    )
    return copied


def differences(one, other, place=""):
    """Return where two results differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        return [d for key in keys for d in differences(one.get(key), other.get(key), f"{place}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, pair in pairs for d in differences(*pair, f"{place}/{i}")]
    return [] if one == other else [f"{place}: {one!r} and {other!r}"]


def main(photos, model, out):
    """Measure on both devices, and print what differs and what was computed with."""
    kept = register()
    asked = {"adapt": ["head", "last-layers:1", "lora:2"], "curvature": 4, "surface": 4, "surface_points": 3,
             "evidence": True, "repeats": 1}  # fmt: skip
    plan, said = small_plan(photos, model, **asked), Said()
    here = run(plan, Path(out) / "cpu")
    probe.directional_slopes = slopes_on_the_cpu
    there = run(plan.model_copy(update={"device": NAME}), Path(out) / NAME, progress=said)
    print(json.dumps({"different": differences(here, there)[:20], "said": said.lines}))
    del kept


if __name__ == "__main__":
    main(*sys.argv[1:])
