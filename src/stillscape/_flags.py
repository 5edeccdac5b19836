"""Flags and arguments of the command line, each said once; several commands share them."""

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

Data = Annotated[str, typer.Argument(help="Folder of images (a folder per class), parquet file, dataset, or 'digits'.")]
Out = Annotated[
    str | None,
    typer.Option("--out", help="Run folder, or its address (s3://...); one that exists is taken up again."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, everything else on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
PlanFile = Annotated[Path | None, typer.Argument(metavar="[PLAN.toml]", help="A plan; flags change it.")]
DataFlag = Annotated[
    str | None, typer.Option("--data", help="Folder, parquet file, Hugging Face dataset, or 'digits'.")
]
Labels = Annotated[str | None, typer.Option("--labels", help="CSV with columns file, label and perhaps group.")]
Groups = Annotated[
    str | None,
    typer.Option("--groups", help=r"Never split these: a column, or a pattern on file names such as '(patient\d+)_'."),
]
Window = Annotated[
    str | None, typer.Option("--window", metavar="LOW:HIGH", help="Grey values shown as black and white (16 bit).")
]
Model = Annotated[str | None, typer.Option("--model", help="Hub id, local folder, or 'bundled-vit'.")]
TrustRemoteCode = Annotated[
    bool | None,
    typer.Option(
        "--trust-remote-code", help="Run Python code that comes with the model, with your rights; off unless given."
    ),
]
Adapt = Annotated[
    list[str] | None, typer.Option("--adapt", help="head, last-layers:N, lora:R or full; may be given several times.")
]
Sizes = Annotated[str | None, typer.Option("--sizes", help="50,100,200,400, or how many sizes.")]
Repeats = Annotated[int | None, typer.Option("--repeats", help="Orders of the data.")]
Seeds = Annotated[int | None, typer.Option("--seeds", help="Training seeds for each order.")]
Epsilon = Annotated[float | None, typer.Option("--epsilon", help="Enough: the next doubling brings at most this.")]
Target = Annotated[float | None, typer.Option("--target", help="Enough: the metric is at least this.")]
Metric = Annotated[str | None, typer.Option("--metric", help="accuracy, balanced_accuracy, macro_f1, auroc, ...")]
SkipBroken = Annotated[bool | None, typer.Option("--skip-broken", help="Leave unreadable images out, and say so.")]
Curvature = Annotated[
    int | None, typer.Option("--curvature", help="Held-out images over which Hessians are measured; default: none.")
]
Evidence = Annotated[
    bool | None, typer.Option("--evidence", help="Ask the trained surfaces what they say of more data; no vote.")
]
Surface = Annotated[
    int | None, typer.Option("--surface", help="Held-out images over which the loss surface is drawn; default: none.")
]
Executor = Annotated[
    str | None, typer.Option("--executor", help="Where cells run: local, or ray (a cluster; needs stillscape[ray]).")
]
ShardFlag = Annotated[
    str | None, typer.Option("--shard", metavar="i/N", help="Measure the i-th of N shares of the cells, and stop; "
                             "then 'stillscape merge'.")
]  # fmt: skip
PrecisionFlag = Annotated[
    str | None, typer.Option("--precision", help="Of training: float32, bf16 or fp16 (GPU); scores stay float32.")
]
DeviceFlag = Annotated[
    str | None, typer.Option("--device", help="Where to compute: cpu, cuda, cuda:1, ...; default: cpu.")
]
Deterministic = Annotated[
    bool | None, typer.Option("--deterministic", help="Use only kernels that give the same bits each time.")
]
CellSeconds = Annotated[
    float | None, typer.Option("--cell-seconds", help="Time one cell may take; after it the cell counts as failed.")
]
Workers = Annotated[int | None, typer.Option("--workers", help="Cells at a time; default: what the cores can serve.")]
Budget = Annotated[str | None, typer.Option("--budget", help="Time the run may take: 90s, 30m, 2h. Cuts the plan.")]
Alpha = Annotated[
    float | None, typer.Option("--alpha", help="Chance of ever stopping while doublings still help; default 0.1.")
]
WatchFolder = Annotated[str | None, typer.Option("--out", help="Folder of the evidence; the next look goes on in it.")]
CostPerImage = Annotated[
    float | None, typer.Option("--cost-per-image", help="Of one more; with --value-per-point: enough is when it costs "
                               "more than it brings.")
]  # fmt: skip
ValuePerPoint = Annotated[
    float | None, typer.Option("--value-per-point", help="What a point (0.01) of the metric is worth, as the cost.")
]

#: Under which heading of the help each flag stands.
_PANELS: dict[str, tuple[Any, ...]] = {
    "The data": (DataFlag, Labels, Groups, Window, SkipBroken),
    "What is trained and measured": (
        Model,
        TrustRemoteCode,
        Adapt,
        Sizes,
        Repeats,
        Seeds,
        Metric,
        Curvature,
        Evidence,
        Surface,
    ),
    "What “enough” means": (Epsilon, Target, CostPerImage, ValuePerPoint, Alpha),
    "How it runs": (Workers, Budget, Executor, ShardFlag, CellSeconds, PrecisionFlag, Deterministic),
    "What comes out": (Out, WatchFolder, AsJson, Quiet),
}
for _title, _flags in _PANELS.items():
    for _flag in _flags:
        get_args(_flag)[1].rich_help_panel = _title
