"""Time and memory of the curve over k, against the number of samples m and of parameters P.

    python benchmarks/curvature/scale.py            # some minutes; float32, two threads
    python benchmarks/curvature/scale.py --small    # a minute; for a look

Each measurement runs in a fresh process: seconds of `hessian_difference_curve`, and the peak of resident memory less
what was held before it. Slopes are least squares in log-log. What is beyond the largest case that ran is EXTRAPOLATED
and stands apart, under that name: seconds by samples from the case of the same model (the pass is linear in m, which
the measured slope confirms), memory not at all in m. ViT-base is a random start of the published shape at 224 px: time
and memory don't depend on the weights. For LoRA on it a whole pass takes hours on two cores, so single products are
timed, and the 32 of a sample computed from them.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from problem import TinyViT
from torch import Tensor, nn

from stillscape.curvature import PerSampleHessian, hessian_difference_curve

RESULTS = Path(__file__).with_name("scale.json")
WIDTHS = {"P 1e4": (20, 1, 80), "P 1e5": (64, 2, 256), "P 1e6": (144, 4, 576)}  # embedding, depth, feed-forward
SAMPLES = {"P 1e4": (100, 300, 1_000, 3_000, 10_000), "P 1e5": (25, 50, 100, 200), "P 1e6": (6, 12)}
SETTLED = 1_000  # samples; a pass holds at most 256 at once, and memory grows until some such chunks have gone by
SMALL = {"P 1e4": (20, 40), "P 1e5": (10, 20)}
PRODUCTS = 32
WANTED = (100, 1_000, 10_000, 100_000)


def tiny(case: str, m: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a ViT of the benchmark's kind, wider or narrower, and random images."""
    width, depth, hidden = WIDTHS[case]
    generator = torch.Generator().manual_seed(0)
    model = TinyViT(width=width, depth=depth, hidden=hidden)
    return model, torch.randn(m, 1, 28, 28, generator=generator), torch.arange(m) % 10


def vit_base(m: int, adapt: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Return what is trained of a ViT-base: its last block and head on cached tokens, or the whole with LoRA."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(num_labels=10, attn_implementation="eager")
    model: nn.Module = ViTForImageClassification(config).requires_grad_(False)
    y = torch.arange(m) % 10
    if adapt == "lora:8":
        from peft import LoraConfig, get_peft_model

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
        return Logits(model), torch.randn(m, 3, 224, 224), y
    last = LastBlock(model.vit.layers[-1], model.vit.layernorm, model.classifier).requires_grad_(True)
    return last, torch.randn(m, 197, 768), y


class Logits(nn.Module):
    """The class scores alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Return class scores."""
        return self.model(pixel_values=pixels).logits


class LastBlock(nn.Module):
    """The last block, norm and head on the tokens that the frozen part gives."""

    def __init__(self, block: nn.Module, norm: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.block, self.norm, self.head = block, norm, head

    def forward(self, tokens: Tensor) -> Tensor:
        """Return class scores."""
        hidden = self.block(tokens)
        return self.head(self.norm(hidden[0] if isinstance(hidden, tuple) else hidden)[:, 0])


def measure(case: str, m: int) -> dict:
    """Measure one case in this process."""
    model, x, y = vit_base(m, case.removeprefix("ViT-base ")) if case.startswith("ViT") else tiny(case, m)
    hv = PerSampleHessian(model.eval(), F.cross_entropy, x, y, check=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    if case == "ViT-base lora:8":
        vectors = torch.randn(2, hv.num_parameters)
        with hv.linearized():
            hv.sample_matmat([0], vectors[:1])  # builds the graph, which a pass builds once a sample
            built = time.perf_counter()
            hv.sample_matmat([0], vectors)
        seconds = (built - started) + (PRODUCTS - 1) * (time.perf_counter() - built) / 2
        ran = f"a graph and two products of one sample; {PRODUCTS} computed from them"
    else:
        hessian_difference_curve(hv)
        seconds, ran = time.perf_counter() - started, "whole pass"
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {"case": case, "m": m, "P": hv.num_parameters, "seconds": seconds, "peak_growth_bytes": peak, "ran": ran}


def in_a_fresh_process(case: str, m: int) -> dict:
    """Return what `measure` says in a process of its own."""
    command = [sys.executable, __file__, "--one", case, str(m)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def slope(x: list[float], y: list[float]) -> float:
    """Return the exponent of y in x by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def memory_slope(rows: list[dict]) -> dict[str, float]:
    """Return the exponent of memory in m, from cases that are past the first chunks; nothing of fewer than two."""
    if len(rows) < 2:
        return {}
    return {"memory in m": slope([row["m"] for row in rows], [row["peak_growth_bytes"] for row in rows])}


def extrapolated(rows: list[dict]) -> list[dict]:
    """Return seconds for numbers of samples that did not run, by the largest case of the same model."""
    largest = {row["case"]: row for row in rows}
    found = []
    for case, row in largest.items():
        each = row["seconds"] / row["m"]
        found += [
            {"case": case, "P": row["P"], "m": m, "seconds": each * m, "extrapolated from m": row["m"]}
            for m in WANTED
            if m > row["m"]
        ]
    return found


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "M"), help="measure this in this process; used by itself")
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]))))
        return
    plan = [(case, m) for case, sizes in (SMALL if options.small else SAMPLES).items() for m in sizes]
    plan += (
        [] if options.small else [("ViT-base last-layers:1", 2), ("ViT-base last-layers:1", 3), ("ViT-base lora:8", 1)]
    )
    rows = []
    for case, m in plan:
        rows.append(in_a_fresh_process(case, m))
        print({name: rows[-1][name] for name in ("case", "m", "P", "seconds", "peak_growth_bytes")}, flush=True)
    passes = [row for row in rows if row["ran"] == "whole pass"]
    slopes = {
        case: {
            "seconds in m": slope(*zip(*[(r["m"], r["seconds"]) for r in passes if r["case"] == case], strict=True)),
            **memory_slope([row for row in passes if row["case"] == case and row["m"] >= SETTLED]),
        }
        for case in dict.fromkeys(row["case"] for row in passes)
    }
    last = list({row["case"]: row for row in passes}.values())
    in_p = {"seconds a sample in P": slope(*zip(*[(r["P"], r["seconds"] / r["m"]) for r in last], strict=True))}
    found = {
        "environment": {"torch": torch.__version__, "cores": os.cpu_count(), "threads": 2, "dtype": "float32"},
        "measured": rows,
        "slopes": slopes | in_p,
        "extrapolated": extrapolated(rows),
        "not run": "all 86 million parameters of ViT-base: some 9 x 16 vectors of them are 50 GB in float32",
    }
    print(json.dumps({"slopes": found["slopes"], "extrapolated": found["extrapolated"]}, indent=1))
    if not options.small:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
