"""Which column of a table holds the images, which the labels: shared by parquet files and Hugging Face datasets."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from stillscape._errors import InputError
from stillscape.data.image_set import named
from stillscape.data.images import BrokenImage, decode_bytes, decode_file


@dataclass(frozen=True)
class Columns:
    """What a table says about its columns.

    Attributes:
        table: what to call the table in messages.
        names: all columns.
        images: those declared as images.
        encoded: those that could hold encoded images by their type (bytes, or a struct with bytes).
        class_names: the class names of those declared as class labels.
    """

    table: str
    names: tuple[str, ...]
    images: tuple[str, ...] = ()
    encoded: tuple[str, ...] = ()
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def image(self) -> str:
        """Return the image column: the one declared so, or the one of fitting type; "image" among several."""
        for candidates in (self.images, self.encoded):
            if "image" in candidates:
                return "image"
            if len(candidates) == 1:
                return candidates[0]
            if candidates:
                raise InputError(
                    f"{self.table} has several image columns, {named(candidates)}, and none is called "
                    "image. Keep or rename one."
                )
        raise InputError(
            f"{self.table} has no image column; its columns are {named(self.names, 12)}. One must hold "
            "encoded images (bytes, or a struct of bytes and path)."
        )

    def label(self, wanted: str | None) -> str:
        """Return the label column: the wanted one, else "label", else the only one declared as class label."""
        if wanted is not None:
            return self.present("labels", wanted)
        if "label" in self.names:
            return "label"
        if len(self.class_names) == 1:
            return next(iter(self.class_names))
        if self.class_names:
            raise InputError(
                f"{self.table} has several label columns: {named(self.class_names)}. Choose one with --labels."
            )
        raise InputError(
            f"{self.table} has no column label; its columns are {named(self.names, 12)}. Choose one with --labels."
        )

    def present(self, parameter: str, column: str) -> str:
        """Return `column` if the table has it, else raise `InputError`."""
        if column not in self.names:
            raise InputError(f"{parameter} is {column!r}; {self.table} has the columns {named(self.names, 12)}.")
        return column


def decode_cell(
    cell: object, folder: Path, *, window: tuple[float, float] | None, name: str, also: Sequence[Path] = ()
) -> Image.Image:
    """Read the image in a cell: encoded bytes, or a mapping with `bytes`, or with a `path` relative to `folder`.

    A table that came from elsewhere may name any file; only those below `folder` or one of `also` are opened.
    """
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, Mapping) else (cell, None)
    if isinstance(data, bytes):
        return decode_bytes(data, window=window, name=name)
    if path:
        inside = any(_below(folder / path, root) for root in (folder, *also))
        if "\0" in str(path) or not inside:
            raise BrokenImage(f"{name} names the file {path!r}, which doesn't lie with its table and is not opened.")
        return decode_file(folder / path, window=window, name=name)
    raise BrokenImage(f"{name} holds no image.")


def _below(path: Path, root: Path) -> bool:
    # By its name, not by where links lead: caches of the Hub are made of links.
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))
