import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, ViTForImageClassification

from stillscape._errors import InputError
from stillscape.models import load_pretrained, pixel_values
from tests.models.checkpoints import MAKERS, SIDE, pretrained, quiet, write


@pytest.mark.parametrize("kind", MAKERS)
def test_every_architecture_loads_and_takes_any_number_of_classes(kind):
    loaded = pretrained(kind)
    model = loaded.instantiate(num_labels=7, seed=0).eval()
    assert all(p.requires_grad for p in model.parameters())
    assert model(pixel_values=torch.zeros(2, 3, SIDE, SIDE)).logits.shape == (2, 7)
    classifiers = sum(model.get_submodule(name).weight.numel() + 7 for name in loaded.classifiers)
    assert loaded.num_parameters == sum(p.numel() for p in model.parameters()) - classifiers


def test_weights_are_those_of_the_file(tmp_path):
    folder = write("vit", tmp_path)
    stored = load_file(folder / "model.safetensors")
    model = load_pretrained(str(folder)).instantiate(5, seed=0)
    plain = ViTForImageClassification.from_pretrained(folder).state_dict()
    for name, tensor in model.state_dict().items():
        if not name.startswith("classifier"):
            torch.testing.assert_close(tensor, plain[name], rtol=0, atol=0)
    assert len(stored) == len(plain)


def test_classifier_follows_the_seed_alone():
    loaded = pretrained("vit")
    before = torch.get_rng_state()
    first, again, other = (loaded.instantiate(50, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert first.classifier.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not first.classifier.bias.any()


def test_models_are_independent():
    loaded = pretrained("vit")
    one, two = loaded.instantiate(3, 0), loaded.instantiate(3, 0)
    with torch.no_grad():
        for p in one.parameters():
            p.zero_()
    assert two.vit.layers[0].mlp.fc1.weight.any()
    assert loaded.backbone.vit.layers[0].mlp.fc1.weight.any()


def test_loading_leaves_the_random_state_alone_and_says_nothing(tmp_path, capfd, caplog):
    folder = write("vit-backbone", tmp_path)
    capfd.readouterr()
    before = torch.get_rng_state()
    with caplog.at_level(logging.WARNING):
        load_pretrained(str(folder))
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_fingerprint_is_of_the_content(tmp_path):
    first = load_pretrained(str(write("vit", tmp_path / "a")))
    same = load_pretrained(str(write("vit", tmp_path / "b")))
    assert first.fingerprint == same.fingerprint

    weights = load_file(tmp_path / "b" / "model.safetensors")
    weights["classifier.weight"] += 1  # made anew in any case
    save_file(weights, tmp_path / "b" / "model.safetensors", metadata={"format": "pt"})
    assert load_pretrained(str(tmp_path / "b")).fingerprint == first.fingerprint

    weights["vit.layernorm.weight"][0] += 1e-3
    save_file(weights, tmp_path / "b" / "model.safetensors", metadata={"format": "pt"})
    assert load_pretrained(str(tmp_path / "b")).fingerprint != first.fingerprint

    path = tmp_path / "a" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.1, 0.5, 0.5]}))
    assert load_pretrained(str(tmp_path / "a")).fingerprint != first.fingerprint


def test_attention_is_eager():
    assert pretrained("vit").backbone.config._attn_implementation == "eager"


def refusal(name):
    with pytest.raises(InputError) as error:
        load_pretrained(str(name))
    return str(error.value)


def test_missing_folder(tmp_path):
    assert "no such folder" in refusal(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path):
    folder = write("vit", tmp_path)
    assert "give the folder" in refusal(folder / "model.safetensors")


def test_folder_without_config(tmp_path):
    assert "config.json" in refusal(tmp_path)


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "weights.pt", "last.ckpt"])
def test_pickles_are_refused(tmp_path, pickle):
    folder = write("vit", tmp_path)
    (folder / "model.safetensors").rename(folder / pickle)
    message = refusal(folder)
    assert pickle in message
    assert "save_pretrained" in message


def test_no_weights_at_all(tmp_path):
    folder = write("vit", tmp_path)
    (folder / "model.safetensors").unlink()
    assert "*.safetensors" in refusal(folder)


def test_not_an_image_model(tmp_path):
    with quiet():
        config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        BertModel(config).save_pretrained(tmp_path)
    message = refusal(tmp_path)
    assert "'bert'" in message
    assert "no image classifier" in message


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_remote_code_is_refused(tmp_path):
    folder = write("vit", tmp_path)
    edit_config(folder, model_type="made_up", auto_map={"AutoConfig": "evil.EvilConfig"})
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    assert "outside the transformers library" in refusal(folder)


def test_missing_processor(tmp_path):
    folder = write("vit", tmp_path)
    (folder / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json" in refusal(folder)


def test_damaged_weights(tmp_path):
    folder = write("vit", tmp_path)
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    assert "can't be read" in refusal(folder)


def test_incomplete_weights(tmp_path):
    folder = write("vit", tmp_path)
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name, tensor in weights.items() if "layer" in name and tensor.ndim == 2)
    del weights[gone]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = refusal(folder)
    assert "lacks 1 weights that config.json asks for, such as vit.layers.0." in message


def test_weights_of_another_size(tmp_path):
    folder = write("vit", tmp_path)
    edit_config(folder, intermediate_size=48)
    assert "lacks" in refusal(folder)


def test_pixel_values_by_hand():
    processor = pretrained("vit").processor
    images = [Image.new("RGB", (50, 40), (255, 0, 51)), Image.new("RGB", (SIDE, SIDE))]
    batch = pixel_values(processor, images)
    assert batch.shape == (2, 3, SIDE, SIDE)
    assert batch.dtype == torch.float32
    # (value / 255 - 0.5) / 0.5
    np.testing.assert_allclose(batch[0].mean((1, 2)), [1.0, -1.0, -0.6], atol=1e-6)


def test_pixel_values_needs_images():
    with pytest.raises(InputError, match="images is empty"):
        pixel_values(pretrained("vit").processor, [])
