"""One door for every source of images."""

from pathlib import Path

from stillscape._errors import InputError
from stillscape.data.builtin import BUILT_IN, built_in
from stillscape.data.codes import checked
from stillscape.data.files import IMAGE_SUFFIXES, walk
from stillscape.data.folder import class_folders, labeled_files
from stillscape.data.image_set import ImageSet, fingerprint, keep
from stillscape.data.images import check_window, is_dicom, refuse_dicom

__all__ = ["ImageSet", "fingerprint", "keep", "open_images"]

_ACCEPTED = (
    "a folder with a folder per class, a flat folder with --labels, a parquet file or a folder of them, "
    "a saved Hugging Face dataset, a Hub id, or one of " + ", ".join(BUILT_IN)
)


def open_images(
    source: str, *, labels: str | None = None, groups: str | None = None, window: tuple[float, float] | None = None
) -> ImageSet:
    r"""Open labeled images, whatever they are kept in; no image is read yet.

    What lies on disk is looked for first, then built-in names ("digits", "mnist-5k"), then the Hugging Face Hub.
    Files are sorted, so that the order does not depend on the file system; hidden files are passed over. A dataset
    with several splits is read from its training split, which a logged warning and the set's name tell.

    Args:
        source: a folder with a folder per class (images may lie deeper inside); a flat folder, with `labels`; a
            parquet file or a folder of them; a folder written by `save_to_disk`; a Hub id; a built-in name.
        labels: for a folder, the path of a table with the columns file, label and, optionally, group; for parquet and
            Hugging Face data, the name of the label column, where it is not called label.
        groups: what must stay together: a column's name, or, for files, a regular expression with one group in
            parentheses that is searched in the relative file name, such as "(patient\d+)_".
        window: (low, high) for images deeper than 8 bits; see `to_rgb`.

    Returns:
        The set, with at least two classes of at least two images each.

    Raises:
        InputError: nothing there; no images or foreign files among them; labels or groups that don't match; fewer
            than two classes, or a class with one image.

    Cost:
        A walk over the folder, or a pass over the label column.

    Example:
        >>> digits = open_images("digits")
        >>> len(digits), digits.classes[:3], digits.read(0).size
        (1797, ('0', '1', '2'), (8, 8))
    """
    check_window(window)
    path = Path(source).expanduser()
    if source and path.is_dir():
        return checked(_from_folder(path, labels, groups, window))
    if source and path.exists():
        return checked(_from_file(path, labels, groups, window))
    if source in BUILT_IN:
        if labels is not None or groups is not None:
            given = "labels" if labels is not None else "groups"
            raise InputError(
                f"{given} is {labels or groups!r}; built-in data have their own labels and no groups. Leave it out."
            )
        return checked(built_in(source))

    from stillscape.data.hub import hub_dataset, looks_like_hub_id

    if looks_like_hub_id(source):
        return checked(hub_dataset(source, labels=labels, groups=groups, window=window))
    raise InputError(f"data is {source!r}; there is no such file or folder. Accepted: {_ACCEPTED}.")


def _from_folder(path: Path, labels: str | None, groups: str | None, window: tuple[float, float] | None) -> ImageSet:
    from stillscape.data.hub import is_saved_dataset, saved_dataset

    root = path.resolve()
    if is_saved_dataset(root):
        return saved_dataset(root, labels=labels, groups=groups, window=window)
    names = walk(root)
    if not names:
        raise InputError(f"{root.name} holds no files. Accepted: {_ACCEPTED}.")
    suffixes = {Path(name).suffix.lower() for name in names}
    if ".parquet" in suffixes and not suffixes & IMAGE_SUFFIXES:
        from stillscape.data.parquet import parquet_images, training_part

        tables = training_part([name for name in names if name.lower().endswith(".parquet")], root.name)
        files = [root / name for name in tables]
        return parquet_images(files, root.name, labels=labels, groups=groups, window=window)
    if labels is not None:
        return labeled_files(root, names, labels=labels, groups=groups, window=window)
    return class_folders(root, names, groups=groups, window=window)


def _from_file(path: Path, labels: str | None, groups: str | None, window: tuple[float, float] | None) -> ImageSet:
    if path.suffix.lower() == ".parquet":
        from stillscape.data.parquet import parquet_images

        return parquet_images([path], path.stem, labels=labels, groups=groups, window=window)
    if is_dicom(path):
        raise refuse_dicom(path.name)
    if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z"):
        raise InputError(f"{path.name} is an archive. Unpack it and pass the folder.")
    if path.suffix.lower() in (".csv", ".tsv"):
        raise InputError(f"{path.name} is a table. Pass the folder of the images as --data, and the table as --labels.")
    raise InputError(f"{path.name} is a file that can't be opened as a set of images. Accepted: {_ACCEPTED}.")
