"""How much data is enough? Sufficient dataset sizes for fine-tuned transformers, measured on their loss surface.

Data flows through the rooms in this order; each can be used alone:

    data         images with labels and groups; nested subsets, folds
    models       a pre-trained transformer, adapted; its frozen prefix cut off and cached
    training     fits on k samples; per-sample losses
    hessian      attention and transformer blocks: exact second derivatives in closed form
    curvature    Hessian products of any module, extreme eigenvalues
    convergence  per-sample losses become curves in k, with bands
    bounds       theorems, as printed and as they hold
    evidence     what the trained surface itself says of more data
    sufficiency  criteria, k* with interval and status, the verdict in words
    experiments  plan -> cells -> records -> result
    report       figures and the page
    reproductions  published figures built again, beside the published numbers
"""

import importlib
from importlib.metadata import version
from types import ModuleType

__all__ = [
    "bounds",
    "convergence",
    "curvature",
    "data",
    "evidence",
    "experiments",
    "hessian",
    "models",
    "report",
    "reproductions",
    "sufficiency",
    "training",
]
__version__ = version("stillscape")


def __getattr__(name: str) -> ModuleType:
    # Rooms are opened on first use: bounds and curves should not wait for torch and transformers.
    if name in __all__:
        return importlib.import_module(f"stillscape.{name}")
    raise AttributeError(f"module 'stillscape' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
