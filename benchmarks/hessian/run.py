"""How fast are the closed-form Hessians, against the fastest correct autodiff and against filling the output?

    python benchmarks/hessian/run.py              # some minutes; two threads, float64
    python benchmarks/hessian/run.py --small      # seconds; for a look, not for the record
    python benchmarks/hessian/run.py --only mean  # problems whose name contains this; printed, not written

Every way of `autodiff.py` is run once and compared with the closed form; the three fastest that agree to 1e-10 are then
timed in turn with the closed form and with allocating and filling an array of the output's size, several times over,
all in this one run. Ratios are those of the medians, with the best of the three. Every timed call follows one of its
own that isn't timed, so that each finds the memory it left itself and not another's. The floor is what PyTorch takes to
allocate and fill (pages of 4 KiB on most systems); the closed form takes large results from NumPy, which asks for huge
pages, so the same with those is timed too and stands beside it.
Where autodiff of all columns would take too long, a stated share of them is run, evenly spread, and its time scaled up
(with it one gradient that is needed once: under a hundredth); correctness is then checked on those columns. Memory is
measured in a fresh process each: its peak less what it held once imports and inputs were there, over the size of the
output. The same on a GPU where there is one.

How near the arithmetic is to what a machine can do at all, counted by hand for the full sizes: with every symmetry that
the closed form uses, the mean of the block takes about 46e9 floating-point operations in large products for 3 classes
and 65e9 for 10 (of these 5.5e9 and 25e9 are F'F of the loss), the mean of the layer 0.17e9. What is left of the layer's
mean is some eight hundred small operations, and of single samples mostly the traffic of 302 MB written once and half of
it again.

What comes out depends on the machine. `results.json` is of an Intel Xeon, where memory is slow to be handed out. On an
AMD EPYC, whose cores do about 58e9 operations a second each in large products (two need at least 1.5 ms, 0.40 s and
0.56 s for the three means), the code as it was one change before (one pass over a single sample more, and a slower copy
of the upper half) came to 5.3 times the fastest autodiff for single samples (at 0.93 of the floor), 25.7 for the mean
of the layer, 27.6 and 21.1 for that of the block with 3 and 10 classes.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import autodiff
import torch
from torch import Tensor

from stillscape.hessian import MSE, CrossEntropy, ExactHessian, self_attention, transformer_block
from stillscape.hessian.memory import fresh

RESULTS = Path(__file__).with_name("results.json")
EQUAL = 1e-10
FINALISTS = 3
EPS = 1e-5
#: What is aimed at; written beside what is found.
TARGETS = {
    "attention, per sample": {"times the floor": 2.0, "speed-up": 6.0, "memory over output": 1.3},
    "attention, mean": {"speed-up": 30.0, "memory over output": 1.3},
    "block of 3 classes, mean": {"speed-up": 25.0, "memory over output": 1.3},
    "block of 10 classes, mean": {"speed-up": 25.0, "memory over output": 1.3},
}
FULL = {"n": 64, "attention": (8, 16, 16), "block": (16, 24, 24, 96), "columns": 128, "repeats": 7}
SMALL = {"n": 4, "attention": (4, 4, 4), "block": (4, 6, 6, 8), "columns": 16, "repeats": 3}


@dataclass(frozen=True)
class Problem:
    """One thing to compute, by the closed form and by autodiff.

    Attributes:
        name: a key of `TARGETS`.
        closed: returns the closed form's Hessian, from the inputs on.
        value: what autodiff differentiates, as `autodiff` takes it.
        theta: the point, (P,) or (n, P).
        columns: those that autodiff computes.
        more: ways that only this problem has.
    """

    name: str
    closed: Callable[[], Tensor]
    value: Callable[[Tensor], Tensor]
    theta: Tensor
    columns: Tensor
    more: dict[str, autodiff.Way]

    @property
    def output_bytes(self) -> int:
        """Size of the result."""
        return self.theta.numel() * self.theta.shape[-1] * self.theta.element_size()

    @property
    def share(self) -> float:
        """Which part of the columns autodiff computes."""
        return len(self.columns) / self.theta.shape[-1]


def make(name: str, size: dict, device: str) -> Problem:
    """Return the problem of that name."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=draw, dtype=torch.float64)).to(device)

    return _attention(name, size, normal) if name.startswith("attention") else _block(name, size, normal, draw)


