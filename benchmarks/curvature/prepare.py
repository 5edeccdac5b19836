"""Train the tiny ViT for a moment on scikit-learn's digits, so that its Hessian is that of a network that learned."""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from problem import FILE, TinyViT
from torch import Tensor

EPOCHS, BATCH, RATE = 5, 64, 1e-3


def digits() -> tuple[Tensor, Tensor]:
    """Return 1,797 images, 8 x 8 brought to 28 x 28 and standardized, in a fixed random order, with their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.as_tensor(found.images, dtype=torch.float32)[:, None] / 16
    images = F.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)[:, 0]
    images = (images - images.mean()) / images.std()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], torch.as_tensor(found.target)[order]


def prepare(folder: Path) -> dict:
    """Train and write weights and samples; return what there is to say about them. Deterministic on one machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums are ordered alike whatever number the benchmark runs with
    images, labels = digits()
    torch.manual_seed(0)
    model = TinyViT()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(BATCH):
            loss = F.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        outputs = model.eval()(images)
    torch.set_num_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": model.state_dict(), "images": images, "labels": labels}, folder / FILE)
    weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    return {
        "parameters": weights.numel(),
        "weights_sha256": hashlib.sha256(weights.numpy().tobytes()).hexdigest(),
        "loss_nats": F.cross_entropy(outputs, labels).item(),
        "accuracy": (outputs.argmax(1) == labels).double().mean().item(),
        "training": f"Adam, rate {RATE}, {EPOCHS} epochs of batches of {BATCH}, 1,797 digits of scikit-learn",
    }
