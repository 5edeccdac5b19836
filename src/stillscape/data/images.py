"""One image file in, one upright 8-bit RGB image out; whatever would be guessed is refused instead."""

import contextlib
import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stillscape._errors import InputError

_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_FULL_16_BIT = (0.0, 65535.0)
_DICOM_SUFFIXES = (".dcm", ".dicom")
_HINTS = {
    ".heic": "export it as JPEG or PNG",
    ".heif": "export it as JPEG or PNG",
    ".nii": "cut the volume into slices and save them as PNG",
    ".gz": "unpack it first",
    ".zip": "unpack it first",
    ".svs": "cut the slide into tiles and save them as PNG",
    ".ndpi": "cut the slide into tiles and save them as PNG",
    ".npy": "save each array as a PNG or TIFF image",
    ".npz": "save each array as a PNG or TIFF image",
}


class BrokenImage(InputError):
    """An image file that can't be decoded: cut off, empty, no image at all, or unreadable."""


class NeedsWindow(InputError):
    """An image deeper than 8 bits, met without a window; `low` and `high` are the values measured in it."""

    def __init__(self, message: str, low: float = float("nan"), high: float = float("nan")):
        super().__init__(message)
        self.low = low
        self.high = high


def read_image(path: str | os.PathLike[str], *, window: tuple[float, float] | None = None) -> Image.Image:
    """Read one image file as an upright 8-bit RGB image.

    The format is told by the content, not by the suffix. Color profiles are ignored.

    Args:
        path: the file.
        window: (low, high), the values of a 16-bit, 32-bit or float image that become 0 and 255; see `to_rgb`.

    Returns:
        An image of mode RGB that no longer depends on the file.

    Raises:
        BrokenImage: the file is cut off, empty, unreadable, no image, or unfolds to more pixels than Pillow trusts.
        InputError: DICOM, several frames, or a depth that needs a window.

    Cost:
        One decoding; memory of the unpacked image.
    """
    return decode_file(Path(path), window=window, name=str(path))


def decode_file(path: Path, *, window: tuple[float, float] | None, name: str) -> Image.Image:
    """Read the image at `path`, calling it `name` in messages."""
    try:
        with path.open("rb") as stream:
            head = stream.read(132)
            _refuse_by_head(head, path.suffix.lower(), name)
            stream.seek(0)
            return _decode(stream, path.suffix.lower(), window, name)
    except OSError as error:
        raise BrokenImage(f"{name} can't be opened: {error.strerror or error}.") from error


def decode_bytes(data: bytes, *, window: tuple[float, float] | None, name: str) -> Image.Image:
    """Read the image that the encoded bytes `data` hold, calling it `name` in messages."""
    _refuse_by_head(data[:132], "", name)
    return _decode(io.BytesIO(data), "", window, name)


def to_rgb(image: Image.Image, *, window: tuple[float, float] | None = None, name: str = "") -> Image.Image:
    """Turn any still image into upright 8-bit RGB.

    The rotation stored in EXIF is applied. Grey is copied to three channels, palettes are looked up, CMYK is
    converted, and transparent pixels are laid over black. Grey images deeper than 8 bits are mapped by the window,

        level = round(255 * (clip(value, low, high) - low) / (high - low)),

    so values outside the window saturate. Images of 8 bits per channel are left as they are, window or not.

    Args:
        image: an image as Pillow opens it.
        window: (low, high) in the image's own units, low < high; needed for deep images only.
        name: what to call the image in messages.

    Returns:
        A new image of mode RGB.

    Raises:
        NeedsWindow: the image is deeper than 8 bits and there is no window; the message tells its values.
        InputError: several frames, pixels that are no number, a color space that Pillow can't convert.

    Example:
        >>> deep = Image.fromarray(np.array([[0, 1000, 4000]], dtype=np.uint16))
        >>> [pixel[0] for pixel in np.asarray(to_rgb(deep, window=(0, 2000)))[0].tolist()]
        [0, 128, 255]
    """
    name = name or "the image"
    check_window(window)
    _refuse_frames(image, name)
    _refuse_dropped_bits(image, window, name)
    # A damaged EXIF block is no reason to lose a sound picture: it then counts as upright.
    with contextlib.suppress(Exception):
        image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP_MODES:
        return _windowed(image, window, name)
    try:
        if image.has_transparency_data:
            shown = image.convert("RGBA")
            black = Image.new("RGBA", shown.size, (0, 0, 0, 255))
            return Image.alpha_composite(black, shown).convert("RGB")
        return image.convert("RGB")
    except ValueError as error:
        raise InputError(
            f"{name} has the color mode {image.mode}, which can't be turned into RGB. Save it as 8-bit RGB."
        ) from error


