"""The door: reads arguments, calls the library, draws progress, and turns outcomes into exit codes.

Exit codes: 0 the answer is "reached"; 3 it is not; 2 the input can't be used; 4 the run failed, or a corrected
statement of the audit; 1 only for a bug.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stillscape._commands import audit, compare, forecast, reproduce, share, watch
from stillscape._commands.common import (
    BAD_INPUT,
    FAILED,
    NOT_REACHED,
    REACHED,
    examples,
    outcomes_as_exit_codes,
    plan_of,
    seconds_of,
    sizes_of,
    tell_of_trust,
    window_of,
)
from stillscape._errors import InputError
from stillscape._flags import (
    Adapt,
    AsJson,
    Budget,
    CellSeconds,
    CostPerImage,
    Curvature,
    Data,
    DataFlag,
    Deterministic,
    DeviceFlag,
    Epsilon,
    Evidence,
    Executor,
    Groups,
    Labels,
    Metric,
    Model,
    Out,
    PlanFile,
    PrecisionFlag,
    Quiet,
    Repeats,
    Seeds,
    ShardFlag,
    Sizes,
    SkipBroken,
    Surface,
    Target,
    TrustRemoteCode,
    ValuePerPoint,
    Window,
    Workers,
)
from stillscape._folders import Folder, as_folder
from stillscape._processes import lasting_imports, warm_up
from stillscape._terminal import TerminalProgress

app = typer.Typer(
    name="stillscape",
    help="How much data is enough? Sufficient dataset sizes for fine-tuned transformers.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
LONG_RUN_S = 3600.0


@app.command(epilog=examples("stillscape demo", "stillscape demo --out runs/demo --json > demo.json"))
def demo(
    out: Out = None,
    workers: Workers = None,
    executor: Executor = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run the main job on built-in data: scikit-learn's digits and the bundled pre-trained ViT."""
    with outcomes_as_exit_codes():
        if workers != 1:
            warm_up()
        with lasting_imports():
            from stillscape.experiments import demo_plan

        plan = demo_plan(workers=workers, executor=executor)
        _run(plan, as_folder(out or "runs/demo"), None, as_json, quiet)


