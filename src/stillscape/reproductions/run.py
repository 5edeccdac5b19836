"""From a name to findings and their files."""

import json
import os
import platform
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from stillscape import _checks
from stillscape._errors import InputError, RecordError
from stillscape._files import write_whole
from stillscape.experiments import Progress, Silent
from stillscape.experiments.provenance import ATTENTION, versions
from stillscape.experiments.threads import thread_count
from stillscape.reproductions.assumption_1 import ASSUMPTION_1
from stillscape.reproductions.base import BASE
from stillscape.reproductions.block_heterogeneity import BLOCK_HETEROGENEITY
from stillscape.reproductions.catalogue import Reproduction, Workplace
from stillscape.reproductions.diversity import DIVERSITY
from stillscape.reproductions.findings import Findings
from stillscape.reproductions.growth_rates import GROWTH_RATES
from stillscape.reproductions.losses import LOSSES
from stillscape.reproductions.mlp import MLP
from stillscape.reproductions.regularisation import REGULARISATION
from stillscape.reproductions.text import TEXT
from stillscape.reproductions.tightness import TIGHTNESS
from stillscape.reproductions.vit import VIT

#: All reproductions by name, in the order in which they are read.
CATALOGUE: dict[str, Reproduction[Any]] = {
    each.name: each
    for each in (
        BASE,
        VIT,
        TEXT,
        GROWTH_RATES,
        BLOCK_HETEROGENEITY,
        MLP,
        REGULARISATION,
        LOSSES,
        DIVERSITY,
        ASSUMPTION_1,
        TIGHTNESS,
    )
}
SIZES = ("full", "quick")


def reproduce(
    name: str,
    folder: Path,
    *,
    size: str = "full",
    assets: Path = Path("assets"),
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Findings:
    """Build a published figure or table again, and return what was found beside what was published.

    Args:
        name: of `CATALOGUE`.
        folder: where runs are kept that can be taken up again.
        size: "full", or "quick": the same code on less data, in seconds, whose numbers say little.
        assets: folder of weights and data that don't ship with the library.
        settings: changes to the settings of that size, by name.
        progress: where to report to.

    Raises:
        InputError: an unknown name or setting, or an asset that isn't there.

    Cost: seconds where quick; the wall time of full sizes stands in the header of each plan.
    """
    reproduction = CATALOGUE[_checks.one_of("name", name, CATALOGUE)]
    _checks.one_of("size", size, SIZES)
    chosen = settings_of(reproduction, size, settings or {})
    started = time.perf_counter()
    with thread_count(1):  # the last digits hang on the number of threads
        found = reproduction.measure(chosen, Workplace(folder, assets, progress or Silent()))
    spent = {"seconds": round(time.perf_counter() - started, 1), **_circumstances()}
    return Findings(
        name,
        size,
        chosen.model_dump(mode="json"),
        found.numbers,
        found.claims,
        found.panels,
        found.remarks,
        found.violations,
        spent,
    )


def settings_of(reproduction: Reproduction[Any], size: str, changes: Mapping[str, Any]) -> Any:
    """Return the settings of a size with changes.

    Raises:
        InputError: a setting is unknown or out of range.
    """
    known = reproduction.settings.model_fields
    for field in changes:
        if field not in known:
            raise InputError(f"{field} is no setting of {reproduction.name}; it has {', '.join(known)}.")
    start = dict(reproduction.quick) if size == "quick" else {}
    try:
        return reproduction.settings(**{**start, **changes})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"{where} is {problem['input']!r}: {problem['msg'].lower()}.") from None


def write_findings(found: Findings, folder: Path) -> list[Path]:
    """Write findings.json and the figure as SVG and PDF; return the paths."""
    from stillscape.reproductions.figures import figure_files

    path = folder / "findings.json"
    write_whole(path, (json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n").encode())
    paths = [path]
    for kind, content in figure_files(found).items():
        paths.append(folder / f"{found.name}.{kind}")
        write_whole(paths[-1], content)
    return paths


def read_findings(path: Path) -> Findings:
    """Return findings from a file.

    Raises:
        RecordError: if it is damaged or of another schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{str(path)!r} can't be read ({error}); run the reproduction again.") from None
    if not isinstance(content, dict):
        raise RecordError(f"{str(path)!r} holds no findings; run the reproduction again.")
    return Findings.from_dict(content)


def read_plan(path: Path) -> tuple[str, dict[str, Any]]:
    """Return name and settings of a plan as `plan_text` writes it.

    Raises:
        InputError: if it can't be read or names no reproduction.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"plan {str(path)!r} can't be read: {error.strerror}. Give the path of a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"plan {str(path)!r} is not valid TOML: {error}.") from None
    name, settings = content.get("reproduce"), content.get("settings", {})
    if name not in CATALOGUE or not isinstance(settings, dict):
        raise InputError(f"reproduce is {name!r} in {str(path)!r}; it must be one of {', '.join(CATALOGUE)}.")
    return str(name), settings


def plan_text(name: str, header: str) -> str:
    """Return the plan of a full size as a TOML document under a header of comments."""
    settings = CATALOGUE[name].settings().model_dump(mode="json")
    comments = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return comments + tomli_w.dumps({"reproduce": name, "settings": settings})


def _circumstances() -> dict[str, Any]:
    return {
        **versions(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, one thread used",
        "attention": ATTENTION,
    }
