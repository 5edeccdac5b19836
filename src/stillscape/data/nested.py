"""Nested subsets: one order of the images whose every prefix is a small likeness of the whole."""

import heapq

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from stillscape._checks import at_least
from stillscape._errors import InputError
from stillscape.data.image_set import as_rows, first_seen_codes


def nested_order(labels: ArrayLike, groups: ArrayLike | None, rows: ArrayLike, seed: int) -> Int[np.ndarray, " rows"]:
    """Order `rows` at random so that every prefix is as class-stratified as can be.

    Without groups, the first C images show each of the C classes once; from there on, the number of images of class c
    among the first k stays within 1 of the target

        t_c(k) = max(1, theta n_c),  with theta such that sum_c t_c(k) = k,

    which is the proportional share k n_c / n wherever no class is held up by its one image. Such an order exists and
    is found by serving the earliest deadline first (Steiner and Yeomans 1993, level schedules). Within a class, the
    order is a uniform shuffle.

    With groups, whole groups come in turn: first groups that bring a missing class, drawn from the smaller half of
    its groups, then always one of the class that lags most behind its share, drawn without regard to size.

    Args:
        labels: class numbers of all images; shape (n,).
        groups: codes of all images; shape (n,); or None.
        rows: the rows to order, without repeats (or a mask).
        seed: of the shuffles.

    Returns:
        A permutation of `rows`. It depends on the seed and on the partition into groups, not on the codes' values.

    Cost:
        O(n (C + log n)) time without groups, O(G C + n) with G groups; O(n) memory.
    """
    classes = as_labels(labels)
    chosen = np.sort(as_rows(rows, classes.size))
    codes = as_codes(groups, classes.size)[chosen]
    rng = generator(seed, 3)
    if not chosen.size:
        return chosen
    own = first_seen_codes(classes[chosen])
    if np.unique(codes).size == codes.size:
        return chosen[_image_order(own, rng)]
    return chosen[_group_order(own, first_seen_codes(codes), rng)]


def prefix(order: ArrayLike, groups: ArrayLike | None, k: int) -> Int[np.ndarray, " at_most_k"]:
    """Return the first k images of an order; with groups, the longest run of whole groups of at most k images.

    Prefixes are nested: that of a smaller k is a part of that of a larger one. With groups, the true size may lie
    below k; it is the length of what is returned.

    Args:
        order: from `nested_order`.
        groups: codes of all images, as given there; or None.
        k: the size wanted, 1..len(order).

    Returns:
        Row numbers, at most k.

    Raises:
        InputError: k is too large, or the first group alone exceeds it.

    Example:
        >>> prefix([4, 0, 1, 2], [0, 1, 1, 2, 3], 2).tolist()
        [4, 0]
        >>> prefix([4, 1, 2, 0], [5, 6, 6, 7, 8], 2).tolist()
        [4]
    """
    rows = np.asarray(order, dtype=np.int64)
    k = at_least("k", k, 1)
    if k > rows.size:
        raise InputError(f"k is {k}; there are only {rows.size} images to draw from. Use a smaller size.")
    if groups is None or k == rows.size:
        return rows[:k]
    own = np.asarray(groups)[rows]
    ends = np.append(np.flatnonzero(own[1:] != own[:-1]) + 1, rows.size)
    if ends.size > np.unique(own).size:
        raise InputError("order takes a group apart; make it with nested_order and the same groups.")
    fitting = ends[ends <= k]
    if not fitting.size:
        raise InputError(
            f"k is {k}, but the first group alone has {ends[0]} images. "
            f"Use sizes of at least {ends[0]}, or smaller groups."
        )
    return rows[: fitting[-1]]


def generator(seed: int, purpose: int) -> np.random.Generator:
    """Return a generator for one purpose of `seed`, so that different draws from the same seed are independent."""
    return np.random.default_rng([at_least("seed", seed, 0), purpose])


def as_labels(labels: ArrayLike) -> Int[np.ndarray, " n"]:
    """Return `labels` as one axis of whole numbers, else raise `InputError`."""
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
        raise InputError(
            f"labels has shape {array.shape} and type {array.dtype}; it must be one axis of class numbers."
        )
    return array.astype(np.int64)


def as_codes(groups: ArrayLike | None, n: int) -> Int[np.ndarray, " n"]:
    """Return group codes 0, 1, 2... by first appearance; each image its own group if `groups` is None."""
    if groups is None:
        return np.arange(n)
    array = np.asarray(groups)
    if array.shape != (n,):
        raise InputError(f"groups has shape {array.shape}; it must be ({n},), one code for each image.")
    return first_seen_codes(array)


