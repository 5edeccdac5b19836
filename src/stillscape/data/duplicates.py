"""Find images that stand in a set twice: pixel for pixel, or nearly so."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stillscape.data.image_set import first_seen_codes
from stillscape.data.scan import Scan

# Below this standard deviation of the thumbnail, in grey levels, an image shows too little to be told from others.
_LEAST_CONTRAST = 4.0
_LEAST_CORRELATION = 0.995
_BLOCK = 128
_MOST_EDGES = 1_000_000


def exact_clusters(digests: Sequence[str]) -> list[Int[np.ndarray, " rows"]]:
    """List the sets of rows whose images are equal pixel for pixel; broken images (digest "") are left out.

    >>> [rows.tolist() for rows in exact_clusters(["a", "b", "a", "", ""])]
    [[0, 2]]
    """
    if not len(digests):
        return []
    codes = first_seen_codes(list(digests))
    return [rows for rows in _clusters(codes) if digests[rows[0]]]


def near_clusters(scan: Scan, *, near: int = 4) -> list[Int[np.ndarray, " rows"]]:
    """List the sets of rows whose images look alike without being equal: scaled, recompressed, brightened copies.

    Two images match if their difference hashes differ in at most `near` of 64 bits and their 16 x 16 grey thumbnails
    correlate by 0.995 or more; matches of matches are gathered in one set. Images with hardly any contrast are left
    out: they would all match each other. Equal images are represented by the first of them.

    Args:
        scan: what a pass over the images found.
        near: bits in which hashes may differ, 0..64.

    Returns:
        Sets of at least two rows, each in order.

    Cost:
        At most n^2/2 comparisons of 64-bit words in numpy (about 5 s for 100 000 images), fewer where hashes have
        different numbers of ones; memory of 128 rows of them.
    """
    rows = _distinct_rows(scan)
    if rows.size < 2:
        return []
    flat = scan.thumbnails[rows].reshape(rows.size, -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1)
    shown = norms >= _LEAST_CONTRAST * np.sqrt(flat.shape[1])
    rows, flat = rows[shown], flat[shown] / norms[shown, None]
    # Sorted by the number of ones: hashes that differ in d bits differ in it by at most d, so a window suffices.
    ones = np.bitwise_count(scan.dhash[rows]).astype(np.int64)
    order = np.argsort(ones, kind="stable")
    rows, flat, ones = rows[order], flat[order], ones[order]
    codes = _linked(scan.dhash[rows], flat, ones, near)
    return sorted((np.sort(rows[members]) for members in _clusters(codes)), key=lambda members: int(members[0]))


def _linked(hashes: np.ndarray, flat: np.ndarray, ones: np.ndarray, near: int) -> np.ndarray:
    n = hashes.size
    edges = np.empty((2, 0), dtype=np.int64)
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        end = int(np.searchsorted(ones, ones[stop - 1] + near, side="right"))
        close = np.bitwise_count(hashes[start:stop, None] ^ hashes[None, start:end]) <= near
        left, right = np.nonzero(np.triu(close, k=1))
        alike = _alike(flat[start:stop], flat[start:end], left, right)
        edges = np.hstack([edges, np.stack([left, right])[:, alike] + start])
        if edges.shape[1] > _MOST_EDGES:
            # One edge to the first of each component says the same in n edges at most.
            codes = _components(edges, n)
            edges = np.stack([np.arange(n), np.unique(codes, return_index=True)[1][codes]])
    return _components(edges, n)


def _alike(some: np.ndarray, others: np.ndarray, left: np.ndarray, right: np.ndarray) -> Bool[np.ndarray, " pairs"]:
    # Many pairs are cheaper by one matrix product over all of them; few are cheaper one by one.
    if left.size > 0.02 * len(some) * len(others):
        correlations = (some @ others.T)[left, right]
    else:
        correlations = np.einsum("ij,ij->i", some[left], others[right])
    return correlations >= _LEAST_CORRELATION


def _components(edges: np.ndarray, n: int) -> np.ndarray:
    graph = coo_array((np.ones(edges.shape[1], dtype=bool), (edges[0], edges[1])), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def _distinct_rows(scan: Scan) -> Int[np.ndarray, " rows"]:
    usable = scan.usable
    if not usable.size:
        return usable
    _, first = np.unique([scan.digests[row] for row in usable], return_index=True)
    return usable[np.sort(first)]


def _clusters(codes: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    return [part for part in parts if part.size > 1]
