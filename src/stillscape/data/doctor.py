"""What is wrong with a dataset, told before money is spent on it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillscape._checks import at_least
from stillscape._errors import InputError
from stillscape.data.duplicates import exact_clusters, near_clusters
from stillscape.data.image_set import ImageSet, fingerprint, keep, named
from stillscape.data.resolution import effective_images, resolvable_difference
from stillscape.data.scan import Scan, scan
from stillscape.data.splits import leak_free_groups

_FEW = 10


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What `examine` found.

    Attributes:
        name: what the data are called.
        problems: what must be mended before a run; one sentence each.
        warnings: what a run survives, but its reader should know.
        facts: counts and lists behind the sentences, ready for JSON.
        scan: the pass over the images, for further use.
    """

    name: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    facts: dict[str, Any]
    scan: Scan

    def to_text(self) -> str:
        """Return the findings as lines of plain text, problems first."""
        facts = self.facts
        counts = [f"{name} {count}" for name, count in facts["class_counts"].items()]
        grouped = "" if facts["groups"] is None else f" in {facts['groups']} groups"
        lines = [f"{self.name}: {facts['images']} images{grouped}, {len(counts)} classes ({named(counts, 12)})"]
        if facts["width"] is not None:
            lines.append("Size in pixels: {} to {} wide, {} to {} high".format(*facts["width"], *facts["height"]))
        lines += _section("Problems, to be mended before a run", self.problems)
        lines += _section("Warnings", self.warnings)
        lines.append(
            f"Smallest accuracy difference that can be told from noise: about "
            f"{100 * facts['resolvable_difference']:.1f} points"
        )
        if not self.problems:
            lines.append("Nothing stands in the way of a run.")
        return "\n".join(lines)


