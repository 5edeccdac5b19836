"""The instrument's own share of the demo: (wall - training - held-out evaluation) / wall, measured in one run.

    python benchmarks/overhead/run.py

The wall is that of the whole command, interpreter start and imports included. With two workers the seconds of training
and evaluation are shared out over them, so that idling counts as overhead. Losses and slopes around w* are taken on
held-out images; the share without counting them as evaluation stands beside it.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).with_name("results.json")


def records(folder: Path, kind: str) -> list[dict]:
    """Return all records of a kind."""
    return [json.loads(path.read_text()) for path in folder.glob(f"{kind}/*/record.json")]


def measure(workers: int) -> dict:
    """Run the demo in an empty folder and return the shares."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "stillscape.cli", "demo", "--quiet", "--workers", str(workers), "--out", name]
        started = time.perf_counter()
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - started
        cells, probes = records(Path(name), "cells"), records(Path(name), "probes")
    training = sum(fold["training_s"] for record in cells for fold in record["folds"])
    held_out = sum(fold["heldout_scoring_s"] for record in cells for fold in record["folds"])
    probing = sum(record["seconds"] for record in probes)
    return {
        "workers": workers,
        "wall_s": wall,
        "cells": len(cells),
        "training_s": training,
        "heldout_evaluation_s": held_out,
        "probing_s": probing,
        "overhead_s": wall - (training + held_out + probing) / workers,
        "overhead_share": (wall - (training + held_out + probing) / workers) / wall,
        "overhead_share_if_probing_counts_too": (wall - (training + held_out) / workers) / wall,
        "peak_memory_bytes_of_a_worker": max(record["peak_memory_bytes"] for record in [*cells, *probes]),
    }


def main() -> None:
    """Measure with one worker and with two, and write and print what was found."""
    versions = {name: importlib.metadata.version(name) for name in ("stillscape", "torch", "transformers", "numpy")}
    environment = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    figures = {"runs": [measure(workers) for workers in (1, 2)], "environment": environment | versions}
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