def check_window(window: tuple[float, float] | None) -> None:
    """Raise `InputError` unless `window` is None or a pair of finite numbers low < high."""
    if window is None:
        return
    if len(window) != 2 or not np.all(np.isfinite(window)) or not window[0] < window[1]:
        raise InputError(f"window is {window!r}; it must be two finite numbers LOW:HIGH with LOW < HIGH.")


def parse_window(text: str) -> tuple[float, float]:
    """Read a window written as LOW:HIGH.

    >>> parse_window("-1000:400")
    (-1000.0, 400.0)
    """
    low, _, high = text.partition(":")
    try:
        window = (float(low), float(high))
    except ValueError:
        raise InputError(f"window is {text!r}; write LOW:HIGH, for example 0:4095.") from None
    check_window(window)
    return window


def refuse_dicom(name: str) -> InputError:
    """Return the error for a DICOM file, with the way out."""
    return InputError(
        f"{name} is a DICOM file, which is not read here. Convert it to 8-bit PNG with the window of its own header "
        "(dcmj2pnm of DCMTK, or pydicom's apply_windowing), and use one group per patient."
    )


def is_dicom(path: Path) -> bool:
    """Tell by suffix, or by 'DICM' at byte 128, whether `path` is a DICOM file."""
    if path.suffix.lower() in _DICOM_SUFFIXES:
        return True
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _refuse_by_head(head: bytes, suffix: str, name: str) -> None:
    if suffix in _DICOM_SUFFIXES or head[128:132] == b"DICM":
        raise refuse_dicom(name)
    if not head:
        raise BrokenImage(f"{name} is an empty file.")
    if head.startswith(b"version https://git-lfs"):
        raise BrokenImage(f"{name} is a Git LFS pointer, not the image itself. Fetch it with `git lfs pull`.")


def _decode(
    stream: io.BufferedReader | io.BytesIO, suffix: str, window: tuple[float, float] | None, name: str
) -> Image.Image:
    with warnings.catch_warnings():
        # Decoders warn of odd metadata that changes no pixel; only the warning of a decompression bomb matters.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(stream) as image:
                _refuse_frames(image, name)
                _refuse_dropped_bits(image, window, name)
                image.load()
                return to_rgb(image, window=window, name=name)
        except InputError:
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise BrokenImage(
                f"{name} unfolds to more than {Image.MAX_IMAGE_PIXELS} pixels. Scale it down or cut it into tiles."
            ) from error
        except UnidentifiedImageError as error:
            hint = _HINTS.get(suffix, "remove it, or save it as PNG or JPEG")
            raise BrokenImage(f"{name} is no image that can be read; {hint}.") from error
        except Exception as error:  # decoders raise whatever they stumble over in a damaged file
            raise BrokenImage(f"{name} is damaged: {str(error) or type(error).__name__}.") from error


def _refuse_frames(image: Image.Image, name: str) -> None:
    # MPO is the JPEG of many phones and cameras: its first frame is the photograph, the others are previews.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise InputError(
            f"{name} holds {frames} frames or pages; one still image is needed. "
            "Save the frames as files of their own, and use one group per original file."
        )


def _refuse_dropped_bits(image: Image.Image, window: tuple[float, float] | None, name: str) -> None:
    # Pillow keeps the upper 8 of 16 bits per color channel: right for the full range only, near black for 12 bits.
    if image.mode in _DEEP_MODES or not any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        return
    if window is None:
        raise NeedsWindow(
            f"{name} has 16 bits per color channel. If they use the full range, pass --window 0:65535; "
            "otherwise save it with 8 bits per channel.",
            *_FULL_16_BIT,
        )
    if tuple(window) != _FULL_16_BIT:
        raise InputError(
            f"{name} has 16 bits per color channel, which can be read with --window 0:65535 only, "
            f"not with {window[0]:g}:{window[1]:g}. Save it with 8 bits per channel."
        )


def _windowed(image: Image.Image, window: tuple[float, float] | None, name: str) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    missing = int(np.isnan(values).sum())
    if missing:
        raise InputError(f"{name} holds {missing} pixels that are no number (NaN). Fill them before training.")
    if window is None:
        low, high = float(values.min()), float(values.max())
        raise NeedsWindow(
            f"{name} is deeper than 8 bits, with values {low:g} to {high:g}: which of them are black and "
            "white is yours to say, one window for all images. Pass --window LOW:HIGH.",
            low,
            high,
        )
    low, high = window
    levels = np.rint((np.clip(values, low, high) - low) * (255.0 / (high - low))).astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")
