import copy
import dataclasses
import pickle

import pytest
import torch
from torch.func import functional_call, hessian

from stillscape._errors import InputError
from stillscape.models import load_pretrained, load_trained_state, parse_adaptation, split_model, trained_state
from stillscape.models import split as split_module
from stillscape.models.class_token import ClassTokenBlock
from stillscape.models.suffix import WholeModel
from tests.models.checkpoints import SIDE, pixels, pretrained, write

TRANSFORMERS = ["vit", "vit-backbone", "vit-dropout", "deit", "deit-distilled", "dinov2", "beit", "swin"]
ADAPTATIONS = ["head", "last-layers:1", "last-layers:2", "last-layers:3", "lora:2", "full"]


def make(kind, adaptation, num_labels=5, seed=3):
    return split_model(pretrained(kind), parse_adaptation(adaptation), num_labels, seed)


def scores(split, x):
    return split.suffix(x if split.encode is None else split.encode(x))


def unexplored(loaded):
    return dataclasses.replace(loaded, findings={})


def has_class_token_block(split):
    return any(isinstance(module, ClassTokenBlock) for module in split.suffix.modules())


@pytest.mark.parametrize("kind", TRANSFORMERS)
@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_the_parts_together_are_the_plain_model(kind, adaptation):
    x = pixels(4)
    plain = pretrained(kind).instantiate(5, seed=3).eval()
    with torch.no_grad():
        expected = plain(pixel_values=x).logits
        found = scores(make(kind, adaptation), x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_boundaries(kind):
    boundaries = {name: make(kind, name).boundary for name in ADAPTATIONS}
    slow = "pixels, prefix not cached"
    assert boundaries["lora:2"] == boundaries["full"] == "pixels"
    assert boundaries["head"] == (slow if kind == "deit-distilled" else "classifier input")
    if kind == "swin":
        assert {boundaries[f"last-layers:{n}"] for n in (1, 2, 3)} == {slow}
    else:
        assert [boundaries[f"last-layers:{n}"] for n in (1, 2, 3)] == [f"before block {n}" for n in (2, 1, 0)]


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_class_token_block_only_where_the_classifier_reads_that_token_alone(kind):
    reads_one_token = kind in {"vit", "vit-backbone", "vit-dropout", "deit"}
    assert has_class_token_block(make(kind, "last-layers:1")) == reads_one_token
    assert has_class_token_block(make(kind, "last-layers:2")) == reads_one_token


def gradients(suffix, inputs, y):
    loss = torch.nn.functional.cross_entropy(suffix(inputs), y)
    named = {name: p for name, p in suffix.named_parameters() if p.requires_grad}
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def forced_whole(monkeypatch, kind, adaptation):
    """The slow fallback, as if no faster layout agreed."""
    monkeypatch.setattr(split_module, "_agrees", lambda *_: False)
    return split_model(unexplored(pretrained(kind)), parse_adaptation(adaptation), 5, 3)


@pytest.mark.parametrize("kind", ["vit", "deit", "dinov2", "beit"])
@pytest.mark.parametrize("adaptation", ["last-layers:1", "last-layers:2"])
def test_cached_suffix_has_the_gradients_and_names_of_the_whole_model(monkeypatch, kind, adaptation):
    x, y = pixels(6), torch.arange(6) % 5
    fast = make(kind, adaptation)
    slow = forced_whole(monkeypatch, kind, adaptation)
    assert slow.encode is None
    assert fast.encode is not None
    found, expected = gradients(fast.suffix, fast.encode(x), y), gradients(slow.suffix, x, y)
    assert list(found) == list(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_head_fallback_trains_the_classifier_alone(monkeypatch):
    slow = forced_whole(monkeypatch, "vit", "head")
    assert slow.boundary == "pixels, prefix not cached"
    assert set(trained_state(slow.suffix)) == {"model.classifier.weight", "model.classifier.bias"}


def trained_modules(split):
    return set(trained_state(split.suffix))


def test_what_is_trained_vit():
    head = {"weight", "bias"}
    assert trained_modules(make("vit", "head")) == head
    names = trained_modules(make("vit", "last-layers:1"))
    block = {name for name in names if name.startswith("model.vit.layers.2.")}
    assert len(block) == 16
    assert names - block == {
        "model.vit.layernorm.weight", "model.vit.layernorm.bias", "model.classifier.weight", "model.classifier.bias",
    }  # fmt: skip
    lora = trained_modules(make("vit", "lora:2"))
    assert {name.split(".lora_")[0] for name in lora if "lora" in name} == {
        f"model.vit.layers.{i}.attention.{p}_proj" for i in range(3) for p in "qv"
    }
    assert {name for name in lora if "lora" not in name} == {"model.classifier.weight", "model.classifier.bias"}
    assert len(trained_modules(make("vit", "full"))) == len(list(pretrained("vit").backbone.parameters()))


def test_full_leaves_out_parameters_that_take_no_part():
    every = {name for name, _ in pretrained("dinov2").backbone.named_parameters()}
    trained = {name.removeprefix("model.") for name in trained_modules(make("dinov2", "full"))}
    assert every - trained == {"dinov2.embeddings.mask_token"}


@pytest.mark.parametrize("kind", TRANSFORMERS)
@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_every_trained_parameter_has_a_gradient(kind, adaptation):
    split = make(kind, adaptation)
    x = pixels(2)
    loss = scores(split, x).square().sum()
    trained = [p for p in split.suffix.parameters() if p.requires_grad]
    assert trained
    assert all(g is not None for g in torch.autograd.grad(loss, trained, allow_unused=True))


@pytest.mark.parametrize("kind", ["deit", "dinov2", "beit", "swin"])
def test_lora_finds_query_and_value_of_every_block(kind):
    names = trained_modules(make(kind, "lora:2"))
    blocks = 4 if kind == "swin" else 3
    assert sum("q_proj.lora_A" in name for name in names) == blocks
    assert sum("v_proj.lora_B" in name for name in names) == blocks
    assert sum("classifier" in name for name in names) == 2


def test_lora_scale_is_two():
    split = make("vit", "lora:2")
    layer = split.suffix.model.vit.layers[0].attention.q_proj
    with torch.no_grad():
        layer.lora_B["default"].weight.fill_(0.5)
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    update = 2.0 * 0.5 * (x @ layer.lora_A["default"].weight.T).sum(-1, keepdim=True)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + update.expand(4, 32))


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_seed_decides_and_the_global_state_does_not(adaptation):
    before = torch.get_rng_state()
    first, again, other = (trained_state(make("vit", adaptation, seed=s).suffix) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    if adaptation == "lora:2":
        a = next(name for name in first if "lora_A" in name)
        assert not torch.equal(first[a], other[a])


def test_training_one_split_leaves_all_else_as_it_was():
    loaded = pretrained("vit")
    before = {name: p.clone() for name, p in loaded.backbone.named_parameters()}
    for adaptation in ADAPTATIONS:
        split = make("vit", adaptation)
        with torch.no_grad():
            for p in split.suffix.parameters():
                if p.requires_grad:
                    p.add_(1.0)
    for name, p in loaded.backbone.named_parameters():
        assert torch.equal(p, before[name]), name
        assert not p.requires_grad, name


def test_frozen_weights_are_shared_not_copied():
    loaded = pretrained("vit")
    split = make("vit", "lora:2")
    shared = split.suffix.model.vit.layers[0].mlp.fc1.weight
    assert shared.data_ptr() == loaded.backbone.vit.layers[0].mlp.fc1.weight.data_ptr()


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_state_is_put_back(adaptation):
    split, other = make("vit", adaptation, seed=1), make("vit", adaptation, seed=2)
    x = pixels(3)
    state = trained_state(split.suffix)
    assert all(t.dtype == torch.float32 and not t.requires_grad and t.is_contiguous() for t in state.values())
    load_trained_state(other.suffix, state)
    assert torch.equal(scores(other, x), scores(split, x))
    next(iter(state.values())).zero_()
    assert torch.equal(scores(other, x), scores(split, x))


def test_state_of_another_model_is_refused():
    head, tail = make("vit", "head"), make("vit", "last-layers:1")
    with pytest.raises(InputError, match="names"):
        load_trained_state(tail.suffix, trained_state(head.suffix))
    with pytest.raises(InputError, match="shape"):
        load_trained_state(head.suffix, trained_state(make("vit", "head", num_labels=6).suffix))


@pytest.mark.parametrize("adaptation", ["head", "last-layers:1", "lora:2"])
def test_copies_and_pickles_stand_alone(adaptation):
    split = make("vit", adaptation)
    x = pixels(3)
    inputs = x if split.encode is None else split.encode(x)
    expected = split.suffix(inputs)
    twin, thawed = copy.deepcopy(split.suffix), pickle.loads(pickle.dumps(split.suffix))
    with torch.no_grad():
        for p in split.suffix.parameters():
            if p.requires_grad:
                p.zero_()
    assert torch.equal(twin(inputs), expected)
    assert torch.equal(thawed(inputs), expected)


def test_frozen_prefix_never_drops_out():
    x = pixels(3)
    whole = make("vit-dropout", "full")
    assert not torch.equal(whole.suffix.train()(x), whole.suffix.eval()(x))
    swin = make("swin", "last-layers:1").suffix.train()
    assert isinstance(swin, WholeModel)
    modes = {name: module.training for name, module in swin.model.named_modules()}
    assert not modes["swin.encoder.layers.1.blocks.0"]
    assert modes["swin.encoder.layers.1.blocks.1"]
    assert modes["swin.layernorm"]
    assert modes["classifier"]


def test_batch_norm_keeps_its_averages():
    suffix = make("resnet", "full").suffix
    before = {name: b.clone() for name, b in suffix.named_buffers()}
    suffix.train()(pixels(4))
    assert before
    assert all(torch.equal(b, before[name]) for name, b in suffix.named_buffers())


def test_dropout_of_the_class_token_block():
    split = make("vit-dropout", "last-layers:1")
    inputs = split.encode(pixels(8))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        draws = torch.stack([split.suffix.train()(inputs) for _ in range(600)])
    assert draws.std(0).min() > 0
    # Attention's output is linear in the weights that are dropped, so its mean is the plain value.
    block = next(m for m in split.suffix.modules() if isinstance(m, ClassTokenBlock))
    normed = block.layernorm_before(inputs)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        block.train()
        mean = torch.stack([block._attend(normed) for _ in range(4000)]).mean(0)
        plain = block.eval()._attend(normed)
    assert (mean - plain).abs().max() < 0.1 * plain.abs().max()


@pytest.mark.parametrize("adaptation", ["head", "last-layers:1", "lora:1"])
def test_second_derivatives_through_torch_func(adaptation):
    split = make("vit", adaptation, num_labels=2)
    x = pixels(1)
    inputs = x if split.encode is None else split.encode(x)
    bias = next(name for name in trained_state(split.suffix) if name.endswith("bias") and name.count(".") < 3)
    names = {name: p.detach() for name, p in split.suffix.named_parameters() if p.requires_grad}

    def loss(value):
        out = functional_call(split.suffix, names | {bias: value}, (inputs,))
        return torch.nn.functional.cross_entropy(out, torch.tensor([1]))

    found = hessian(loss)(names[bias])
    assert torch.isfinite(found).all()
    assert found.shape == (*names[bias].shape, *names[bias].shape)
    # Two classes and the classifier's bias: p (1 - p) [[1, -1], [-1, 1]].
    if names[bias].numel() == 2:
        p = torch.softmax(split.suffix(inputs)[0].detach(), 0)[0]
        torch.testing.assert_close(found, p * (1 - p) * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))


def test_double_backward_through_attention():
    split = make("vit", "last-layers:1")
    inputs = split.encode(pixels(2))
    trained = {n: p for n, p in split.suffix.named_parameters() if p.requires_grad}
    query = trained["model.vit.layers.2.attention.q_proj.weight"]
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(query.shape, generator=generator)

    def gradient():
        loss = split.suffix(inputs).square().sum()
        return torch.autograd.grad(loss, query, create_graph=True)[0]

    product = torch.autograd.grad((gradient() * v).sum(), query)[0]
    step = 1e-2
    with torch.no_grad():
        query.add_(step * v)
    plus = gradient().detach()
    with torch.no_grad():
        query.sub_(2 * step * v)
    minus = gradient().detach()
    with torch.no_grad():
        query.add_(step * v)
    finite = (plus - minus) / (2 * step)
    assert (product - finite).norm() < 0.02 * finite.norm()


def test_the_self_check_sees_a_wrong_suffix(monkeypatch):
    def shifted(self, x):
        return x[:, 1:2]  # the wrong token

    monkeypatch.setattr(ClassTokenBlock, "_attend", shifted)
    split = split_model(unexplored(pretrained("vit")), parse_adaptation("last-layers:1"), 5, 3)
    assert not has_class_token_block(split)
    assert split.boundary == "before block 2"


def test_too_many_layers():
    with pytest.raises(InputError, match="has 3 transformer blocks"):
        make("vit", "last-layers:4")


def test_no_transformer():
    with pytest.raises(InputError, match="no transformer blocks"):
        make("resnet", "last-layers:1")
    with pytest.raises(InputError, match="query and value"):
        make("resnet", "lora:2")
    assert make("resnet", "head").boundary == "classifier input"


def test_rank_above_the_width():
    with pytest.raises(InputError, match="at most the projections' width, 32"):
        make("vit", "lora:33")


def test_one_class_is_refused():
    with pytest.raises(InputError, match="num_labels is 1"):
        make("vit", "head", num_labels=1)


def test_processor_of_another_size(tmp_path):
    loaded = load_pretrained(str(write("vit", tmp_path, side=SIDE + 8)))
    with pytest.raises(InputError, match="3 x 40 x 40"):
        split_model(loaded, parse_adaptation("head"), 5, 0)
