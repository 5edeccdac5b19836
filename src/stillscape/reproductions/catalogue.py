"""The list of reproductions: each with its settings, its quick size and the function that measures it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from stillscape._errors import InputError
from stillscape.experiments import Progress
from stillscape.reproductions.findings import Findings


@dataclass(frozen=True)
class Workplace:
    """Where a reproduction works; nothing in it moves a number.

    Attributes:
        folder: for runs that can be taken up again.
        assets: where weights and data lie that don't ship with the library.
        progress: where to report to.
    """

    folder: Path
    assets: Path
    progress: Progress

    def asset(self, name: str, what: str) -> str:
        """Return the path of an asset, written "assets:NAME" in settings; any other name stays as it is.

        Raises:
            InputError: if it isn't there.
        """
        if not name.startswith(ASSETS):
            return name
        path = self.assets / name.removeprefix(ASSETS)
        found = next((p for p in (path, path.with_name(f"{path.name}.parquet")) if p.exists()), None)
        if found is None:
            raise InputError(
                f"{what} is {name!r}, but {str(self.assets)!r} holds no {path.name!r}. Make it with "
                f"benchmarks/verdict/prepare.py and name its folder with --assets, or give another with --{what}."
            )
        return str(found.resolve())  # as plans keep it, wherever the command is called from


class Settings(BaseModel):
    """What decides the numbers of a reproduction; the defaults are its full size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0


ASSETS = "assets:"
NEEDS_MNIST = "MNIST-5k as benchmarks/verdict/prepare.py makes it; any other images by --data"
S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Reproduction(Generic[S]):
    """A published figure or table that can be built again.

    Attributes:
        name: as the command line calls it.
        title: what is shown.
        source: where it was published.
        settings: the type of its settings; its defaults are the full size.
        quick: what the quick size changes.
        measure: from settings and a workplace, the findings.
        needs: what the full size needs beside the library, in a sentence; empty where it needs nothing.
    """

    name: str
    title: str
    source: str
    settings: type[S]
    measure: Callable[[S, Workplace], Findings]
    quick: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""

    def settings_of(self, size: str) -> S:
        """Return the settings of the full or the quick size."""
        return self.settings(**(self.quick if size == "quick" else {}))
