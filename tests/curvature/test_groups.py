"""Kinds of parameters in models as transformers builds them: every name, against what each model's code says it is."""

from fnmatch import fnmatchcase

import pytest
import torch
import transformers as hub

from stillscape.curvature.groups import group_names, kind_of

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TEXT = SMALL | {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
IMAGE = SMALL | {"image_size": 8, "patch_size": 4}
SEPARATE = {"query": "*.q_proj.*", "key": "*.k_proj.*", "value": "*.v_proj.*"}
BERT = {
    "query": "*.self.query.*",
    "key": "*.self.key.*",
    "value": "*.self.value.*",
    "attention output": "*.attention.output.dense.*",
    "feed-forward": "*.layer.0.intermediate.dense.* *.layer.0.output.dense.*",
    "LayerNorm": "*.LayerNorm.*",
    "embedding": "*_embeddings.weight",
}
BART = SEPARATE | {
    "attention output": "*attn.out_proj.*",
    "feed-forward": "*.fc1.* *.fc2.*",
    "LayerNorm": "*_layer_norm.* *.layernorm_embedding.*",
    "embedding": "model.shared.* *.embed_positions.*",
    "head": "classification_head.*",
}
CLIP = SEPARATE | {
    "attention output": "*.out_proj.*",
    "feed-forward": "*.fc1.* *.fc2.*",
    "LayerNorm": "*.layer_norm?.* *.pre_layrnorm.* *.post_layernorm.* *.final_layer_norm.*",
    "embedding": "*.embeddings.*",
    "head": "visual_projection.* text_projection.*",
    "other": "logit_scale",  # a temperature
}
T5 = {
    "query": "*.q.*",
    "key": "*.k.*",
    "value": "*.v.*",
    "attention output": "*.o.*",
    "feed-forward": "*.wi.* *.wi_0.* *.wi_1.* *.wo.*",
    "LayerNorm": "*layer_norm.*",
    "embedding": "*shared.* *.relative_attention_bias.*",
    "head": "lm_head.* classification_head.*",
}
VIT = SEPARATE | {
    "attention output": "*.o_proj.*",
    "feed-forward": "*.fc1.* *.fc2.*",
    "LayerNorm": "*layernorm*",
    "embedding": "*embeddings.*",
    "head": "classifier.* pooler.dense.*",
}


def t5(kind, **changes):
    config = {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return lambda: kind(hub.T5Config(**config, **changes))


def clip():
    parts = {"text_config": TEXT, "vision_config": IMAGE}
    return hub.CLIPModel(hub.CLIPConfig(**parts, projection_dim=8))


def bart():
    sides = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in
             (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))}  # fmt: skip
    return hub.BartForSequenceClassification(hub.BartConfig(vocab_size=20, d_model=8, pad_token_id=1, **sides))


