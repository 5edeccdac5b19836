"""Groups of parameters by what their names say: the blocks in which transformers' Hessians are discussed."""

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from stillscape._errors import InputError

GROUPINGS = ("kind", "layer", "parameter")
#: What a part of a name tells, the first that fits; in the spellings of PyTorch, Hugging Face and timm. The order is
#: part of the rules: a classifier's out_proj is no attention's, and a pooler's LayerNorm is a LayerNorm.
KINDS: tuple[tuple[str, str], ...] = (
    ("LoRA A", r"lora_A"),
    ("LoRA B", r"lora_B"),
    ("LayerNorm", r"(lay(er|r)_?norm|(\b|_)norm|\bln_?)"),  # CLIP has a pre_layrnorm
    ("head", r"(class(ifier|ification_head)|lm_head|qa_outputs|\bcls\.|pooler|(visual|text)_projection|embed_out)"),
    ("query, key, value", r"(in_proj|qkv|c_attn|query_key_value)"),
    ("query", r"(q_proj|(\b|_)query|\bq_lin|\bto_q|\bq\b|q_bias)"),
    ("key", r"(k_proj|(\b|_)key|\bk_lin|\bto_k|\bk\b|bias_k)"),
    ("value", r"(v_proj|(\b|_)value|\bv_lin|\bto_v|\bv\b|v_bias|bias_v)"),
    (
        "attention output",
        r"(out_proj|o_proj|out_lin|attention\.(output|dense)|attn\.(proj|dense|c_proj)|self_attn\.out|\bo\b)",
    ),
    (
        "feed-forward",
        r"(\bfc[12]|\bmlp|intermediate|output\.dense|linear[12]|feed_?forward|\bffn|\blin[12]|\bw[io](_\d)?\b)",
    ),
    ("embedding", r"(embed|cls_token|position|relative_attention_bias|\bwte|\bwpe|\bshared\b)"),
    ("head", r"(\bhead|\bscore|\bfc\b)"),
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
