"""What a realistic case would cost: 400 images at 224 px, a ViT-base, LoRA and the last block, 4 sizes x 5 repeats.

    python benchmarks/realistic/run.py            # some minutes

A part is run (a few training steps and scorings of this model on this machine, as `stillscape plan` does) and the
rest is extrapolated. Weights and images are random, since only time is measured.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

RESULTS = Path(__file__).with_name("results.json")
CLASSES, IMAGES = 4, 400


def make_inputs(folder: Path) -> tuple[Path, Path]:
    """Write a ViT-base with random weights, and a folder of random JPEG images."""
    model, photos = folder / "vit-base", folder / "photos"
    ViTForImageClassification(ViTConfig()).save_pretrained(model)
    ViTImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(model)
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        place = photos / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        coarse.resize((640, 480)).save(place / f"{number}.jpg")
    return model, photos


def main() -> None:
    """Estimate, write and print."""
    with tempfile.TemporaryDirectory() as name:
        model, photos = make_inputs(Path(name))
        command = [
            sys.executable,
            "-m",
            "stillscape.cli",
            "plan",
            "--data",
            str(photos),
            "--model",
            str(model),
            "--json",
        ]
        command += ["--adapt", "lora:8", "--adapt", "last-layers:1", "--adapt", "head"]
        command += ["--sizes", "40,80,160,320", "--repeats", "5", "--seeds", "1"]
        estimate = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    versions = {name: importlib.metadata.version(name) for name in ("stillscape", "torch", "transformers", "numpy")}
    environment = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    figures = {
        "measured": "a few steps; the rest extrapolated",
        "estimate": estimate,
        "environment": environment | versions,
    }
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
