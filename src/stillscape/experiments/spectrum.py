"""The spectrum of the Hessian at w* and its blocks, as images are counted in: eigenvalues, outliers, shares of norm.

w* is the first order's model at the largest size, in one fold; images are the first of those of the Hessian curve.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stillscape._folders import Folder
from stillscape.curvature import BlockTable, PerSampleHessian, SpectrumBySize, block_table, spectrum_by_size
from stillscape.experiments.bench import Bench
from stillscape.experiments.extras import missing_of, store_extra
from stillscape.experiments.hessian_curve import curve_key, hessian_rows
from stillscape.experiments.operators import MEMORY_BYTES, hessians_of, too_large
from stillscape.experiments.probe import probes_of, trained_weights
from stillscape.experiments.store import Store, content_key, finite_or_none
from stillscape.models import load_trained_state

VERSION = 1  # raise when the numbers change
KIND = "spectra"
MOST_IMAGES = 128  # of those of the Hessian curve
MOST_SIZES = 5
MOST_VALUES = 24  # eigenvalues; twice the number of classes where that is less
STEPS = 60  # of Lanczos on each mean
VECTORS = 8  # random ones, of traces and norms
BLOCK_VECTORS, BLOCK_STEPS = 6, 20  # of each group of parameters
LONG_VECTORS = STEPS + 2 * MOST_VALUES + 4 * VECTORS  # held at once
#: Products of one image with one vector that a size may take, for each of its images, apart from groups.
PRODUCTS = 2 * (STEPS + 2 * VECTORS + MOST_VALUES)


def spectrum_key(bench: Bench, cells: Store, adapt: str) -> str | None:
    """Return the key of an adaptation's record; None where the plan asks for none, or the largest cell failed."""
    curve = curve_key(bench, cells, adapt)
    if curve is None:
        return None
    settings = [MOST_IMAGES, MOST_VALUES, STEPS, VECTORS, BLOCK_VECTORS, BLOCK_STEPS, list(bench.sizes)]
    return content_key(["spectrum", VERSION, settings, curve])


def missing_spectra(bench: Bench, folder: Folder) -> list[str]:
    """Return the adaptations whose spectrum is asked for and not in the run folder yet."""
    cells = Store(folder)
    return missing_of(Store(folder, KIND), bench.plan.adapt, lambda adapt: spectrum_key(bench, cells, adapt))


def run_spectrum(bench: Bench, folder: Folder, adapt: str) -> None:
    """Measure one adaptation's spectra and store them; where they can't be had, the record says why."""
    cells = Store(folder)
    key = spectrum_key(bench, cells, adapt)
    assert key is not None
    store_extra(Store(folder, KIND), key, lambda: (_measure(bench, cells, adapt), None))


def sizes_among(sizes: Sequence[int], images: int) -> list[int]:
    """Return the sizes of a plan that the images reach, and the number of images; quarters and halves where few do.

    >>> sizes_among([50, 100, 200, 400], 128), sizes_among([50, 100], 64), sizes_among([10, 20, 30, 40, 50, 60], 64)
    ([50, 100, 128], [16, 32, 50, 64], [10, 30, 40, 50, 64])
    """
    found = {k for k in sizes if 1 < k < images} | {images}
    if len(found) < 3:
        found |= {k for k in (images // 4, images // 2) if k > 1}
    every = sorted(found)
    kept = np.unique(np.linspace(0, len(every) - 1, min(MOST_SIZES, len(every))).round().astype(int))
    return [every[place] for place in kept]


def measured_spectra(
    hv: PerSampleHessian, sizes: Sequence[int], num_classes: int, groups: dict[str, str] | None = None
) -> tuple[SpectrumBySize, list[BlockTable]]:
    """Return spectrum and blocks of mean(H_1..H_k) for each k of `sizes`.

    Cost: for each size and image at most `PRODUCTS` products with a vector, and for each group of parameters
        2 x `BLOCK_VECTORS` + `BLOCK_STEPS` more; memory `LONG_VECTORS` vectors.
    """
    count = min(2 * num_classes, MOST_VALUES)
    spectrum = spectrum_by_size(hv, sizes, count, num_classes, num_vectors=VECTORS, max_steps=STEPS)
    tables = [
        block_table(hv.subset(range(k)), groups, parts=["full"], num_vectors=BLOCK_VECTORS, max_steps=BLOCK_STEPS)
        for k in spectrum.k
    ]
    return spectrum, tables


def _measure(bench: Bench, cells: Store, adapt: str) -> dict[str, Any]:
    _, cell = probes_of(bench, cells, adapt)[0].cells()
    star = trained_weights(cells, bench.key(cell))
    if star is None:
        return {"status": "missing", "reason": "the trained weights are too large to be kept"}
    size = sum(w.numel() for w in star.values())
    if reason := too_large("spectra", LONG_VECTORS, size, MEMORY_BYTES):
        return {"status": "missing", "reason": reason}
    suffix = bench.split(adapt).suffix
    load_trained_state(suffix, star)
    rows = hessian_rows(bench)[:MOST_IMAGES]
    hv = hessians_of(suffix, bench.inputs(adapt), bench.labels, rows)
    groups = {"head": "*"} if type(suffix) is torch.nn.Linear else None  # alone, its weights' names say nothing
    spectrum, tables = measured_spectra(hv, sizes_among(bench.sizes, len(rows)), len(bench.classes), groups)
    return {
        "status": "ok",
        "version": VERSION,
        "images": len(rows),
        "parameters": size,
        "num_classes": len(bench.classes),
        "num_sample_products": spectrum.num_sample_products + sum(table.num_sample_products for table in tables),
        "sizes": [_at_size(spectrum, row, table) for row, table in enumerate(tables)],
    }


def _at_size(spectrum: SpectrumBySize, row: int, table: BlockTable) -> dict[str, Any]:
    """Return what holds at one k, of plain numbers; null where one is not known."""
    measured = (
        "frobenius", "frobenius_stderr", "trace", "trace_stderr", "stable_rank", "stable_rank_stderr",
        "intrinsic_dimension", "intrinsic_dimension_stderr",
    )  # fmt: skip
    return {
        "k": int(spectrum.k[row]),
        **{name: _plain(getattr(spectrum, name)[row]) for name in ("values", "values_stderr", "residuals")},
        "converged": bool(spectrum.converged[row]),
        "outliers": _outliers(spectrum, row),
        "gap": finite_or_none(float(spectrum.gaps[row])),
        **{name: finite_or_none(float(getattr(spectrum, name)[row])) for name in measured},
        "blocks": [_block(each) for each in table.rows()],
        "between_blocks": table.between,
        "between_blocks_stderr": table.between_stderr,
    }


def _outliers(spectrum: SpectrumBySize, row: int) -> int | None:
    """Return the count; None where no gap shows, or too few eigenvalues were computed to see it beyond the classes."""
    found = int(spectrum.outliers[row])
    too_few = spectrum.values.shape[1] < (spectrum.num_classes or 0) + 2
    return None if found < 0 or (too_few and found >= spectrum.values.shape[1] - 1) else found


def _block(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("share_")}


def _plain(values: np.ndarray) -> list[float | None]:
    return [finite_or_none(float(value)) for value in values]