@app.command(
    epilog=examples(
        "stillscape run --data photos/ --model google/vit-base-patch16-224 --adapt lora:8 --sizes 50,100,200,400 "
        "--repeats 5 --epsilon 0.01 --out runs/photos",
        "stillscape run --data photos/ --labels labels.csv --adapt head --adapt last-layers:1 --target 0.95",
        "stillscape run plan.toml --budget 30m",
        "stillscape run --out runs/photos --repeats 10",
    )
)
def run(
    plan: PlanFile = None,
    data: DataFlag = None,
    labels: Labels = None,
    groups: Groups = None,
    window: Window = None,
    model: Model = None,
    trust_remote_code: TrustRemoteCode = None,
    adapt: Adapt = None,
    sizes: Sizes = None,
    repeats: Repeats = None,
    seeds: Seeds = None,
    epsilon: Epsilon = None,
    target: Target = None,
    cost_per_image: CostPerImage = None,
    value_per_point: ValuePerPoint = None,
    metric: Metric = None,
    skip_broken: SkipBroken = None,
    curvature: Curvature = None,
    evidence: Evidence = None,
    surface: Surface = None,
    workers: Workers = None,
    budget: Budget = None,
    executor: Executor = None,
    shard: ShardFlag = None,
    cell_seconds: CellSeconds = None,
    device: DeviceFlag = None,
    precision: PrecisionFlag = None,
    deterministic: Deterministic = None,
    out: Out = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure how a model gets better with more data, and answer: is there enough?"""
    with outcomes_as_exit_codes():
        budget_s = seconds_of(budget)
        if workers != 1:
            warm_up()
        full_plan = plan_of(
            plan, out, data=data, labels=labels, groups=groups, window=window_of(window), model=model, adapt=adapt,
            sizes=sizes_of(sizes), repeats=repeats, seeds=seeds, epsilon=epsilon, target=target, metric=metric,
            cost_per_image=cost_per_image, value_per_point=value_per_point, skip_broken=skip_broken,
            curvature=curvature, evidence=evidence, surface=surface, workers=workers, executor=executor,
            cell_seconds=cell_seconds, device=device, precision=precision, deterministic=deterministic,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        tell_of_trust(full_plan, quiet)
        folder = _default_folder(full_plan) if out is None else as_folder(out)
        if shard is not None:
            if budget is not None:
                raise InputError(
                    f"budget is {budget!r} beside --shard; a budget cuts a plan by this machine's speed, and all "
                    "shards need the same plan. Give sizes, repeats and seeds instead."
                )
            share.measure(full_plan, folder, shard, as_json, quiet)
            return
        _run(full_plan, folder, budget_s, as_json, quiet)


@app.command(
    "plan",
    epilog=examples(
        "stillscape plan --data photos/ --model google/vit-base-patch16-224 --adapt lora:8",
        "stillscape plan plan.toml --repeats 10",
    ),
)
def plan_command(
    plan: PlanFile = None,
    data: DataFlag = None,
    labels: Labels = None,
    groups: Groups = None,
    window: Window = None,
    model: Model = None,
    trust_remote_code: TrustRemoteCode = None,
    adapt: Adapt = None,
    sizes: Sizes = None,
    repeats: Repeats = None,
    seeds: Seeds = None,
    metric: Metric = None,
    skip_broken: SkipBroken = None,
    curvature: Curvature = None,
    evidence: Evidence = None,
    surface: Surface = None,
    workers: Workers = None,
    device: DeviceFlag = None,
    precision: PrecisionFlag = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run would cost, from a few steps of this model on this machine; run nothing."""
    with outcomes_as_exit_codes():
        from stillscape.experiments import Silent, estimate, set_up, wall_seconds

        full_plan = plan_of(
            plan, None, data=data, labels=labels, groups=groups, window=window_of(window), model=model, adapt=adapt,
            sizes=sizes_of(sizes), repeats=repeats, seeds=seeds, metric=metric, skip_broken=skip_broken,
            curvature=curvature, evidence=evidence, surface=surface, workers=workers, device=device,
            precision=precision, trust_remote_code=trust_remote_code,
        )  # fmt: skip
        tell_of_trust(full_plan)
        bench, images = set_up(full_plan, Path("."), Silent())
        costs = estimate(bench, images)
        seconds = wall_seconds(bench, costs)
        if as_json:
            print(
                json.dumps({"sizes": bench.sizes, "seconds": seconds, "costs": [c.__dict__ for c in costs]}, indent=1)
            )
            return
        _print_costs(costs, bench.sizes, seconds)


@app.command(
    epilog=examples(
        "stillscape doctor photos/",
        "stillscape doctor photos/ --labels labels.csv --groups patient",
        "stillscape doctor photos/ --groups '(patient[0-9]+)_' --sizes 50,100,200",
    )
)
def doctor(
    data: Data,
    labels: Labels = None,
    groups: Groups = None,
    window: Window = None,
    sizes: Sizes = None,
    quiet: Quiet = False,
) -> None:
    """Say what is wrong with a dataset, before money is spent on it."""
    with outcomes_as_exit_codes():
        from stillscape.data import examine, open_images

        images = open_images(data, labels=labels, groups=groups, window=window_of(window))
        wanted = sizes_of(sizes)
        listed = wanted if isinstance(wanted, list) else None  # of a bare count nothing can be said beforehand
        with TerminalProgress(quiet) as progress:
            progress.stage("reading images", len(images.files))
            found = examine(images, sizes=listed, progress=lambda done, _: progress.advance(done))
        print(found.to_text())
        if found.problems:
            raise typer.Exit(BAD_INPUT)


@app.command(epilog=examples("stillscape report runs/photos"))
def report(folder: Annotated[str, typer.Argument(help="A run folder, or its address.")]) -> None:
    """Draw report.html and the figures again, from what the run folder holds."""
    with outcomes_as_exit_codes():
        from stillscape.experiments import read_result
        from stillscape.report import write_report

        result = read_result(folder)
        print(f"report: {write_report(result, folder)}")
        raise typer.Exit(_exit_code(result))


def _run(plan: Any, folder: Folder, budget_s: float | None, as_json: bool, quiet: bool) -> None:
    from stillscape import experiments
    from stillscape.report import write_report

    with TerminalProgress(quiet) as progress:
        result = experiments.run(plan, folder, progress=progress, budget_s=budget_s)
        path = write_report(result, folder)
    if as_json:
        print(json.dumps(result, indent=1))
        typer.echo(f"report: {path}", err=True)
    else:
        for part in result["results"]:
            print("\n".join([f"{part['adapt']}: {part['verdict']['sentence']}", *part["said"], ""]))
        print(f"Verdict: {result['verdict']['sentence']}")
        print(f"Report:  {path}")
    if all(cell["status"] == "failed" for part in result["results"] for cell in part["cells"]):
        raise typer.Exit(FAILED)
    raise typer.Exit(_exit_code(result))


def _exit_code(result: dict[str, Any]) -> int:
    return REACHED if result["verdict"]["status"] == "reached" else NOT_REACHED


def _default_folder(plan: Any) -> Path:
    from stillscape.experiments import content_key
    from stillscape.experiments.plan import ARITHMETIC

    fixed = {name: value for name, value in plan.without_revisable().items() if name not in ARITHMETIC}
    return Path("runs") / f"{Path(plan.data).name}-{content_key(fixed | plan.arithmetic())[:8]}"


def _print_costs(costs: list[Any], sizes: tuple[int, ...], seconds: float) -> None:
    table = Table("adaptation", "cells", "trainings", "images through the model", "computing", "cache on disk")
    for cost in costs:
        table.add_row(
            cost.adapt, str(cost.cells), str(cost.trainings), f"{cost.sample_passes:,}", _minutes(cost.seconds),
            f"{cost.cache_bytes / 2**20:.0f} MiB",
        )  # fmt: skip
    Console().print(f"Sizes {', '.join(map(str, sizes))}.", table, f"About {_minutes(seconds)} on this machine.")
    if seconds > LONG_RUN_S:
        worst = max(costs, key=lambda cost: cost.seconds)
        print(
            f"That is long. {worst.adapt} takes most of it; what to cut: its largest size, --repeats or --seeds, "
            "or let --budget 1h choose."
        )


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


@app.command(epilog=share.EXAMPLE)
def merge(
    folders: share.Folders,
    out: Annotated[str, typer.Option("--out", help="Run folder for the whole; may be one of them.")],
    workers: Workers = None,
    trust_remote_code: TrustRemoteCode = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put run folders of one plan together (of --shard 1/4, 2/4, ...), measure what is still missing, and report."""
    with outcomes_as_exit_codes():
        _run(share.merged(folders, out, workers, quiet, trust_remote_code), as_folder(out), None, as_json, quiet)


app.command(epilog=audit.EXAMPLE)(audit.audit)
app.command(epilog=compare.EXAMPLE)(compare.compare)
app.command(epilog=forecast.EXAMPLE)(forecast.forecast)
app.command(epilog=watch.EXAMPLE)(watch.watch)
app.command(epilog=reproduce.EXAMPLE)(reproduce.reproduce)


def main() -> None:
    """Run the command line."""
    sys.exit(app())


if __name__ == "__main__":
    main()
