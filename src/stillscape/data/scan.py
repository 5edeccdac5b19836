"""One pass over every image: which are broken, which are equal, how they look from afar."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8, UInt64
from numpy.typing import ArrayLike
from PIL import Image

from stillscape._errors import InputError
from stillscape.data.image_set import ImageSet, as_rows
from stillscape.data.images import BrokenImage, NeedsWindow

_THUMBNAIL = 16
# Differences of up to two grey levels are what JPEG makes of a flat area: they must not decide a bit.
_FLAT_STEP = 2


@dataclass(frozen=True, eq=False)
class Scan:
    """What one pass over a set of images found; entry i belongs to row i.

    Attributes:
        broken: (row, reason) of the images that can't be read.
        digests: a hash of size and RGB pixels, 32 hexadecimal digits; "" where broken.
        dhash: perceptual difference hash, 64 bits; 0 where broken.
        sizes: width and height in pixels; 0 where broken.
        thumbnails: the image in grey at 16 x 16 pixels; 0 where broken.
    """

    broken: list[tuple[int, str]]
    digests: list[str]
    dhash: UInt64[np.ndarray, " n"]
    sizes: Int[np.ndarray, "n 2"]
    thumbnails: UInt8[np.ndarray, "n 16 16"]

    @property
    def usable(self) -> Int[np.ndarray, " usable"]:
        """The rows that can be read, in order."""
        return np.array([row for row, digest in enumerate(self.digests) if digest], dtype=np.int64)

    def take(self, rows: ArrayLike) -> "Scan":
        """Return the scan of the images of `rows`, as `keep` returns the images."""
        chosen = as_rows(rows, len(self.digests))
        reasons = dict(self.broken)
        return Scan(
            broken=[(place, reasons[int(row)]) for place, row in enumerate(chosen) if int(row) in reasons],
            digests=[self.digests[row] for row in chosen],
            dhash=self.dhash[chosen],
            sizes=self.sizes[chosen],
            thumbnails=self.thumbnails[chosen],
        )


def scan(images: ImageSet, *, progress: Callable[[int, int], None] | None = None) -> Scan:
    """Read every image once and keep what tells it apart.

    Args:
        images: the set.
        progress: called with (images done, images in all) after each image.

    Returns:
        Digests, hashes, sizes, thumbnails, and the broken images with their reasons.

    Raises:
        InputError: an image is refused rather than broken: DICOM, several frames; or images are deeper than 8 bits
            and there is no window, told once for all of them with their overall range.

    Cost:
        One decoding per image; 300 bytes of memory per image beside the one being read.
    """
    n = len(images)
    result = Scan(
        [],
        [""] * n,
        np.zeros(n, np.uint64),
        np.zeros((n, 2), np.int64),
        np.zeros((n, _THUMBNAIL, _THUMBNAIL), np.uint8),
    )
    deep: list[tuple[int, NeedsWindow]] = []
    for row in range(n):
        try:
            _enter(result, row, images.read(row))
        except BrokenImage as error:
            result.broken.append((row, str(error)))
        except NeedsWindow as error:
            deep.append((row, error))
        if progress is not None:
            progress(row + 1, n)
    if deep:
        raise _needs_window(images.files, deep)
    return result


def difference_hash(image: Image.Image) -> int:
    """Return the 64-bit difference hash: whether each of 8 x 8 cells is brighter than its right neighbor.

    Scaling and recompressing leave it nearly unchanged. Cells that differ by no more than two grey levels count as
    equal, so flat areas hash to zeros instead of noise.

    >>> difference_hash(Image.new("RGB", (30, 20), "gray"))
    0
    >>> f"{difference_hash(Image.linear_gradient('L').rotate(90).resize((90, 80)).convert('RGB')):x}"
    '0'
    >>> f"{difference_hash(Image.linear_gradient('L').rotate(-90).resize((90, 80)).convert('RGB')):x}"
    'ffffffffffffffff'
    """
    cells = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BILINEAR), dtype=np.int16)
    bits = cells[:, :-1] - cells[:, 1:] > _FLAT_STEP
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def pixel_digest(image: Image.Image) -> str:
    """Return a hash of an RGB image's size and pixels: equal for equal pictures, whatever file they came from."""
    content = hashlib.blake2b(f"{image.width}x{image.height} ".encode(), digest_size=16)
    content.update(image.tobytes())
    return content.hexdigest()


def _enter(result: Scan, row: int, image: Image.Image) -> None:
    result.digests[row] = pixel_digest(image)
    result.dhash[row] = difference_hash(image)
    result.sizes[row] = image.size
    small = image.convert("L").resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR)
    result.thumbnails[row] = np.asarray(small)


def _needs_window(files: Sequence[str], deep: list[tuple[int, NeedsWindow]]) -> InputError:
    if len(deep) == 1:
        return deep[0][1]
    low, high = min(error.low for _, error in deep), max(error.high for _, error in deep)
    first = files[deep[0][0]]
    return NeedsWindow(
        f"{len(deep)} images are deeper than 8 bits, {first} the first; their values run from {low:g} "
        f"to {high:g}. Which are black and white is yours to say: pass --window LOW:HIGH, for example "
        f"--window {low:g}:{high:g}.",
        low,
        high,
    )
