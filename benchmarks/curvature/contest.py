"""The measurements: products, the top eigenvalue, the curve over k; each beside the float64 reference."""

import statistics
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import problem
import reference
import torch
from environments import OURS, call
from torch import Tensor, nn

RESIDUAL = 1e-3  # relative, in float64: who is below it has the eigenpair
CURVE_ERROR = 1e-2  # relative: what a peer's value along the curve is held to, from every start


@dataclass(frozen=True)
class Contest:
    """Where problem and vectors lie, and how much is run."""

    folder: Path
    threads: int
    small: bool

    @property
    def sizes(self) -> problem.Sizes:
        """How much is computed."""
        return problem.SMALL if self.small else problem.FULL

    def ask(self, name: str, task: str, **flags: object) -> list[dict]:
        """Run a task of a peer."""
        return call(name, task, self.folder, self.threads, self.small, **flags)

    def tried(self, rungs: list) -> list:
        """Return the settings of a solver to go through: all, or the default and a dear one."""
        return list(dict.fromkeys([rungs[0], rungs[-2]])) if self.small else rungs

    def vector(self, file: str) -> Tensor:
        """Return a vector that a peer left, and delete the file."""
        path = self.folder / file
        found = torch.as_tensor(np.load(path))
        path.unlink()
        return found

    @cached_property
    def hessian(self):
        """The float64 product with the mean Hessian of all batches."""
        model, images, labels = problem.load(self.folder)
        batches = problem.in_batches(images, labels, [self.sizes.batch] * self.sizes.batches)
        return reference.hessian(model, nn.CrossEntropyLoss(), batches)

    @cached_property
    def top(self) -> reference.Eigenpair:
        """The eigenpair of largest magnitude of the mean Hessian."""
        return reference.top_eigenpair(self.hessian, _size(self.folder))

    @cached_property
    def differences(self) -> dict[int, reference.Eigenpair]:
        """Likewise of H_{k+1} - mean(H_1..H_k), at the k where peers are run."""
        model, images, labels = problem.load(self.folder)
        return {
            k: reference.top_eigenpair(
                reference.hessian(model, problem.SignedMean(), problem.in_batches(images, labels, [k + 1])),
                _size(self.folder),
            )
            for k in self.sizes.solved
        }

    @cached_property
    def products(self) -> dict[str, Tensor]:
        """H v in float64 of every kind of product."""
        return {
            kind: reference.hessian(model, nn.CrossEntropyLoss(), batches)(problem.direction(model))
            for kind, (model, batches) in problem.product_problems(self.folder, self.sizes).items()
        }


def _size(folder: Path) -> int:
    return sum(p.numel() for p in problem.load(folder)[0].parameters())


def products(contest: Contest, name: str) -> dict[str, dict]:
    """Return for each way the error of each kind of product, and what one on a batch costs in gradients."""
    found: dict[str, dict] = {}
    for line in contest.ask(name, "products"):
        row = found.setdefault(line.get("way", "the process"), {})
        if "failed" in line:
            row[f"failed at {line.get('kind')}"] = line["failed"]
        elif "vector" in line:
            want = contest.products[line["kind"]]
            error = (contest.vector(line["vector"]).double() - want).norm() / want.norm()
            row[f"relative error, {line['kind']}"] = error.item()
        else:
            row |= _times(line["seconds"], line["gradient_seconds"])
    return found


def _times(taken: list[float], gradients: list[float]) -> dict:
    return {
        "median seconds": statistics.median(taken),
        "least seconds": min(taken),
        "median gradients": statistics.median(taken) / statistics.median(gradients),
        "least gradients": min(taken) / min(gradients),
        "all seconds": taken,
        "all gradient seconds": gradients,
    }


def climb(contest: Contest, name: str, way: str, rungs: list) -> dict:
    """Go up a solver's settings until the eigenpair is there from every start; return all that was tried."""
    tried: list[dict] = []
    for rung in contest.tried(rungs):
        for seed in range(contest.sizes.starts):
            tried.append({"rung": rung, "seed": seed} | solve(contest, name, way, rung, seed))
            if not tried[-1].get("there", False):
                break
        else:
            return {"rungs": tried, "setting": rung, "there": True, "runs": [], "failed runs": []}
    return {"rungs": tried, "setting": None, "there": False, "runs": [], "failed runs": []}


