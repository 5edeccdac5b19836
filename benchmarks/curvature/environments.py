"""An environment of its own for every peer, made on first use, and the processes that run in it.

No peer needed torchvision in the end: curvlinops' dependency BackPACK declares it and imports it in an example module
only, so both are installed without their declared dependencies, followed by what they import. landscaper's topopy wants
NumPy 1. torch is pinned to one version everywhere; without that pip may fetch gigabytes of CUDA.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE / ".envs"
TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Environment:
    """What is installed, and what of it without its declared dependencies."""

    needs: tuple[str, ...]
    bare: tuple[str, ...] = ()


PEERS = {
    "curvlinops": Environment(
        needs=(
            "numpy==2.4.6",
            "scipy==1.17.1",
            "tqdm==4.70.1",
            "einops==0.8.2",
            "einconv==0.1.0",
            "linear_operator==0.6.1",
            "opt-einsum==3.4.0",
            "unfoldNd==0.2.3",
        ),
        bare=("curvlinops-for-pytorch==3.0.1", "backpack-for-pytorch==1.7.1"),
    ),
    "hessian_eigenthings": Environment(("hessian-eigenthings==1.0.0a5", "numpy==2.4.6", "scipy==1.17.1")),
    "pyhessian": Environment(("pyhessian==0.1", "numpy==2.4.6")),
    "landscaper": Environment(("landscaper==1.3.1", "numpy==1.26.4", "scipy==1.17.1")),
}
OURS = "stillscape"
EVERYONE = (*PEERS, OURS)


def python(name: str) -> Path:
    """Return the interpreter for a peer, made and filled if need be; for ours the one that runs this."""
    if name == OURS:
        return Path(sys.executable)
    folder, wanted = ENVIRONMENTS / name, PEERS[name]
    interpreter, stamp = folder / "bin" / "python", folder / "installed.json"
    contents = json.dumps([TORCH, *wanted.needs, *wanted.bare])
    if stamp.exists() and stamp.read_text() == contents:
        return interpreter
    print(f"making an environment for {name}", flush=True)
    _quietly(sys.executable, "-m", "venv", "--clear", str(folder))
    install = (str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _quietly(*install, TORCH, *wanted.needs)
    if wanted.bare:
        _quietly(*install, "--no-deps", *wanted.bare)
    stamp.write_text(contents)
    return interpreter


def call(name: str, task: str, folder: Path, threads: int, small: bool, **flags: object) -> list[dict]:
    """Run a task of a peer's adapter in a process of its own; return its lines, or one that says how it failed."""
    command = [
        str(python(name)),
        str(HERE / f"peer_{name}.py"),
        task,
        "--folder",
        str(folder),
        "--threads",
        str(threads),
    ]
    command += ["--small"] if small else []
    for flag, value in flags.items():
        command += [f"--{flag}", value if isinstance(value, str) else json.dumps(value)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": str(threads), "PYTHONNOUSERSITE": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode:
        said = done.stderr.strip().splitlines()
        lines.append({"failed": f"exit {done.returncode}: {said[-1] if said else 'nothing said'}"})
    return lines


def _quietly(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{done.stdout}{done.stderr}")
