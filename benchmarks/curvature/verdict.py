"""What is aimed at beside what is found, and the tables that are printed."""

import statistics

import contest
from environments import OURS

#: What is aimed at; written beside what is found.
TARGETS = {
    "relative error of H v, float32": "at most 1e-6",
    "gradients for a product": "at most 3.2",
    "products to the top eigenvalue": "at most 11",
    "time to the top eigenvalue over the fastest correct peer's": "at most 0.6",
    "a peer's sample products for the curve over ours": "at least 100",
}
EXACT = 1e-5  # a peer whose products are off by more is not called correct


def verdict(found: dict) -> dict:
    """Return for each target what was found; None where the run does not tell."""
    ways = found["products"].get(OURS, {})
    errors = [value for row in ways.values() for key, value in row.items() if key.startswith("relative error")]
    gradients = [row["median gradients"] for row in ways.values() if "median gradients" in row]
    solved = {(name, way): contest.summary(row) for name, way, row in _solvers(found) if row["runs"]}
    ours = [row for (name, _), row in solved.items() if name == OURS]
    peers = {key: row for key, row in solved.items() if key[0] != OURS}
    right = {key: row for key, row in peers.items() if _exact(found, key[0], key[1])}
    curves = [row["computed sample products"] for row in found["curve"].values() if row.get("computed sample products")]
    curve = found["curve"].get(OURS, {}).get("sample_products")
    values = (
        max(errors, default=None),
        min(gradients, default=None),
        min((row["products"] for row in ours), default=None),
        _share(ours, right, "seconds"),
        min(curves) / curve if curves and curve else None,
    )
    rows = {name: {"aim": aim, "found": value} for (name, aim), value in zip(TARGETS.items(), values, strict=True)}
    time = rows["time to the top eigenvalue over the fastest correct peer's"]
    time["in gradients of the same process"] = _share(ours, right, "gradients")
    time["the fastest correct peer"] = " | ".join(min(right, key=lambda key: right[key]["seconds"])) if right else None
    products = rows["a peer's sample products for the curve over ours"]
    products["our largest error at the k compared"] = found["curve"].get(OURS, {}).get("relative error")
    products["what peers are held to there"] = contest.CURVE_ERROR
    time["over the fastest that got there, inexact products too"] = _share(ours, peers, "seconds")
    return rows


def _solvers(found: dict):
    return ((name, way, row) for name, ways in found["eigenvalue"].items() for way, row in ways.items())


def _share(ours: list[dict], peers: dict, key: str) -> float | None:
    return min(row[key] for row in ours) / min(row[key] for row in peers.values()) if ours and peers else None


def _exact(found: dict, name: str, solver: str) -> bool:
    """Whether products of the peer are right, on equal batches; finite differences are told by the way's name."""
    ways = found["products"].get(name, {})
    alike = [row for way, row in ways.items() if ("finite" in way) == ("finite" in solver)]
    kinds = ("product", "layernorm")
    return bool(alike) and all(row.get(f"relative error, {kind}", 1.0) <= EXACT for row in alike for kind in kinds)


def table(found: dict) -> str:
    """Return all that was found, a line for each way."""
    lines = ["", "products: relative error on one batch, on ragged batches, with a LayerNorm; gradients it takes"]
    for name, ways in found["products"].items():
        for way, row in ways.items():
            errors = [row.get(f"relative error, {kind}") for kind in ("product", "ragged", "layernorm")]
            cells = [*(_number(error, ".0e") for error in errors), _number(row.get("median gradients"), ".2f")]
            lines.append(f"  {name + ' | ' + way:58} {'  '.join(f'{cell:>7}' for cell in cells)}")
    lines += [
        "",
        "top eigenvalue (default setting first): "
        "setting, products, relative residual, relative error, seconds, gradients, peak MB",
    ]
    for name, way, row in _solvers(found):
        lines.append(f"  {name + ' | ' + way:58} {_solved(row['rungs'][0])}")
        if row["runs"]:
            lines.append(f"  {'    medians of all runs that count':58} {_solved(contest.summary(row))}")
        else:
            lines.append(f"  {'    no setting gets there; the last one':58} {_solved(row['rungs'][-1])}")
    lines += ["", "curve: sample products for every k (peers: computed from solves at a few k), largest error there"]
    for name, row in found["curve"].items():
        count = row.get("sample_products", row.get("computed sample products"))
        errors = [at["relative error"] for at in [row, *row.get("solves", [])] if "relative error" in at]
        lines.append(f"  {name:58} {_number(count, ',.0f'):>12}  {_number(max(errors, default=None), '.0e')}")
    lines += ["", "aims"]
    lines += [
        f"  {name:58} {row['aim']:>14}  found {_number(row['found'], '.3g')}" for name, row in found["verdict"].items()
    ]
    return "\n".join(lines)


def _solved(row: dict) -> str:
    if "failed" in row:
        return row["failed"]
    peak = row.get("peak_growth_bytes")
    cells = [
        str(row.get("setting", row.get("rung"))),
        f"{row['products']:.0f}",
        f"{row['relative residual']:.1e}",
        f"{row['relative error']:.1e}",
        f"{row['seconds']:.2f}",
        f"{row['gradients']:.0f}",
        "-" if peak is None else f"{peak / 2**20:.0f}",
    ]
    return "  ".join(f"{cell:>8}" for cell in cells)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def reached(row: dict, key: str) -> float:
    """Return a median of a solver that got there; infinity for one that did not."""
    return statistics.median(run[key] for run in row["runs"]) if row["runs"] else float("inf")
