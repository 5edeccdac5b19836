"""Images in a folder: a folder per class, or a flat folder with a table of labels."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from PIL import Image

from stillscape._errors import InputError
from stillscape.data.codes import class_codes
from stillscape.data.files import IMAGE_SUFFIXES, is_hidden, is_note, normal, refuse_foreign
from stillscape.data.image_set import ImageSet, first_seen_codes, named
from stillscape.data.images import decode_file
from stillscape.data.labels_csv import read_labels

_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})


@dataclass(frozen=True)
class FolderReader:
    """Reads the image of a row from its file."""

    root: Path
    files: tuple[str, ...]
    window: tuple[float, float] | None

    def __call__(self, row: int) -> Image.Image:
        """Return the image of `row`."""
        return decode_file(self.root / self.files[row], window=self.window, name=self.files[row])


def class_folders(root: Path, names: list[str], *, groups: str | None, window: tuple[float, float] | None) -> ImageSet:
    """Read a folder that holds a folder per class; images may lie deeper inside, and their class is the top folder."""
    names = [name for name in names if not is_note(name)]
    loose = [name for name in names if "/" not in name]
    if len(loose) == len(names):
        raise InputError(
            f"{root.name} holds no folder per class. Put the images of each class "
            "into a folder named after it, or pass --labels with a table of columns file,label."
        )
    loose_images = [name for name in loose if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if loose_images:
        raise InputError(
            f"{root.name} holds folders, and beside them images without a class: {len(loose_images)} "
            f"({named(loose_images)}). Move each into the folder of its class, or pass --labels."
        )
    refuse_foreign(root, names)
    _refuse_empty_classes(root, names)
    owners = [normal(name.split("/", 1)[0]) for name in names]
    _refuse_wrong_level(root, names, sorted(set(owners)))
    labels, classes = class_codes(owners, None, "the class folders")
    codes = None if groups is None else groups_by_pattern(groups, names)
    return ImageSet(root.name, tuple(names), labels, classes, codes, FolderReader(root, tuple(names), window))


def labeled_files(
    root: Path, names: list[str], *, labels: str, groups: str | None, window: tuple[float, float] | None
) -> ImageSet:
    """Read a folder whose labels stand in a table with the columns file, label and, optionally, group."""
    table_path = _find_table(root, labels)
    table = read_labels(table_path)
    in_folder = {normal(name): name for name in names if not _same_file(root / name, table_path)}
    unlabeled = [name for key, name in in_folder.items() if key not in table.rows and not is_note(name)]
    unknown = [file for file in table.rows if file not in in_folder]
    if unlabeled or unknown:
        raise InputError(_mismatch(root.name, table_path.name, unlabeled, unknown))
    keys = [key for key in in_folder if key in table.rows]
    files = [in_folder[key] for key in keys]
    refuse_foreign(root, files)
    codes, classes = class_codes([table.rows[key]["label"] for key in keys], None, f"label of {table_path.name}")
    column = groups if groups in table.columns else None
    if column is None and groups is None and "group" in table.columns:
        column = "group"
    group_codes: np.ndarray | None = None
    if column is not None:
        group_codes = first_seen_codes([_group_of(table.rows[key], column, table_path.name) for key in keys])
    elif groups is not None:
        group_codes = groups_by_pattern(groups, files)
    return ImageSet(root.name, tuple(files), codes, classes, group_codes, FolderReader(root, tuple(files), window))


def groups_by_pattern(pattern: str, names: list[str]) -> Int[np.ndarray, " n"]:
    r"""Number the groups that a regular expression with one group finds in the relative file names.

    >>> groups_by_pattern(r"(patient\d+)_", ["a/patient7_1.png", "b/patient7_2.png", "b/patient9_1.png"]).tolist()
    [0, 0, 1]
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"groups is {pattern!r}, which is no regular expression: {error}.") from None
    if compiled.groups != 1:
        raise InputError(
            f"groups is {pattern!r} with {compiled.groups} groups in parentheses; write exactly one, "
            r'around what names the group, for example "(patient\d+)_".'
        )
    matches = [compiled.search(name) for name in names]
    found = [match.group(1) if match else None for match in matches]
    missed = [name for name, group in zip(names, found, strict=True) if not group]
    if missed:
        raise InputError(
            f"groups is {pattern!r}, which finds no group in {len(missed)} of {len(names)} file names "
            f"({named(missed)}). Every file needs a group."
        )
    return first_seen_codes([group for group in found if group])


def _refuse_empty_classes(root: Path, names: list[str]) -> None:
    filled = {name.split("/", 1)[0] for name in names}
    folders = [entry.name for entry in root.iterdir() if entry.is_dir() and not is_hidden(entry.name)]
    empty = sorted(set(folders) - filled)
    if empty:
        raise InputError(f"{root.name} has class folders without any image: {named(empty)}. Fill or remove them.")


def _refuse_wrong_level(root: Path, names: list[str], owners: list[str]) -> None:
    if {owner.lower() for owner in owners} <= _SPLITS:
        raise InputError(
            f"{root.name} holds the folders {named(owners)}, which look like splits, not classes. "
            f"Pass one of them, for example {root.name}/{owners[-1]}."
        )
    if len(owners) == 1:
        deeper = any(name.count("/") > 1 for name in names)
        hint = f" Did you mean {root.name}/{owners[0]}?" if deeper else ""
        raise InputError(f"{root.name} holds one class folder only, {owners[0]}; at least two are needed.{hint}")


def _find_table(root: Path, labels: str) -> Path:
    for path in (Path(labels).expanduser(), root / labels):
        if path.is_file():
            return path
    raise InputError(f"labels is {labels!r}; there is no such file, neither from here nor inside {root.name}.")


def _same_file(one: Path, other: Path) -> bool:
    return one.name == other.name and os.path.samefile(one, other)


def _mismatch(folder: str, table: str, unlabeled: list[str], unknown: list[str]) -> str:
    parts = [f"{table} and {folder} don't match:"]
    if unlabeled:
        parts.append(f"files without a row: {len(unlabeled)} ({named(unlabeled)});")
    if unknown:
        parts.append(f"rows without a file: {len(unknown)} ({named(unknown)});")
    if unlabeled and unknown and any(Path(name).with_suffix("").as_posix() in unknown for name in unlabeled):
        parts.append("write file names with their suffix, relative to the folder.")
    else:
        parts.append("every image needs one row with its name relative to the folder.")
    return " ".join(parts)


def _group_of(row: dict[str, str], column: str, table: str) -> str:
    if not row[column]:
        raise InputError(f"{table} has no {column} for {row['file']}. Every image needs one, or none has.")
    return row[column]
