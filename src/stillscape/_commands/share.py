"""`--shard` and `stillscape merge`: one plan on many machines without a cluster."""

import json
from typing import Annotated, Any

import typer

from stillscape._commands.common import examples, tell_of_trust
from stillscape._folders import Folder
from stillscape._processes import lasting_imports
from stillscape._terminal import TerminalProgress

EXAMPLE = examples("stillscape merge runs/a runs/b --out runs/all")
Folders = Annotated[list[str], typer.Argument(help="Run folders or their addresses, each made with --shard.")]


def measure(plan: Any, folder: Folder, shard: str, as_json: bool, quiet: bool) -> None:
    """Measure one share and say what comes next. A share has no verdict: exit code 0 says that it is done."""
    with lasting_imports():
        from stillscape.experiments import parse_shard, run_shard

    with TerminalProgress(quiet) as progress:
        done = run_shard(plan, folder, parse_shard(shard), progress=progress)
    failed = f", {done['failed']} of them failed" if done["failed"] else ""
    said = (
        f"Shard {done['shard']}: {done['cells']} cells measured{failed}; {folder} holds {done['there_of_all']} of all "
    )
    said += f"{done['cells_of_all']}. When every shard is done: "
    if done["there_of_all"] == done["cells_of_all"]:
        said += f"stillscape run --out {folder}"
    else:
        said += (
            "stillscape merge DIR DIR... --out DIR (folders of their own), or stillscape run --out DIR (a shared one)"
        )
    if as_json:
        print(json.dumps(done, indent=1))
    typer.echo(f"{said}.", err=as_json)


def merged(folders: list[str], out: str, workers: int | None, quiet: bool, trusted: bool | None) -> Any:
    """Copy the records together and return the plan to run in `out`."""
    with lasting_imports():
        from stillscape.experiments import merge

    with TerminalProgress(quiet) as progress:
        plan = merge(folders, out, progress=progress, trust_remote_code=bool(trusted))
    tell_of_trust(plan, quiet)
    return plan if workers is None else plan.model_copy(update={"workers": workers})