def again(contest: Contest, eigenvalue: dict[str, dict[str, dict]]) -> None:
    """Run all solvers that got there in turn, each round from another start; without rounds, keep the last run."""
    for seed in range(contest.sizes.rounds):
        print(f"eigenvalues, all in turn, start {seed}", flush=True)
        for name, ways in eigenvalue.items():
            for way, row in ways.items():
                if row["there"]:
                    run = {"seed": seed} | solve(contest, name, way, row["setting"], seed)
                    row["runs" if "failed" not in run else "failed runs"].append(run)
    if not contest.sizes.rounds:
        for row in (row for ways in eigenvalue.values() for row in ways.values() if row["there"]):
            row["runs"].append(row["rungs"][-1])


def solve(contest: Contest, name: str, way: str, rung: float | None, seed: int) -> dict:
    """Run a solver once; return what it took and how right it is."""
    line = contest.ask(name, "solve", way=way, rung=rung, seed=seed)[-1]
    if "failed" in line:
        return line
    line["relative residual"] = reference.relative_residual(
        contest.hessian, line["value"], contest.vector(line["vector"])
    )
    line["relative error"] = abs(line["value"] - contest.top.value) / abs(contest.top.value)
    line["there"] = max(line["relative residual"], line["relative error"]) <= RESIDUAL
    line["gradients"] = line["seconds"] / statistics.median(line["gradient_seconds"])
    del line["vector"]
    return line


def summary(row: dict) -> dict:
    """Return the medians over all runs at the setting that got there."""
    keys = ("products", "seconds", "gradients", "relative residual", "relative error", "peak_growth_bytes")
    medians = {key: _median([run[key] for run in row["runs"]]) for key in keys}
    return {"setting": row["setting"], "runs": len(row["runs"])} | medians


def _median(values: list) -> float | None:
    return None if None in values else statistics.median(values)


def difference(contest: Contest, name: str, way: str, rungs: list) -> list[dict]:
    """Run a peer on H_{k+1} - mean(H_1..H_k) at a few k, each at the cheapest setting that finds the norm.

    Finds it from every start, that is; products are the mean over the starts.
    """
    return [_difference_at(contest, name, way, rungs, k) for k in contest.sizes.solved]


def _difference_at(contest: Contest, name: str, way: str, rungs: list, k: int) -> dict:
    want, found = abs(contest.differences[k].value), {}
    for rung in contest.tried(rungs):
        lines: list[dict] = []
        for seed in range(contest.sizes.starts):
            line = contest.ask(name, "difference", way=way, rung=rung, seed=seed, k=k)[-1]
            if "failed" in line:
                return {"k": k, "rung": rung} | line
            (contest.folder / line.pop("vector")).unlink()
            lines.append({"relative error": abs(abs(line["value"]) - want) / want} | line)
            if lines[-1]["relative error"] > CURVE_ERROR:
                break
        worst = max(line["relative error"] for line in lines)
        mean = statistics.mean(line["products"] for line in lines)
        found = {"k": k, "rung": rung, "relative error": worst, "products": mean, "starts": lines}
        if worst <= CURVE_ERROR:
            break
    return found


def computed_curve(rows: list[dict], largest: int) -> float | None:
    """Return how many sample products all k up to `largest` would take: measured at some k, linear in log k between."""
    rows = [row for row in rows if "products" in row]
    if not rows:
        return None
    k = np.arange(1, largest + 1)
    passes = np.interp(np.log(k), np.log([row["k"] for row in rows]), [row["products"] for row in rows])
    return float((passes * (k + 1)).sum())


def our_curve(contest: Contest) -> dict:
    """Run the whole curve in one call, from every start; return what it took and its errors at a few k."""
    lines = [contest.ask(OURS, "curve", seed=seed)[-1] for seed in range(contest.sizes.starts)]
    if failed := [line for line in lines if "failed" in line]:
        return failed[0]
    for line in lines:
        want = [abs(contest.differences[k].value) for k in line["k"]]
        line["relative error"] = [abs(got - right) / right for got, right in zip(line["spectral"], want, strict=True)]
        line["gradients"] = line["seconds"] / statistics.median(line["gradient_seconds"])
    return {
        "sample_products": statistics.mean(line["sample_products"] for line in lines),
        "seconds": statistics.median(line["seconds"] for line in lines),
        "relative error": max(max(line["relative error"]) for line in lines),
        "starts": lines,
    }