def _attention(name: str, size: dict, normal: Callable[..., Tensor]) -> Problem:
    (L, d, d_K), n = size["attention"], size["n"]
    X, target = normal(n, L, d), normal(n, L, d)
    weights = [normal(d, width, scale=d**-0.5) for width in (d_K, d_K, d)]
    theta, per_sample = torch.cat([W.reshape(-1) for W in weights]), name.endswith("per sample")

    def exact() -> ExactHessian:
        return self_attention(X, *weights, loss=MSE(target))

    def value(at: Tensor) -> Tensor:
        losses = autodiff.attention_losses(at, X, target, d_K)
        return losses.sum() if per_sample else losses.mean()

    def one(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return autodiff.attention_losses(at, x, y, d_K)

    columns = torch.arange(len(theta), device=theta.device)
    if not per_sample:
        return Problem(name, lambda: exact().mean(), value, theta, columns, {})
    chunks = (1, 4) if n >= 4 else (1,)
    more = {
        f"jacfwd(grad), {count} samples at once": autodiff.jacfwd_of_grad(one, (X, target), count) for count in chunks
    }
    copies = theta.expand(n, -1).contiguous()
    return Problem(name, lambda: exact().dense(), value, copies, columns, more)


def _block(name: str, size: dict, normal: Callable[..., Tensor], draw: torch.Generator) -> Problem:
    (L, d, d_K, d_f), n, classes = size["block"], size["n"], int(name.split()[2])
    X, head = normal(n, L, d), (normal(d, classes, scale=d**-0.5), normal(classes, scale=0.1))
    labels = torch.randint(classes, (n,), generator=draw).to(X.device)
    params = {}
    for key, shape in autodiff.block_shapes(d, d_K, d_f).items():
        center = 1.0 if key.startswith("gamma") else 0.0
        params[key] = center + normal(*shape, scale=shape[0] ** -0.5 if len(shape) > 1 else 0.1)

    def closed() -> Tensor:
        return transformer_block(X, params, loss=CrossEntropy(labels, *head, pool="mean"), eps=EPS).mean()

    def value(at: Tensor) -> Tensor:
        return autodiff.block_losses(at, X, labels, head, (d, d_K, d_f, EPS)).mean()

    theta = torch.cat([weight.reshape(-1) for weight in params.values()])
    count = min(size["columns"], len(theta))
    columns = torch.linspace(0, len(theta) - 1, count).round().long().to(X.device)
    return Problem(name, closed, value, theta, columns, {})


def seconds(run: Callable[[], object], device: str) -> float:
    """Return the wall seconds of one call; a GPU is waited for."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    took = time.perf_counter() - started
    del result
    return took


def contest(problem: Problem, device: str) -> tuple[list[str], dict[str, autodiff.Way], dict[str, dict]]:
    """Run every way of autodiff once and check it; return the fastest that are right, all ways, and their record."""
    want = problem.closed().index_select(-2, problem.columns)
    everyone, record = autodiff.ways(len(problem.columns)) | problem.more, {}
    for name, way in everyone.items():
        got: list[Tensor] = []

        def run(way: autodiff.Way = way, got: list[Tensor] = got) -> None:
            got[:] = [way(problem.value, problem.theta, problem.columns)]

        try:
            way(problem.value, problem.theta, problem.columns[:64])  # what PyTorch does once
            took = seconds(run, device)
        except torch.OutOfMemoryError as error:
            record[name] = {"failed": str(error).splitlines()[0]}
            continue
        difference = float((got.pop() - want).norm() / want.norm())
        record[name] = {"seconds": took, "scaled_seconds": took / problem.share, "relative_difference": difference}
    right = [name for name, row in record.items() if row.get("relative_difference", 1.0) < EQUAL]
    if not right:
        raise RuntimeError(f"{problem.name}: no way of autodiff agrees with the closed form: {record}")
    return sorted(right, key=lambda name: record[name]["seconds"])[:FINALISTS], everyone, record


def timing(problem: Problem, repeats: int, device: str) -> dict:
    """Time floor, closed form and the fastest ways of autodiff in turn; return medians and ratios."""
    shape = (*problem.theta.shape, problem.theta.shape[-1])
    finalists, everyone, record = contest(problem, device)
    runs: dict[str, Callable[[], object]] = {
        "floor": lambda: problem.theta.new_empty(shape).fill_(1.0),
        "floor of huge pages": lambda: fresh(problem.theta, *shape).fill_(1.0),
        "closed": problem.closed,
    }
    for name in finalists:
        runs[name] = lambda way=everyone[name]: way(problem.value, problem.theta, problem.columns)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            run()
            times[name].append(seconds(run, device))
    median = {name: statistics.median(values) for name, values in times.items()}
    best = min(finalists, key=median.__getitem__)
    scaled = median[best] / problem.share
    return {
        "parameters": problem.theta.shape[-1],
        "output_bytes": problem.output_bytes,
        "median_seconds": {name: median[name] for name in ("floor", "floor of huge pages", "closed")}
        | {"autodiff": scaled},
        "all_seconds": times,
        "times the floor": median["closed"] / median["floor"],
        "speed-up": scaled / median["closed"],
        "fastest_autodiff": best,
        "autodiff_share_of_columns": problem.share,
        "ways_of_autodiff": record,
    }


def process_bytes(line: str) -> int:
    """Return what this process holds now ("VmRSS") or held at most ("VmHWM"); without /proc, the latter for both.

    `getrusage` is the last resort: on Linux its peak is at first that of the process which started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = next(row for row in status.read_text().splitlines() if row.startswith(line))
        return int(found.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Let the peak be what is held now, where the system allows it; else what was held before counts too."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory_here(name: str, size: dict, device: str) -> dict:
    """Compute the closed form once in this process; return its peak over the size of the output."""
    make(name, SMALL, device).closed()  # the libraries' own buffers belong to imports
    problem = make(name, size, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = problem.closed()
        after = torch.cuda.max_memory_allocated()
    else:
        forget_peak()
        before = process_bytes("VmRSS")
        result = problem.closed()
        after = process_bytes("VmHWM")
    held = result.numel() * result.element_size()
    return {"before_bytes": before, "peak_bytes": after, "output_bytes": held, "ratio": (after - before) / held}


def memory(name: str, options: argparse.Namespace, device: str) -> float:
    """Return the ratio of `memory_here`, from a fresh process."""
    command = [sys.executable, __file__, "--memory", name, "--device", device, "--threads", str(options.threads)]
    command += ["--small"] if options.small else []
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["ratio"]


def measure(options: argparse.Namespace, device: str) -> dict:
    """Return the figures of every problem on a device."""
    size, found = SMALL if options.small else FULL, {}
    for name, target in TARGETS.items():
        if options.only not in name:
            continue
        found[name] = timing(make(name, size, device), options.repeats or size["repeats"], device)
        found[name] |= {"memory over output": memory(name, options, device), "target": target}
        print(_row(device, name, found[name]), flush=True)
    return found


def _row(device: str, name: str, row: dict) -> str:
    median = {key: f"{value * 1e3:.3g} ms" for key, value in row["median_seconds"].items()}
    share = row["autodiff_share_of_columns"]
    scaled = "" if share == 1 else f" (scaled from {share:.1%} of the columns)"
    figures = [f"{row[key]:.2f} {key}" + (f" (aim: {row['target'][key]})" if key in row["target"] else "")
               for key in ("times the floor", "speed-up", "memory over output")]  # fmt: skip
    return (
        f"{device} | {name} | P {row['parameters']} | closed {median['closed']}, floor {median['floor']} "
        f"(of huge pages {median['floor of huge pages']}), "
        f"autodiff {median['autodiff']}{scaled} by {row['fastest_autodiff']} | {' | '.join(figures)}"
    )


def environment(threads: int) -> dict:
    """Return what the figures depend on."""
    versions = {name: importlib.metadata.version(name) for name in ("stillscape", "torch", "numpy")}
    facts = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        models = [
            line.split(":", 1)[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")
        ]
        facts["cpu"] = models[0] if models else "unknown"
    facts |= {"threads": threads, "dtype": "float64", "load_average": os.getloadavg()}
    if torch.cuda.is_available():
        facts |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return facts | versions


def main() -> None:
    """Measure on the CPU, and on a GPU where there is one; write and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes; for a look")
    parser.add_argument("--repeats", type=int, default=0, help="interleaved repeats (default: 7, 3 with --small)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="only this one (default: all there are)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", metavar="NAME", default="", help="problems whose name contains this; writes nothing")
    parser.add_argument("--memory", choices=tuple(TARGETS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        size = SMALL if options.small else FULL
        print(json.dumps(memory_here(options.memory, size, options.device or "cpu")))
        return
    devices = [options.device] if options.device else ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    facts = environment(options.threads)
    figures = {"small": options.small, "devices": {device: measure(options, device) for device in devices}}
    if not options.only:
        options.out.write_text(json.dumps(figures | {"environment": facts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
