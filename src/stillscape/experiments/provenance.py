"""Where numbers come from: versions and fingerprints for the result; times and machine for the run folder alone."""

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from typing import Any

from stillscape.experiments.bench import Bench
from stillscape.experiments.devices import called

LIBRARIES = ("stillscape", "torch", "transformers", "peft", "numpy", "scipy", "scikit-learn", "pillow")
ATTENTION = "eager (flash and memory-efficient kernels have no second derivative)"


def versions() -> dict[str, str]:
    """Return the versions of Python and of every library that takes part in the numbers."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in LIBRARIES}}


def numbers_from(bench: Bench) -> dict[str, Any]:
    """Return what decides the numbers of a result: no time, no path, nothing of the machine but the thread count."""
    return {
        **versions(),
        "data_fingerprint": bench.data_fingerprint,
        "model_fingerprint": bench.model_fingerprint,
        "threads": bench.plan.threads,
        **bench.plan.arithmetic(),
        "attention": ATTENTION,
        **({"remote_code": bench.pretrained.remote_code} if bench.plan.trust_remote_code else {}),
    }


def circumstances(bench: Bench, workers: int) -> dict[str, Any]:
    """Return the same with date, machine and workers, for ``provenance.json``."""
    return {
        **numbers_from(bench),
        "precision": bench.plan.precision,
        "deterministic": bench.plan.deterministic,
        "device": called(bench.plan.device),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "trust_remote_code": bench.plan.trust_remote_code,
        "executor": bench.plan.executor,
        "workers": workers,
    }