def examine(
    images: ImageSet,
    *,
    sizes: Sequence[int] | None = None,
    folds: int = 5,
    near: int = 4,
    scanned: Scan | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Examine a set of images for what would spoil a measurement of how much data is enough.

    Problems are: broken images, equal images under different labels, a class that can't be both trained and tested,
    and sizes that don't fit. Warnings are: equal and nearly equal images, copies across the given groups (they are
    kept together nevertheless), classes that some fold holds no image of, classes that the smallest size hardly
    shows, images without contrast.

    Args:
        images: the set.
        sizes: the training sizes of the plan, or None.
        folds: folds of the cross-fitting.
        near: bits of 64 in which the hashes of nearly equal images may differ.
        scanned: a scan of the same images, if there is one already.
        progress: called with (images done, images in all) while scanning.

    Returns:
        Problems, warnings, facts, and the scan.

    Raises:
        InputError: as `scan`; or an argument out of range.

    Cost:
        One reading of every image, then as `near_clusters`.
    """
    at_least("folds", folds, 2)
    at_least("near", near, 0)
    found = scan(images, progress=progress) if scanned is None else scanned
    if len(found.digests) != len(images):
        raise InputError(f"scanned has {len(found.digests)} rows; there are {len(images)} images.")
    sound = keep(images, found.usable)
    scanned_sound = found.take(found.usable)
    units = leak_free_groups(sound.groups, scanned_sound.digests)
    copies = _copies(sound, scanned_sound, near)
    problems = [*_broken(images, found), *copies.problems, *_class_problems(sound, units)]
    warnings = [*copies.warnings, *_class_warnings(sound, units, folds), *_flat(sound, scanned_sound)]
    if sizes is not None:
        size_problems, size_warnings = _sizes(sound, sizes, folds)
        problems += size_problems
        warnings += size_warnings
    facts = _facts(images, sound, found, scanned_sound, units) | copies.facts
    return Diagnosis(images.name, tuple(problems), tuple(warnings), facts, found)


@dataclass(frozen=True)
class _Copies:
    problems: list[str]
    warnings: list[str]
    facts: dict[str, Any]


def _copies(images: ImageSet, found: Scan, near: int) -> _Copies:
    exact = exact_clusters(found.digests)
    alike = near_clusters(found, near=near)
    clashing = [rows for rows in exact if np.unique(images.labels[rows]).size > 1]
    problems, warnings = [], []
    if clashing:
        problems.append(
            f"Equal pictures under different labels: {len(clashing)} ({_shown(images, clashing)}). "
            "Decide on one label each."
        )
    if exact:
        extra = sum(rows.size - 1 for rows in exact)
        warnings.append(
            f"Exact copies of other images: {extra} ({_shown(images, exact)}). Copies are kept on one side of every "
            "split, but add nothing; better remove them."
        )
    across = [rows for rows in exact if images.groups is not None and np.unique(images.groups[rows]).size > 1]
    if across:
        warnings.append(
            f"Pictures that stand in several groups: {len(across)} ({_shown(images, across)}). These groups are "
            "joined, or a model would be tested on what it was trained on; check the groups."
        )
    if alike:
        total = sum(rows.size for rows in alike)
        mixed = sum(np.unique(images.labels[rows]).size > 1 for rows in alike)
        tail = f" Sets with different labels: {mixed}." if mixed else ""
        warnings.append(
            f"Images that look nearly alike: {total} ({_shown(images, alike, ' ~ ')}). If they show the same thing, "
            f"give them one group, or a model is tested on what it was trained on.{tail}"
        )
    facts = {
        "exact_copies": [[images.files[row] for row in rows] for rows in exact],
        "near_copies": [[images.files[row] for row in rows] for rows in alike],
        "copies_with_different_labels": [[images.files[row] for row in rows] for rows in clashing],
        "copies_across_groups": [[images.files[row] for row in rows] for rows in across],
    }
    return _Copies(problems, warnings, facts)


def _broken(images: ImageSet, found: Scan) -> list[str]:
    if not found.broken:
        return []
    names = [images.files[row] for row, _ in found.broken]
    return [
        f"Images that can't be read: {len(names)} ({named(names)}). The first: {found.broken[0][1]} "
        "Mend or remove them, or pass --skip-broken."
    ]


def _class_problems(images: ImageSet, units: np.ndarray) -> list[str]:
    counts = _units_by_class(images, units)
    unit = "groups or sets of copies" if np.unique(units).size < units.size else "images"
    lone = [f"{name} ({count})" for name, count in zip(images.classes, counts, strict=True) if count < 2]
    if not lone:
        return []
    return [
        f"Classes that can't be both trained and tested, with fewer than two {unit}: {named(lone)}. "
        "Add images, or leave these classes out."
    ]


def _class_warnings(images: ImageSet, units: np.ndarray, folds: int) -> list[str]:
    counts = _units_by_class(images, units)
    few = [f"{name} ({count})" for name, count in zip(images.classes, counts, strict=True) if 2 <= count < folds]
    result = []
    if few:
        result.append(
            f"Classes too small for {folds} folds: {named(few)}. Some folds hold none of "
            "their images, and their recall rests on very few."
        )
    images_of = np.bincount(images.labels, minlength=len(images.classes))
    if images_of.min() > 0 and images_of.max() >= _FEW * images_of.min():
        small, large = int(images_of.argmin()), int(images_of.argmax())
        result.append(
            f"Classes differ much in size: {images.classes[large]} has {images_of[large]} images, "
            f"{images.classes[small]} {images_of[small]}. Judge by balanced accuracy."
        )
    return result


def _flat(images: ImageSet, found: Scan) -> list[str]:
    spread = np.ptp(found.thumbnails.reshape(len(images), -1), axis=1) if len(images) else np.empty(0)
    flat = [images.files[row] for row in np.flatnonzero(spread <= 2)]
    return [f"Images of one even tone: {len(flat)} ({named(flat)}). Check them."] if flat else []


def _sizes(images: ImageSet, sizes: Sequence[int], folds: int) -> tuple[list[str], list[str]]:
    for size in sizes:
        at_least("sizes", size, 1)
    if not len(sizes):
        raise InputError("sizes is empty; it must hold at least one training size.")
    problems, warnings = [], []
    classes = len(images.classes)
    available = len(images) - math.ceil(len(images) / folds)
    if min(sizes) < classes:
        problems.append(
            f"The smallest size, {min(sizes)}, is below the number of classes, {classes}. "
            f"Begin with at least {classes}."
        )
    if max(sizes) > available:
        problems.append(
            f"The largest size, {max(sizes)}, is above the {available} images that are left for training "
            f"when one of {folds} folds is held out. End at {available} or below."
        )
    shares = np.bincount(images.labels, minlength=classes) / max(len(images), 1)
    rare = [name for name, share in zip(images.classes, shares, strict=True) if share * min(sizes) < 1]
    if rare and min(sizes) >= classes:
        warnings.append(
            f"At size {min(sizes)}, the share of {named(rare)} is less than one image: each is shown by "
            "one image, more than its share."
        )
    return problems, warnings


def _facts(images: ImageSet, sound: ImageSet, found: Scan, sound_scan: Scan, units: np.ndarray) -> dict[str, Any]:
    counts = np.bincount(images.labels, minlength=len(images.classes))
    worth = effective_images(units) if len(sound) else 0.0
    sizes = sound_scan.sizes
    return {
        "images": len(images),
        "class_counts": {name: int(count) for name, count in zip(images.classes, counts, strict=True)},
        "groups": None if images.groups is None else int(np.unique(images.groups).size),
        "width": [int(sizes[:, 0].min()), int(sizes[:, 0].max())] if len(sound) else None,
        "height": [int(sizes[:, 1].min()), int(sizes[:, 1].max())] if len(sound) else None,
        "broken": [{"file": images.files[row], "reason": reason} for row, reason in found.broken],
        "effective_images": worth,
        "resolvable_difference": min(1.0, resolvable_difference(worth)) if worth else 1.0,
        "fingerprint": fingerprint(sound, sound_scan.digests),
    }


def _units_by_class(images: ImageSet, units: np.ndarray) -> list[int]:
    return [int(np.unique(units[images.labels == label]).size) for label in range(len(images.classes))]


def _shown(images: ImageSet, clusters: Sequence[np.ndarray], sign: str = " = ") -> str:
    sets = [sign.join(images.files[row] for row in rows[:3]) + (" ..." if rows.size > 3 else "") for rows in clusters]
    return named(sets, 3)


def _section(title: str, sentences: tuple[str, ...]) -> list[str]:
    return [f"{title}:", *(f"  - {sentence}" for sentence in sentences)] if sentences else []
