"""Labeled images from wherever they are kept: opened, scanned, examined, and split without leaks.

Libraries that take long to load (datasets, pyarrow, scikit-learn) are imported by the functions that need them.
"""

from stillscape.data.doctor import Diagnosis, examine
from stillscape.data.image_set import ImageSet, fingerprint, keep
from stillscape.data.images import BrokenImage, NeedsWindow, parse_window, read_image, to_rgb
from stillscape.data.resolution import effective_images, resolvable_difference
from stillscape.data.scan import Scan, scan
from stillscape.data.sources import open_images
from stillscape.data.splits import folds, holdout, leak_free_groups, nested_order, prefix

__all__ = [
    "BrokenImage",
    "Diagnosis",
    "ImageSet",
    "NeedsWindow",
    "Scan",
    "effective_images",
    "examine",
    "fingerprint",
    "folds",
    "holdout",
    "keep",
    "leak_free_groups",
    "nested_order",
    "open_images",
    "parse_window",
    "prefix",
    "read_image",
    "resolvable_difference",
    "scan",
    "to_rgb",
]
