"""What every `peer_*.py` shares: an adapter says how a peer does it, `serve` runs it and prints figures as JSON lines.

One process does one task, so that peaks of memory are its own; a first call on a few samples brings in what libraries
load once. Within a process every time stands beside that of the plain gradient of the same samples.
"""

import argparse
import contextlib
import gc
import importlib.metadata
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import problem
import torch
from problem import Batches
from torch import Tensor, nn

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Solution:
    """What an eigensolver returned: a value, its vector, and how many products it says it took, if it says so."""

    value: float
    vector: Tensor
    products: float | None = None


@dataclass(frozen=True)
class Solver:
    """One way to a top eigenvalue.

    Attributes:
        solve: takes model, loss, batches and a rung.
        rungs: settings from cheap to dear, the peer's default (where it has one) first.
        counts_by: what tells how many products there were where the peer does not: "forward" (samples that went through
            the model), "graph" (second backward passes, one for each batch) or "graph of all" (one for all samples).
    """

    solve: Callable[[nn.Module, nn.Module, Batches, float | None], Solution]
    rungs: tuple[float | None, ...]
    counts_by: str = "graph"


@dataclass(frozen=True)
class Adapter:
    """How a peer does it.

    Attributes:
        package: its name on the package index.
        products: for each way a function of model, loss and batches that returns v -> H v, flat.
        solvers: likewise for the eigenvalue of largest magnitude.
        more: tasks that only this peer has, as functions of the command line's options.
    """

    package: str
    products: dict[str, Callable[[nn.Module, nn.Module, Batches], Product]]
    solvers: dict[str, Solver]
    more: dict[str, Callable[[argparse.Namespace], dict]] = field(default_factory=dict)