MODELS = {
    "bert": (
        lambda: hub.BertForSequenceClassification(hub.BertConfig(**TEXT)),
        BERT | {"head": "bert.pooler.dense.* classifier.*"},
    ),
    "bert, masked": (
        lambda: hub.BertForMaskedLM(hub.BertConfig(**TEXT)),
        BERT | {"head": "cls.predictions.bias cls.predictions.transform.dense.*"},
    ),
    "roberta": (
        lambda: hub.RobertaForSequenceClassification(hub.RobertaConfig(**TEXT)),
        BERT | {"head": "classifier.dense.* classifier.out_proj.*"},
    ),
    "deberta": (
        lambda: hub.DebertaV2ForSequenceClassification(
            hub.DebertaV2Config(
                **TEXT, relative_attention=True, position_buckets=4, pos_att_type=["c2p", "p2c"], share_att_key=False
            )
        ),
        BERT
        | {"query": "*query_proj.*", "key": "*key_proj.*", "value": "*value_proj.*"}
        | {"head": "pooler.dense.* classifier.*"},
    ),
    "distilbert": (
        lambda: hub.DistilBertForSequenceClassification(
            hub.DistilBertConfig(vocab_size=20, dim=8, n_layers=1, n_heads=2, hidden_dim=16)
        ),
        {
            "query": "*.q_lin.*",
            "key": "*.k_lin.*",
            "value": "*.v_lin.*",
            "attention output": "*.out_lin.*",
            "feed-forward": "*.lin?.*",
            "LayerNorm": "*_layer_norm.* *.LayerNorm.*",
            "embedding": "*_embeddings.weight",
            "head": "pre_classifier.* classifier.*",
        },
    ),
    "bart": (bart, BART),
    "clip": (clip, CLIP),
    "t5": (t5(hub.T5ForConditionalGeneration), T5),
    "t5, gated": (t5(hub.T5ForConditionalGeneration, feed_forward_proj="gated-gelu", tie_word_embeddings=False), T5),
    "t5, classifier": (t5(hub.T5ForSequenceClassification), T5),
    "gpt2": (
        lambda: hub.GPT2ForSequenceClassification(hub.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2)),
        {
            "query, key, value": "*.c_attn.*",
            "attention output": "*.attn.c_proj.*",
            "feed-forward": "*.mlp.*",
            "LayerNorm": "*.ln_?.*",
            "embedding": "*.wte.* *.wpe.*",
            "head": "score.*",
        },
    ),
    "gpt-neox": (
        lambda: hub.GPTNeoXForCausalLM(hub.GPTNeoXConfig(**TEXT)),
        {
            "query, key, value": "*.query_key_value.*",
            "attention output": "*.attention.dense.*",
            "feed-forward": "*.mlp.*",
            "LayerNorm": "*layernorm.* *layer_norm.*",
            "embedding": "*.embed_in.*",
            "head": "lm_head.*",
        },
    ),
    "qwen": (
        lambda: hub.Qwen3ForCausalLM(hub.Qwen3Config(**TEXT, num_key_value_heads=2, head_dim=4)),
        SEPARATE
        | {
            "attention output": "*.o_proj.*",
            "feed-forward": "*.mlp.*",
            "LayerNorm": "*layernorm.* *_norm.* model.norm.*",  # RMSNorm, also of queries and keys
            "embedding": "*.embed_tokens.*",
            "head": "lm_head.*",
        },
    ),
    "vit": (lambda: hub.ViTForImageClassification(hub.ViTConfig(**IMAGE)), VIT),
    "vit, pooled": (lambda: hub.ViTModel(hub.ViTConfig(**IMAGE)), VIT),
}


def expected(name, table):
    """Return the one kind whose patterns fit."""
    found = [kind for kind, patterns in table.items() if any(fnmatchcase(name, p) for p in patterns.split())]
    assert len(found) == 1, f"{name} is {found} by the table of this test"
    return found[0]


@pytest.mark.parametrize("model", MODELS)
def test_every_name_of_a_real_model(model):
    build, table = MODELS[model]
    with torch.random.fork_rng(devices=[]):
        names = [name for name, _ in build().named_parameters()]
    wrong = {name: kind_of(name) for name in names if kind_of(name) != expected(name, table)}
    assert not wrong
    assert len(set(map(kind_of, names))) >= 6
    assert sum(map(len, group_names(names, None, "kind").values())) == len(names)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("blocks.0.attn.qkv.weight", "query, key, value"),  # timm
        ("blocks.0.attn.proj.bias", "attention output"),
        ("blocks.0.attn.q_norm.weight", "LayerNorm"),
        ("blocks.0.ls1.gamma", "other"),
        ("patch_embed.proj.weight", "embedding"),
        ("layers.0.self_attn.in_proj_weight", "query, key, value"),  # PyTorch
        ("layers.0.self_attn.bias_k", "key"),
        ("layers.0.linear2.weight", "feed-forward"),
        ("fc.weight", "head"),
        ("scale", "other"),
    ],
)
def test_other_spellings(name, kind):
    assert kind_of(name) == kind
