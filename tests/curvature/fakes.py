"""A symmetric matrix of known spectrum in the clothes of an operator: for statistics, which take many runs."""

from contextlib import contextmanager

import torch

DOUBLE = torch.float64
SIZE = 60
SPECTRA = {
    "flat": torch.linspace(0.5, 1.5, SIZE, dtype=DOUBLE),
    "decaying": 0.8 ** torch.arange(SIZE, dtype=DOUBLE),
    "heavy": 1 / torch.arange(1, SIZE + 1, dtype=DOUBLE),
    "indefinite": torch.linspace(-1.0, 1.3, SIZE, dtype=DOUBLE) ** 3,
    "low rank": torch.cat([torch.tensor([5.0, -3.0, 2.0], dtype=DOUBLE), torch.zeros(SIZE - 3, dtype=DOUBLE)]),
}


class MatrixOperator:
    """Has what the estimators ask of an operator."""

    def __init__(self, spectrum: torch.Tensor, seed: int = 0) -> None:
        size = len(spectrum)
        q = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE))[0]
        self.matrix = (q * spectrum) @ q.mT
        self.num_parameters, self.dtype, self.device = size, DOUBLE, torch.device("cpu")
        self.num_sample_products = 0

    def mean_matmat(self, vectors: torch.Tensor) -> torch.Tensor:
        self.num_sample_products += len(vectors)
        return vectors @ self.matrix

    @contextmanager
    def linearized(self):
        yield
