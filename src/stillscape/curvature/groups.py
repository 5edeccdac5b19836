"""Groups of parameters by what their names say: the blocks in which transformers' Hessians are discussed."""

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from stillscape._errors import InputError

GROUPINGS = ("kind", "layer", "parameter")
#: What a part of a name tells, the first that fits; in the spellings of PyTorch, Hugging Face and timm.
KINDS: tuple[tuple[str, str], ...] = (
    ("LoRA A", r"lora_A"),
    ("LoRA B", r"lora_B"),
    ("LayerNorm", r"(layer_?norm|\bnorm|\bln_?)"),
    ("query, key, value", r"(in_proj|qkv|c_attn)"),
    ("query", r"(q_proj|\bquery|\bq_lin|\bto_q|\bq\b)"),
    ("key", r"(k_proj|\bkey|\bk_lin|\bto_k|\bk\b)"),
    ("value", r"(v_proj|\bvalue|\bv_lin|\bto_v|\bv\b)"),
    ("attention output", r"(out_proj|o_proj|out_lin|attention\.output|attn\.proj|attn\.c_proj|self_attn\.out)"),
    ("feed-forward", r"(\bfc[12]|\bmlp|intermediate|output\.dense|linear[12]|feed_?forward|\bffn|\blin[12])"),
    ("embedding", r"(embed|cls_token|position|\bwte|\bwpe)"),
    ("head", r"(classifier|\bhead|lm_head|\bscore|\bfc\b)"),
)
_LAYER = re.compile(r"^(.*?\b(?:layers?|blocks?|h|encoder|resblocks)\.(?:layers?\.)?\d+)\b")


def kind_of(name: str) -> str:
    """Return what a parameter is for, told by its name.

    >>> [kind_of(n) for n in ("vit.layers.0.attention.q_proj.weight", "blocks.3.mlp.fc1.bias", "scale")]
    ['query', 'feed-forward', 'other']
    """
    return next((kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE)), "other")


def layer_of(name: str) -> str:
    """Return the numbered layer that a parameter belongs to, or what it is for where it belongs to none.

    >>> [layer_of(n) for n in ("vit.layers.0.attention.q_proj.weight", "classifier.bias")]
    ['vit.layers.0', 'head']
    """
    found = _LAYER.match(name)
    return found.group(1) if found else kind_of(name)


_TELL: dict[str, Callable[[str], str]] = {"kind": kind_of, "layer": layer_of, "parameter": str}


def group_names(
    names: Sequence[str], groups: Mapping[str, str | Sequence[str]] | None, by: str
) -> dict[str, list[str]]:
    """Return the parameters of each group, groups in the order of their first parameter.

    Raises:
        InputError: if a pattern fits no parameter.
    """
    members: dict[str, list[str]] = {}
    if groups is None:
        for name in names:
            members.setdefault(_TELL[by](name), []).append(name)
        return members
    patterns = [(group, p) for group, given in groups.items() for p in ([given] if isinstance(given, str) else given)]
    for group, pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(f"groups[{group!r}] holds {pattern!r}, which fits no parameter; it is a pattern of names.")
    for name in names:
        group = next((group for group, pattern in patterns if fnmatchcase(name, pattern)), "other")
        members.setdefault(group, []).append(name)
    return members
