"""What a trained surface says by itself of more data: none of it votes, all of it can be held against measured gains.

softmax_head             a fitted linear head: exact Hessian, gradients, inverse
leave_one_out            held-out loss from training samples alone, by leverages
added_sample             the slope of the held-out loss in log k, from what each held-out sample would change
takeuchi, products       tr(H^-1 G) / (2k) on held-out samples: dense, and by products for any model
optimism                 held-out less training loss
moving_optimum           L_m - L_k around weights trained on the k
halves                   curvature and gradient of one half of the samples against the other
certificates             intervals that hold at finite n
"""

import importlib
from typing import TYPE_CHECKING, Any

from stillscape.evidence.added_sample import AddedSample, added_sample
from stillscape.evidence.certificates import Certificate, mean_certificate
from stillscape.evidence.leave_one_out import leave_one_out_losses, losses_without
from stillscape.evidence.moving_optimum import MovingOptimum, moving_optimum
from stillscape.evidence.optimism import optimism_gain, optimism_gap
from stillscape.evidence.softmax_head import SoftmaxHead, softmax_gradients, softmax_hessian
from stillscape.evidence.takeuchi import Takeuchi, takeuchi, takeuchi_status

if TYPE_CHECKING:
    from stillscape.evidence.halves import Discrepancy, SplitHalf, split_half
    from stillscape.evidence.products import self_consistent_damping, takeuchi_of_products

#: What multiplies with Hessians of models needs torch; the rest should not wait for it.
_WITH_TORCH = {
    "Discrepancy": "halves",
    "SplitHalf": "halves",
    "self_consistent_damping": "products",
    "split_half": "halves",
    "takeuchi_of_products": "products",
}

__all__ = [
    "AddedSample",
    "Certificate",
    "Discrepancy",
    "MovingOptimum",
    "SoftmaxHead",
    "SplitHalf",
    "Takeuchi",
    "added_sample",
    "leave_one_out_losses",
    "losses_without",
    "mean_certificate",
    "moving_optimum",
    "optimism_gain",
    "optimism_gap",
    "self_consistent_damping",
    "softmax_gradients",
    "softmax_hessian",
    "split_half",
    "takeuchi",
    "takeuchi_of_products",
    "takeuchi_status",
]


def __getattr__(name: str) -> Any:
    if name in _WITH_TORCH:
        return getattr(importlib.import_module(f"stillscape.evidence.{_WITH_TORCH[name]}"), name)
    raise AttributeError(f"module 'stillscape.evidence' has no attribute {name!r}")
