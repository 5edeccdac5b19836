"""The instrument's own share of the demo: (wall - training - held-out evaluation) / wall, measured in one run.

    python benchmarks/overhead/run.py [--workers 1]

With several workers the seconds of training and evaluation are shared out over them, so that idle time at the end
counts as the instrument's own. Probing the neighborhood is evaluation on held-out images too, and is listed apart.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

STARTED = time.perf_counter()


def main() -> None:
    """Run the demo in an empty folder and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    arguments = parser.parse_args()
    from stillscape.experiments import demo_plan, run
    from stillscape.experiments.cell import peak_memory_bytes
    from stillscape.report import write_report

    plan = demo_plan()
    if arguments.workers:
        plan = plan.model_copy(update={"workers": arguments.workers})
    with tempfile.TemporaryDirectory() as folder:
        result = run(plan, Path(folder))
        write_report(result, Path(folder))
        wall = time.perf_counter() - STARTED
        records = [json.loads(path.read_text()) for path in Path(folder).glob("cells/*/record.json")]
        probes = [json.loads(path.read_text()) for path in Path(folder).glob("probes/*/record.json")]
        workers = json.loads((Path(folder) / "provenance.json").read_text())["workers"]
    training = sum(fold["training_s"] for record in records for fold in record["folds"])
    held_out = sum(fold["heldout_scoring_s"] for record in records for fold in record["folds"])
    probing = sum(record["seconds"] for record in probes)
    figures = {
        "wall_s": wall,
        "workers": workers,
        "training_s": training,
        "heldout_evaluation_s": held_out,
        "probing_s": probing,
        "cells": len(records),
        "overhead_share": (wall - (training + held_out + probing) / workers) / wall,
        "overhead_share_if_probing_counts_as_overhead": (wall - (training + held_out) / workers) / wall,
        "peak_memory_bytes_of_one_worker": max(record["peak_memory_bytes"] for record in records),
        "peak_memory_bytes_of_the_parent": peak_memory_bytes(),
        "environment": {"python": platform.python_version(), "machine": platform.machine(), **result["provenance"]},
    }
    arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