def serve(adapter: Adapter) -> None:
    """Run the task that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", help="list | products | solve | difference, or one that only this adapter has")
    parser.add_argument("--folder", type=Path, required=True, help="where problem.pt lies and vectors go")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way")
    parser.add_argument("--rung", type=json.loads, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--k", type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with contextlib.redirect_stdout(sys.stderr):  # some peers print; standard output is for figures
        for line in _run(adapter, options):
            print(json.dumps(line), file=sys.__stdout__, flush=True)


def _run(adapter: Adapter, options: argparse.Namespace) -> Iterator[dict]:
    sizes = problem.SMALL if options.small else problem.FULL
    if options.task == "list":
        names = (adapter.package, "torch", "numpy", "scipy")
        yield {
            "products": list(adapter.products),
            "solvers": {name: list(solver.rungs) for name, solver in adapter.solvers.items()},
            "versions": {name: _version(name) for name in names},
        }
    elif options.task == "products":
        yield from _products(adapter, options, sizes)
    else:
        task = {"solve": _solve, "difference": _difference}.get(options.task)
        run = (lambda: task(adapter, options, sizes)) if task else lambda: adapter.more[options.task](options)
        try:
            yield run()
        except Exception as error:
            traceback.print_exc()
            yield {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _products(adapter: Adapter, options: argparse.Namespace, sizes: problem.Sizes) -> Iterator[dict]:
    """Save what each way makes of each kind of product; time those of one batch in turn with the gradient."""
    for kind, (model, batches) in problem.product_problems(options.folder, sizes).items():
        loss, v = nn.CrossEntropyLoss(), problem.direction(model)
        runs: dict[str, Callable[[], Tensor]] = {}
        for way, make in adapter.products.items():
            file = f"{adapter.package}.{kind}.{_slug(way)}.npy"
            try:
                run = partial(make(model, loss, batches), v)
                np.save(options.folder / file, run().numpy())
            except Exception as error:
                traceback.print_exc()
                yield {"kind": kind, "way": way, "failed": f"{type(error).__name__}: {error}".splitlines()[0]}
            else:
                runs[way] = run
                yield {"kind": kind, "way": way, "vector": file}
        if kind == "product":
            yield from _in_turn(runs, partial(problem.gradient, model, loss, batches), sizes.repeats)


def _in_turn(runs: dict[str, Callable[[], Tensor]], gradient: Callable[[], Tensor], repeats: int) -> Iterator[dict]:
    gradient()
    times: dict[str, list[float]] = {way: [] for way in ("", *runs)}
    for _ in range(repeats):
        for way, run in {"": gradient, **runs}.items():
            times[way].append(seconds(run)[0])
    for way in runs:
        yield {"kind": "product", "way": way, "seconds": times[way], "gradient_seconds": times[""]}


def _solve(adapter: Adapter, options: argparse.Namespace, sizes: problem.Sizes) -> dict:
    """Solve for the mean over all batches; the driver looks at the vector."""
    model, images, labels = problem.load(options.folder)
    batches = problem.in_batches(images, labels, [sizes.batch] * sizes.batches)
    return _measured(adapter, options, model, nn.CrossEntropyLoss(), batches)


def _difference(adapter: Adapter, options: argparse.Namespace, sizes: problem.Sizes) -> dict:
    """Solve for H_{k+1} - mean(H_1..H_k)."""
    model, images, labels = problem.load(options.folder)
    batches = problem.in_batches(images, labels, [options.k + 1])
    return _measured(adapter, options, model, problem.SignedMean(), batches)


def _measured(
    adapter: Adapter, options: argparse.Namespace, model: problem.TinyViT, loss: nn.Module, batches: Batches
) -> dict:
    solver = adapter.solvers[options.way]
    _warm_up(adapter, model, loss, batches)
    samples = sum(len(y) for _, y in batches)
    gradient_seconds = [seconds(lambda: problem.gradient(model, loss, batches))[0] for _ in range(3)]
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002 - what peers draw from
    model.samples_seen = 0
    with _graph_calls() as calls:
        (took, found), peak = with_peak(lambda: seconds(lambda: solver.solve(model, loss, batches, options.rung)))
    counted = {
        "own": found.products,
        "forward": model.samples_seen / samples,
        "graph": calls[0] / len(batches),
        "graph of all": calls[0],
    }
    file = f"{adapter.package}.{options.task}.{_slug(options.way)}.{options.k}.{options.rung}.{options.seed}.npy"
    np.save(options.folder / file, found.vector.detach().numpy())
    return {
        "value": found.value,
        "vector": file,
        "products": counted["own"] if found.products is not None else counted[solver.counts_by],
        "products_counted_by": "own" if found.products is not None else solver.counts_by,
        "products_as_counted": counted,
        "seconds": took,
        "gradient_seconds": gradient_seconds,
        "peak_growth_bytes": peak,
    }


def _warm_up(adapter: Adapter, model: nn.Module, loss: nn.Module, batches: Batches) -> None:
    """Bring in what is loaded once: a gradient and a product of the first way on four samples."""
    few = [(batches[0][0][:4], batches[0][1][:4])]
    problem.gradient(model, loss, few)
    next(iter(adapter.products.values()))(model, loss, few)(problem.direction(model))
    model.zero_grad(set_to_none=True)
    gc.collect()


@contextlib.contextmanager
def _graph_calls() -> Iterator[list[int]]:
    """Count calls of `torch.autograd.grad` that are given a vector: the second of two backward passes."""
    real, calls = torch.autograd.grad, [0]

    def counting(*args, **kwargs):
        given = kwargs.get("grad_outputs", args[2] if len(args) > 2 else None)
        calls[0] += given is not None
        return real(*args, **kwargs)

    torch.autograd.grad = counting
    try:
        yield calls
    finally:
        torch.autograd.grad = real


def seconds(run: Callable[[], object]) -> tuple[float, object]:
    """Return the wall seconds of a call and its result."""
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def with_peak(run: Callable[[], object]) -> tuple[object, int | None]:
    """Return the result of a call and by how much it raised the memory held; None where /proc does not tell."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # let the peak be what is held now
        before = _status("VmRSS")
        result = run()
        return result, _status("VmHWM") - before
    except OSError:
        return run(), None


def _status(line: str) -> int:
    rows = Path("/proc/self/status").read_text().splitlines()
    return int(next(row for row in rows if row.startswith(line)).split()[1]) * 1024


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)