def _image_order(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    counts = np.bincount(classes)
    shuffled = rng.permutation(classes.size)
    queues = [iter(shuffled[classes[shuffled] == label].tolist()) for label in range(counts.size)]
    tie = rng.permutation(counts.size)
    return np.array([next(queues[label]) for label in _class_order(counts, tie)], dtype=np.int64)


def _class_order(counts: np.ndarray, tie: np.ndarray) -> list[int]:
    """Return the class of each place: job j of class c may start once t_c > j - 1 and is due when t_c = j."""
    order = np.lexsort((tie, -counts)).tolist()
    waiting: list[tuple[int, int, int, int]] = []
    due = [_place(counts, label) for label in range(counts.size)]
    for label in order:
        if counts[label] > 1:
            heapq.heappush(waiting, (due[label][0] // counts[label] + 1, int(tie[label]), label, 2))
    ready: list[tuple[int, int, int, int]] = []
    for k in range(counts.size + 1, int(counts.sum()) + 1):
        while waiting and waiting[0][0] <= k:
            _, rank, label, job = heapq.heappop(waiting)
            deadline = -(-due[label][job - 1] // counts[label])
            heapq.heappush(ready, (int(deadline), rank, label, job))
        _, rank, label, job = heapq.heappop(ready)
        order.append(label)
        if job < counts[label]:
            release = due[label][job - 1] // counts[label] + 1
            heapq.heappush(waiting, (int(release), rank, label, job + 1))
    return order


def _place(counts: np.ndarray, label: int) -> list[int]:
    """Return n_c k for each j = 1..n_c, where k = sum_i max(1, j n_i / n_c) is the size at which t_c reaches j."""
    jobs = np.arange(1, counts[label] + 1, dtype=np.int64)
    total = np.zeros_like(jobs)
    for other in counts:
        total += np.maximum(counts[label], jobs * other)
    return total.tolist()


def _group_order(classes: np.ndarray, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    table = np.zeros((codes.max() + 1, classes.max() + 1), dtype=np.int64)
    np.add.at(table, (codes, classes), 1)
    shuffled = rng.permutation(table.shape[0])
    first = _covering(table, shuffled)
    # Ties between classes are broken anew for each seed, so that no class is favored over the repeats.
    turn = first + _lagging(table, shuffled, first, 1e-9 * rng.random(table.shape[1]))
    members = rng.permutation(codes.size)
    rank = np.empty(len(turn), dtype=np.int64)
    rank[turn] = np.arange(len(turn))
    return members[np.argsort(rank[codes[members]], kind="stable")]


def _covering(table: np.ndarray, shuffled: np.ndarray) -> list[int]:
    """Draw groups until every class is there, classes in the fewest groups first.

    The draw is among the smaller half of a class's groups: small enough to bring all classes early, and many enough
    that repeats don't all begin with the same group.
    """
    sizes = table.sum(axis=1)
    seen = np.zeros(table.shape[1], dtype=np.int64)
    taken: list[int] = []
    for label in np.argsort((table > 0).sum(axis=0), kind="stable"):
        if seen[label]:
            continue
        candidates = shuffled[table[shuffled, label] > 0]
        small = candidates[sizes[candidates] <= np.median(sizes[candidates])]
        taken.append(int(small[0]))
        seen += table[small[0]]
    return taken


def _lagging(table: np.ndarray, shuffled: np.ndarray, first: list[int], tie: np.ndarray) -> list[int]:
    """Take the remaining groups by turns, always one of the class that lags most behind its share."""
    share = table.sum(axis=0) / table.sum()
    taken = set(first)
    owner = np.argmax(table / table.sum(axis=0), axis=1)
    queues: list[list[int]] = [[] for _ in share]
    for group in reversed(shuffled.tolist()):
        if group not in taken:
            queues[owner[group]].append(group)
    have = table[first].sum(axis=0).astype(np.float64)
    left = np.array([bool(queue) for queue in queues])
    turn: list[int] = []
    while left.any():
        lag = share * (have.sum() + 1) - have + tie
        label = int(np.argmax(np.where(left, lag, -np.inf)))
        group = queues[label].pop()
        left[label] = bool(queues[label])
        have += table[group]
        turn.append(group)
    return turn
