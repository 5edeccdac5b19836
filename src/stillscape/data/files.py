"""Walk a folder of images: the same list on every file system, and nothing in it that is no image."""

import unicodedata
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from stillscape._errors import InputError
from stillscape.data.image_set import named
from stillscape.data.images import is_dicom, refuse_dicom

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
_HIDDEN = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"})
_NOTES = frozenset({".csv", ".json", ".md", ".tsv"})


def walk(root: Path) -> list[str]:
    """List every file below `root` by its relative name with forward slashes, sorted; hidden ones are left out.

    Links to folders are followed, except back into a folder that is being walked.
    """
    found: list[str] = []
    _walk(root, "", (root.resolve(),), found)
    return sorted(found, key=sort_key)


def sort_key(name: str) -> tuple[list[str], str]:
    """Return what file names are sorted by: their parts, so that a folder's files stay together.

    Accented letters are compared in one spelling, because file systems differ in it.
    """
    return normal(name).split("/"), name


def normal(name: str) -> str:
    """Return `name` with accented letters composed (Unicode NFC), as most systems but not all store them."""
    return unicodedata.normalize("NFC", name)


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is hidden, or is left behind by a system or a viewer (Thumbs.db, @eaDir)."""
    return name.startswith(".") or name.lower() in _HIDDEN


def is_note(name: str) -> bool:
    """Tell whether a file beside the class folders is a note about the data rather than a part of it."""
    stem = name.rsplit("/", 1)[-1].lower()
    return "/" not in name and (Path(stem).suffix in _NOTES or stem.startswith(("readme", "license", "licence")))


def refuse_foreign(root: Path, names: list[str]) -> None:
    """Raise `InputError` that names the DICOM files, or else the files that are no images, if there are any.

    Only files without a usual suffix of images are opened; damage inside an image is for the scan to find.
    """
    foreign = [name for name in names if Path(name).suffix.lower() not in IMAGE_SUFFIXES]
    for name in foreign:
        if is_dicom(root / name):
            raise refuse_dicom(name)
    strangers = [name for name in foreign if not _opens(root / name)]
    if strangers:
        raise InputError(
            f"Files among the images of {root.name} that are no images: {len(strangers)} ({named(strangers)}). "
            "Move them elsewhere, or save them as PNG or JPEG."
        )


def _walk(folder: Path, prefix: str, ancestors: tuple[Path, ...], found: list[str]) -> None:
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise InputError(f"folder {prefix or folder} can't be listed: {error.strerror}.") from error
    for entry in entries:
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            real = entry.resolve()
            if real not in ancestors:
                _walk(entry, f"{prefix}{entry.name}/", (*ancestors, real), found)
        else:
            found.append(prefix + entry.name)


def _opens(path: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path):
                return True
        except Image.DecompressionBombError:
            return True
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
            return False
