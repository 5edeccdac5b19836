"""Plant one fault at a time in a copy of the package, and see that the tests named for it turn red.

    python scripts/planted_faults.py                        # all; a few minutes on one core
    python scripts/planted_faults.py --list
    python scripts/planted_faults.py --only "1/k"           # those whose name contains it

The working tree is never touched. First the tests must be green without a fault, else their red would say nothing.
Exit code 0: every fault was found; 1: one survived; 2: a patch does not apply, or a test could not run.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "src/stillscape"
GREEN, RED = 0, 1  # exit codes of pytest; any other means that tests did not run
#: Runs pytest if, and only if, the package that is imported is the copy.
RUNNER = """
import sys, pathlib, stillscape, pytest
root = pathlib.Path(sys.argv[1]).resolve()
if not pathlib.Path(stillscape.__file__).resolve().is_relative_to(root):
    print(f"imported {stillscape.__file__}, which is not in {root}")
    sys.exit(90)
sys.exit(pytest.main(sys.argv[2:]))
"""
OPTIONS = ("-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", "-p", "no:randomly")

EXACT = "tests/hessian/test_exact.py"
SAME = "tests/hessian/test_identities.py"
LAYER_TESTS = f"{SAME}::test_square_weights[self_attention-mse]"
BLOCK_TESTS = f"{SAME}::test_square_weights[transformer_block-mse]"
CHAIN_TESTS = f"{SAME}::test_square_weights[transformer_chain-mse]"
REMOTE, ESCAPE, SAFETY, SFTP = (f"tests/experiments/test_{name}.py" for name in ("remote", "escape", "safety", "sftp"))
POOLED_TESTS = f"{SAME}::test_square_weights[transformer_block-mean]"
PRODUCT_TESTS = f"{SAME}::test_parts_add_up_to_the_whole[transformer_block-0]"
THEOREM_1 = "tests/bounds/test_bounds_attention.py"
THEOREM_3 = "tests/bounds/test_bounds_loss_difference.py"
BLOCK_BOUND = "tests/bounds/test_bounds_block.py"
CONSTANTS = "tests/bounds/test_bounds_constants.py"
SAMPLING = "tests/bounds/test_bounds_finite_sample.py"
PRODUCTS = "tests/curvature/test_per_sample.py"
CURVE = "tests/curvature/test_difference.py"
SHARDS = "tests/curvature/test_shards.py"
SHORT = "tests/curvature/test_out_of_memory.py"
HALF_PRECISION = "tests/training/test_precision.py"
ANYTIME = "tests/sufficiency/test_anytime.py"
REBUILT = "tests/reproductions/test_formulas.py"
REBUILT_TEXTS = "tests/reproductions/test_findings.py"
COMPARE = "tests/report/test_compare.py"
FORECAST = "tests/sufficiency/test_data_curve.py"
SETTLING = "tests/convergence/test_settling_surface.py"
PLANES = "tests/curvature/test_plane.py"
CAPITAL = f"{ANYTIME}::test_capital_is_one_on_average_just_at_the_tolerance"


@dataclass(frozen=True)
class Fault:
    """What is planted where, and which tests must find it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return self.name


FAULTS = (
    # ---- parts of the Hessian
    Fault("functional part dropped", "hessian/exact.py",
          "self.tail.backward(self.end.gradient)", "self.tail.backward(torch.zeros_like(self.end.gradient))",
          (LAYER_TESTS,)),
    Fault("functional part dropped from products", "hessian/exact.py",
          'curved = part != "outer"', 'curved = part == "functional"', (PRODUCT_TESTS,)),
    Fault("outer part dropped from products", "hessian/exact.py",
          'if part == "functional" else self.end.apply(change)', 'if part != "outer" else self.end.apply(change)',
          (PRODUCT_TESTS,)),
    Fault("mean not divided by the number of samples", "hessian/exact.py",
          "1.0 / self.num_samples", "1.0", (LAYER_TESTS,)),
    # ---- attention
    Fault("missing 1/sqrt(d_K)", "hessian/attention.py", '(params["W_Q"].shape[1] // heads) ** -0.5', "1.0",
          (LAYER_TESTS,)),
    Fault("1/sqrt(heads d_K) for 1/sqrt(d_K)", "hessian/attention.py",
          '(params["W_Q"].shape[1] // heads) ** -0.5', 'params["W_Q"].shape[1] ** -0.5',
          (f"{EXACT}::test_every_block_of_every_part",)),
    Fault("W_K' for W_K in the Jacobian of queries", "hessian/attention.py",
          "trace.right = self.W_K.mT[None, None]", "trace.right = self.W_K[None, None]", (LAYER_TESTS,)),
    Fault("curvature of softmax without 1/sqrt(d_K)", "hessian/attention.py",
          "self.to_mean.new_full((1, 1, self.to_mean.shape[-1]), self.scale)",
          "self.to_mean.new_full((1, 1, self.to_mean.shape[-1]), 1.0)", (LAYER_TESTS,)),
    Fault("W_K laid out transposed", "hessian/attention.py",
          "Member(weight_name, inner, features, start, 1, columns)",
          "Member(weight_name, inner, features, start, columns, 1)", (LAYER_TESTS,)),
    Fault("queries for keys: P for P'", "hessian/attention.py",
          '"K": self.scale * (self.score_adjoint.mT @ self.query)',
          '"K": self.scale * (self.score_adjoint @ self.query)',
          (CHAIN_TESTS,)),
    Fault("values do not move with the scores", "hessian/attention.py",
          "value = value + moves.attention.mT @ self.adjoint", "value = value + 0.0", (LAYER_TESTS,)),
    Fault("scores do not move with the values", "hessian/attention.py",
          "reach = reach + self.adjoint @ moves.value.mT", "reach = reach + 0.0", (LAYER_TESTS,)),
    Fault("heads in one another's place", "hessian/attention.py",
          "whole[head * width : (head + 1) * width]", "whole[:width]", (f"{EXACT}::test_every_block_of_every_part",)),
    # ---- softmax
    Fault("softmax without its second term", "hessian/row_maps.py",
          "return self.A * (tangent - (self.A * tangent).sum(-1, keepdim=True))", "return self.A * tangent",
          (LAYER_TESTS,)),
    Fault("moment of softmax without the mean", "hessian/row_maps.py",
          "return _second_powers(self.A, X) - M[..., :, None] * M[..., None, :]",
          "return _second_powers(self.A, X)", (LAYER_TESTS,)),
    Fault("second moment of softmax without a cross term", "hessian/row_maps.py",
          "_second_powers(p, X) - cross - cross.mT", "_second_powers(p, X) - cross", (LAYER_TESTS,)),
    Fault("third cumulant without its last term", "hessian/row_maps.py",
          "p * (tangent - mean) - self.A * (p * tangent).sum(-1, keepdim=True)", "p * (tangent - mean)",
          (LAYER_TESTS,)),
    Fault("masked scores attended to after all", "hessian/row_maps.py",
          "hidden = scores.masked_fill(~mask, -torch.inf)", "hidden = scores",
          (f"{SAME}::test_padding_is_as_if_it_were_not_there[self_attention]",)),
    # ---- the rest of the block
    Fault("LayerNorm's Jacobian without its second term", "hessian/normalization.py",
          "v.mean(-1, keepdim=True), unit, along, value=-1.0)", "v.mean(-1, keepdim=True), unit, along, value=0.0)",
          (BLOCK_TESTS,)),
    Fault("LayerNorm's curvature without 3/m", "hessian/normalization.py",
          "level * (moved - unit * along * (3.0 / m))", "level * moved", (BLOCK_TESTS,)),
    Fault("LayerNorm's curvature with 1/m for 3/m", "hessian/normalization.py",
          "(3.0 / m)", "(1.0 / m)", (BLOCK_TESTS,)),
    Fault("variance without eps", "hessian/normalization.py", "keepdim=True) + self.eps).sqrt()",
          "keepdim=True)).sqrt()", (f"{EXACT}::test_gradient_and_losses[0-transformer_block]",)),
    Fault("sign of GELU's curvature", "hessian/pointwise.py",
          "(2.0 - u.square()) * _density(u)", "(u.square() - 2.0) * _density(u)", (BLOCK_TESTS,)),
    Fault("GELU's slope without u phi(u)", "hessian/pointwise.py", " + u * _density(u)", "",
          (f"{EXACT}::test_gradient_and_losses[3-transformer_block]", BLOCK_TESTS)),
    Fault("residual skip forgotten in the forward pass", "hessian/layers.py",
          "return x + super().forward(x)", "return super().forward(x)", (BLOCK_TESTS,)),
    Fault("residual skip forgotten by tangents", "hessian/layers.py",
          "return dx + change, memos", "return change, memos", (BLOCK_TESTS,)),
    Fault("residual skip forgotten by families", "hessian/layers.py", "sweep.join(start)", "del start",
          (BLOCK_TESTS,)),
    Fault("bilinear term of a layer and its input dropped", "hessian/layers.py",
          "trace.inputs[own] = trace.right", "pass", (BLOCK_TESTS,)),
    Fault("curvature of the blocks behind dropped", "hessian/exact.py",
          "dense=self._through_tail(curved=True)", "dense=0.0 * self._through_tail(curved=True)", (CHAIN_TESTS,)),
    Fault("norm after the last block forgotten", "hessian/transformer_block.py",
          "(after if after else own).extend(normalize())", "normalize()",
          (f"{SAME}::test_a_norm_after_the_last_block[cls-1]",)),
    # ---- losses
    Fault("adjoint of the pooled loss not scaled by 1/L", "hessian/losses.py",
          "gradient = weights[:, None] * pull[:, None, :]", "gradient = weights.sign()[:, None] * pull[:, None, :]",
          (POOLED_TESTS,)),
    Fault("loss by token not divided by L", "hessian/losses.py",
          "diagonal=half @ half.mT / tokens", "diagonal=half @ half.mT",
          (f"{EXACT}::test_finite_differences_of_gradients[self_attention-token]",)),
    Fault("p p' missing in the Hessian of the cross-entropy", "hessian/losses.py",
          "(2.0 / mirror.square()", "(0.0 / mirror.square()", (POOLED_TESTS,)),
    # ---- places where families meet
    Fault("what is behind a meeting place not transposed", "hessian/sweep.py",
          "terms.append(moved if first == a else transposed(moved))", "terms.append(moved)", (BLOCK_TESTS,)),
    Fault("a family goes on without its right matrix", "hessian/sweep.py",
          "behind = after(self.trace(number).right, behind)", "behind = after(None, behind)", (BLOCK_TESTS,)),
    Fault("curvature before a meeting place forgotten", "hessian/sweep.py",
          "        if leaves:\n", "        if leaves:\n            terms = []\n", (BLOCK_TESTS,)),
    # ---- writing it all out
    Fault("directions of the loss dropped from single samples", "hessian/each_sample.py",
          "product.flatten(1, 2).baddbmm_(factor[:, :, patch.left, patch.right].flatten(2).mT, along)", "pass",
          (POOLED_TESTS,)),
    Fault("directions of the loss dropped from the mean", "hessian/summed.py",
          "out.add_squares(factor.flatten(0, 1))", "pass", (POOLED_TESTS,)),
    Fault("keys of the mean seen through W_Q' for W_Q", "hessian/summed.py",
          "torch.mm(image.left.mT,", "torch.mm(image.left,", (LAYER_TESTS,)),
    Fault("left vectors don't move in the mean", "hessian/summed.py",
          "if self.moves(a, b) and keys.get(a, b) == b:", "if False:", (LAYER_TESTS,)),
    Fault("squares in place of products in the half of x x'", "hessian/symmetric.py",
          "torch.mul(x[:, i : i + 1], x[:, i:],", "torch.mul(x[:, i:], x[:, i:],", (LAYER_TESTS,)),
    Fault("a panel of the mean added to another's columns", "hessian/upper.py",
          "rows.mT, F[:, first + i :]", "rows.mT, F[:, i : i + panel.shape[2] - i]",
          (f"{SAME}::test_mean_of_more_parameters_than_a_tile",)),
    Fault("rows of single samples not transposed", "hessian/each_sample.py",
          "out[:, here, run.start : run.stop].mT", "out[:, run.start : run.stop, here]", (LAYER_TESTS,)),
    Fault("block below the diagonal not transposed", "hessian/layout.py",
          "return block.permute(0, 3, 4, 1, 2)", "return block", (BLOCK_TESTS,)),
    Fault("mean below the diagonal not transposed", "hessian/layout.py",
          "own.triu_().add_(above_it.mT)", "own.triu_().add_(above_it)", (LAYER_TESTS,)),
    Fault("rows below the diagonal in the wrong order", "hessian/layout.py",
          "out[:, rows, behind].mT", "out[:, rows, behind].mT.flip(1)",
          (f"{SAME}::test_mean_of_more_parameters_than_a_tile",)),
    # ---- bounds
    Fault("1/k for 1/(k + 1), one size", "bounds/loss_difference.py",
          '_checks.at_least("k", int(k), 1) + 1)', '_checks.at_least("k", int(k), 1))',
          (f"{THEOREM_3}::test_printed_by_hand",)),
    Fault("1/k for 1/(k + 1), several sizes", "bounds/loss_difference.py",
          "sizes.astype(np.float64) + 1.0", "sizes.astype(np.float64)",
          (f"{THEOREM_3}::test_arrays_keep_their_shape_and_scalars_are_floats",)),
    Fault("1/k for 1/(k + 1) in the inversion", "bounds/loss_difference.py",
          "if scale / (middle + 1) > epsilon", "if scale / middle > epsilon",
          (f"{THEOREM_3}::test_inversion_by_hand",)),
    Fault("gradient term of Theorem 3' dropped", "bounds/loss_difference.py",
          "float(loss_bound) + float(gradient_bound) * float(radius) + curved", "float(loss_bound) + curved",
          (f"{THEOREM_3}::test_rigorous_by_hand",)),
    Fault("sqrt(L) missing in Theorem 1'", "bounds/_attention_norms.py",
          "j_V = math.sqrt(layer.X.shape[-2]) * row_norm(layer.X)", "j_V = row_norm(layer.X)",
          (f"{THEOREM_1}::test_every_block_is_bounded",)),
    Fault("bilinear term missing in Theorem 1'", "bounds/_attention_norms.py",
          "bend * w_Q * w_K + slope * w_V", "bend * w_Q * w_K", (f"{THEOREM_1}::test_every_block_is_bounded",)),
    Fault("largest block for the norm of all", "bounds/_attention_norms.py",
          "return torch.linalg.eigvalsh(N)[..., -1]\n", "return N.amax((-2, -1))\n",
          (f"{THEOREM_1}::test_tight_examples[0.1]",)),
    Fault("LayerNorm's curvature missing in the bound of a block", "bounds/_block_measured.py",
          "curve_V=_largest(N_2)", "curve_V=0.0 * _largest(N_2)",
          (f"{BLOCK_BOUND}::test_never_exceeded[output-gelu]",)),
    Fault("law of the mean square with k^2 for k (k + 1)", "bounds/mean_square.py",
          "float(variance) / sizes / (sizes + 1.0)", "float(variance) / sizes / sizes",
          ("tests/bounds/test_bounds_mean_square.py::test_law_by_every_sample_of_three_values",)),
    Fault("gradient term dropped from the local surface", "bounds/local_surface.py",
          "(level + slope + half_form + rest) / (sizes + 1.0)", "(level + half_form + rest) / (sizes + 1.0)",
          ("tests/bounds/test_bounds_local_surface.py::test_forecast_is_exact_for_quadratics[0]",)),
    Fault("1/2 of softmax too small", "bounds/constants.py", "SOFTMAX_JACOBIAN = 0.5", "SOFTMAX_JACOBIAN = 0.45",
          (f"{CONSTANTS}::test_softmax_jacobian_is_attained",)),
    Fault("sqrt(6)/9 too small", "bounds/constants.py",
          "SOFTMAX_SECOND = math.sqrt(6.0) / 9.0", "SOFTMAX_SECOND = 0.2",
          (f"{CONSTANTS}::test_second_derivative_of_softmax_is_never_exceeded",)),
    Fault("2/sqrt(3) too small", "bounds/constants.py",
          "LAYER_NORM_SECOND = 2.0 / math.sqrt(3.0)", "LAYER_NORM_SECOND = 1.0",
          (f"{CONSTANTS}::test_layer_norm_is_never_exceeded",)),
    Fault("Hoeffding's range halved", "bounds/finite_sample.py",
          "np.asarray(loss * np.sqrt(rho", "np.asarray(0.5 * loss * np.sqrt(rho",
          (f"{SAMPLING}::test_losses_of_two_values_follow_the_hypergeometric_law[hoeffding_serfling]",)),
    Fault("range term of Bernstein's dropped", "bounds/finite_sample.py",
          " + _RANGE_FACTOR * log * loss / sizes", "",
          (f"{SAMPLING}::test_losses_of_two_values_follow_the_hypergeometric_law[bernstein_serfling]",)),
    # ---- matrix-free curvature
    Fault("loss's Hessian left out of the outer part", "curvature/graph.py",
          "bent = moved if self._bent is None else _backward(self._bent, self._at, moved)", "bent = moved",
          (f"{PRODUCTS}::test_every_part_of_an_encoder[outer]",)),
    Fault("outer part in place of the whole", "curvature/graph.py",
          'if part == "full":', 'if part == "none":', (f"{PRODUCTS}::test_every_part_of_an_encoder[full]",)),
    Fault("mean over one sample too many", "curvature/per_sample.py",
          "return result / self.num_samples", "return result / (self.num_samples + 1)",
          (f"{PRODUCTS}::test_ragged_batches_are_weighted_right",)),
    Fault("dropout left on", "curvature/second_order.py",
          "            module.training = False\n", "            pass\n",
          (f"{PRODUCTS}::test_every_part_of_an_encoder[full]",)),
    Fault("mean of k + 1 in place of k in the one-pass curve", "curvature/remainder.py",
          "images - gone / k, num_fitted", "images - gone / (k + 1), num_fitted",
          (f"{CURVE}::test_every_k[lora]",)),
    Fault("rounding of products taken for a norm", "curvature/remainder.py",
          "float(torch.linalg.matrix_norm(core - core.mT, 2))", "0.0",
          (f"{CURVE}::test_a_remainder_that_lacks_symmetry_is_rounding",)),
    Fault("a sample's own subspace counted twice", "curvature/low_rank.py",
          "outside = images - combine(inside, basis)", "outside = images", (f"{CURVE}::test_every_k[lora]",)),
    Fault("directions that a sample's basis has already", "curvature/difference.py",
          "outside = images - combine(gram(images, basis), basis)", "outside = images",
          (f"{CURVE}::test_every_k[lora]",)),
    Fault("quadratic term of the forecast not halved", "curvature/forecast.py",
          "radii[:, None] ** 2 / 2", "radii[:, None] ** 2",
          ("tests/curvature/test_forecast.py::test_parts_are_differences_of_means",)),
    Fault("quadrature's weights not squared", "curvature/density.py",
          "vectors[:, 0].square()", "vectors[:, 0].abs()",
          ("tests/curvature/test_density.py::test_weights_and_density_are_probabilities",)),
    Fault("a random vector judges a projection that knows it", "curvature/leave_one_out.py",
          "one = form.estimates(alone[:, None])", "one = form.estimates(0 * alone[:, None])",
          ("tests/curvature/test_trace.py::test_unbiased_and_covered[decaying-trace]",)),
    Fault("barrier above the start, not above the chord", "curvature/barrier.py",
          "above = losses - (1 - t)[:, None] * losses[0] - t[:, None] * losses[-1]", "above = losses - losses[0]",
          ("tests/curvature/test_barrier.py::test_no_barrier_along_a_convex_line",)),
    # ---- what decides
    Fault("a point worth a hundred times too much", "sufficiency/worth.py", "POINT = 0.01", "POINT = 1.0",
          ("tests/sufficiency/test_worth.py::test_break_even_by_hand",)),
    Fault("the price of one size for all", "sufficiency/worth.py",
          "tolerances = break_even_gain(starts, **price)",
          "tolerances = break_even_gain(0 * starts + starts[0], **price)",
          ("tests/sufficiency/test_worth.py::test_the_size_at_which_going_on_no_longer_pays",)),
    Fault("flat at the baseline is taken for enough", "sufficiency/baseline.py",
          "above = bool(low > baseline)", "above = True",
          ("tests/sufficiency/test_classes.py::test_a_flat_curve_at_the_baseline_is_never_reached",)),
    Fault("each class at the level of one", "sufficiency/classes.py",
          "wider = 1 - (1 - level) / len(classes)", "wider = level",
          ("tests/sufficiency/test_classes.py::test_claims_hold_over_all_classes_together",)),
    Fault("no limit where no image changed", "sufficiency/criteria.py",
          "if changed < _FEW_CHANGES else 0.0", "if changed < 0 else 0.0",
          ("tests/sufficiency/test_classes.py::test_classes_of_no_image_one_image_and_no_change",)),
    Fault("what an image and a repeat share counted as training", "sufficiency/outlook.py",
          "shared = min(shared, training, images * units.size)", "shared = 0.0",
          ("tests/sufficiency/test_classes.py::test_the_outlook_is_what_more_data_would_do",)),
    # ---- stopping while collecting
    Fault("form bends the wrong way", "sufficiency/curve_prior.py",
          "-before * x - (after - before) / sharpness", "-before * x + (after - before) / sharpness",
          (f"{FORECAST}::test_forms_are_the_laws_they_are_named_after",)),
    Fault("weight by fit instead of evidence", "sufficiency/curve_posterior.py",
          "-np.log(np.diag(root)).sum() - np.log(precision) / 2 - half_dof", "-half_dof",
          (f"{FORECAST}::test_weights_are_marginal_likelihoods",)),
    Fault("a forecast that forgets where the curve has strayed to", "sufficiency/curve_posterior.py",
          "mean[of_it] += self.residuals[of_it] @ gain", "mean[of_it] += 0.0 * self.residuals[of_it] @ gain",
          (f"{FORECAST}::test_forecast_moments_are_those_of_conditioning",)),
    Fault("the level is taken for known", "sufficiency/curve_posterior.py",
          " + np.outer(left, left) / shared.precision_of_level", "",
          (f"{FORECAST}::test_forecast_moments_are_those_of_conditioning",)),
    Fault("paths without what strays", "sufficiency/curve_posterior.py",
          "stretch[of_it] * (strays + drift[of_it])", "stretch[of_it] * drift[of_it]",
          (f"{FORECAST}::test_paths_have_the_spread_of_scores_without_noise",)),
    Fault("accuracies are read as losses", "sufficiency/data_curve.py",
          "losses = 1 - mean", "losses = mean",
          (f"{FORECAST}::test_a_score_is_one_less_its_loss",)),
    Fault("a target that is never met counts as met last", "sufficiency/data_curve.py",
          "np.where(met[:, 0], log_sizes[0], np.inf)", "np.where(met[:, 0], log_sizes[0], log_sizes[-1])",
          (f"{FORECAST}::test_statuses",)),
    Fault("repeats don't count", "sufficiency/data_curve.py",
          "squares = np.nansum(deviations**2, axis=1) / counts", "squares = np.nansum(deviations**2, axis=1)",
          (f"{FORECAST}::test_repeats_narrow_the_interval",)),
    Fault("settled where one doubling pays no more", "sufficiency/beyond.py",
          "np.logical_and.accumulate((paths.gains <= epsilon)[:, ::-1], axis=1)[:, ::-1]", "paths.gains <= epsilon",
          ("tests/sufficiency/test_beyond.py::test_a_rest_on_the_way_is_not_the_end",)),
    Fault("capital without weights of the starts", "sufficiency/anytime.py",
          "weights = -np.log(starts * (starts + 1.0)) - math.log(total.shape[1])",
          "weights = np.zeros(starts.size) - math.log(total.shape[1])", (f"{CAPITAL}[shape4]",)),
    Fault("capital without weights of the bets", "sufficiency/anytime.py",
          "starts + 1.0)) - math.log(total.shape[1])", "starts + 1.0))", (f"{CAPITAL}[shape0]",)),
    Fault("bets that have yet to begin are counted in full", "sufficiency/anytime.py",
          "-math.log(len(total))))", "0.0))", (f"{CAPITAL}[shape2]",)),
    Fault("best bet for the mixture", "sufficiency/anytime.py",
          "np.logaddexp(logsumexp(parts), -math.log(len(total)))", "(total[-1] - total[:-1]).max()",
          (f"{CAPITAL}[shape0]",)),
    Fault("bets on a gain", "sufficiency/anytime.py",
          "np.multiply.outer(epsilon - values, BETS)", "np.multiply.outer(values - epsilon, BETS)",
          (f"{ANYTIME}::test_the_bound_and_the_decision_agree_and_the_forecast_is_of_the_right_size",)),
    Fault("the evidence is looked at as if once", "sufficiency/anytime.py",
          "needed = -math.log(1 - level)", "needed = -math.log(1 - level) / 4",
          (f"{ANYTIME}::test_fifty_looks_stop_wrongly_no_more_often_than_alpha",)),
    Fault("scatter of the models not allowed for", "sufficiency/anytime.py",
          "return made - 0.5 *", "return made - 0.0 *",
          (f"{ANYTIME}::test_models_that_scatter_are_allowed_for[True]",)),
    Fault("scatter of training that holds the images'", "sufficiency/anytime.py",
          "components.append(table.mean(axis=1).var(ddof=1) - error / units)",
          "components.append(table.mean(axis=1).var(ddof=1))",
          (f"{ANYTIME}::test_variance_of_training_is_told_from_that_of_the_images",)),
    # ---- what the surface itself says
    Fault("excess without the half", "evidence/takeuchi.py",
          "excess = float(single.mean()) / (2 * k)", "excess = float(single.mean()) / k",
          ("tests/evidence/test_takeuchi.py::test_excess_is_that_of_fits_drawn_anew",)),
    Fault("damping left out of the inverse", "evidence/takeuchi.py",
          "h[np.diag_indices(size)] += damping", "h[np.diag_indices(size)] += 0.0 * damping",
          ("tests/evidence/test_takeuchi.py::test_dimension_and_pull_are_their_formulas",)),
    Fault("forecast believed whatever the gap", "evidence/takeuchi.py",
          "if not gap / AGREEMENT <= found.optimism <= gap * AGREEMENT:", "if found.optimism < 0:",
          ("tests/evidence/test_takeuchi.py::test_status_asks_for_agreement_little_pull_and_little_noise",)),
    Fault("groups' gradients added without signs", "evidence/products.py",
          "total += signs[part] @", "total += abs(signs[part]) @",
          ("tests/evidence/test_takeuchi.py::test_groups_mix_their_samples_without_bias",)),
    Fault("damping from the distance, not its square", "evidence/products.py",
          "unit = k * distance**2", "unit = k * distance",
          ("tests/evidence/test_takeuchi.py::test_damping_is_the_truth_of_a_bayesian_linear_model",)),
    Fault("leave-one-out without its own leverage", "evidence/leave_one_out.py",
          "remaining = np.eye(z.shape[1]) - bend @ a", "remaining = np.eye(z.shape[1]) + 0.0 * a",
          ("tests/evidence/test_leave_one_out.py::test_losses_are_those_of_refits",)),
    Fault("leave-one-out with the wrong sign", "evidence/leave_one_out.py",
          "moved = z + (a @", "moved = z - (a @",
          ("tests/evidence/test_leave_one_out.py::test_losses_are_those_of_refits",)),
    Fault("residual of an added sample expanded, not solved for", "evidence/added_sample.py",
          "for _ in range(_STEPS):", "for _ in range(1):",
          ("tests/evidence/test_added_sample.py::test_residuals_solve_their_equation",)),
    Fault("an added sample counts for itself", "evidence/added_sample.py",
          "np.fill_diagonal(change, 0.0)", "np.fill_diagonal(change, change.diagonal())",
          ("tests/evidence/test_added_sample.py::test_slope_is_that_of_refits",)),
    Fault("an added sample moves the logits the other way", "evidence/added_sample.py",
          "softmax_losses(logits - x @ steps[i].T, y)", "softmax_losses(logits + x @ steps[i].T, y)",
          ("tests/evidence/test_added_sample.py::test_slope_is_that_of_refits",)),
    Fault("Hessian of the head without p p'", "evidence/softmax_head.py",
          "((a == b) - p[:, b])", "((a == b) - 0.0 * p[:, b])",
          ("tests/evidence/test_softmax_head.py::test_derivatives_are_those_of_autodiff",)),
    Fault("penalty left out of the head's Hessian", "evidence/softmax_head.py",
          "+= self.penalty", "+= 0.0 * self.penalty",
          ("tests/evidence/test_softmax_head.py::test_inverse_is_that_of_the_whole_objective",)),
    Fault("halves counted as independent samples", "evidence/halves.py",
          "* n / (n - 1)", "* n / n",
          ("tests/evidence/test_halves.py::test_expected_is_the_mean_square_over_all_cuts",)),
    Fault("sum of halves for their difference", "evidence/halves.py",
          "[1.0, -1.0]", "[1.0, 1.0]", ("tests/evidence/test_halves.py::test_norms_are_those_of_dense_matrices",)),
    Fault("null without the end of the population", "evidence/moving_optimum.py",
          "(1 / k - 1 / m)", "(1 / k)",
          ("tests/evidence/test_moving_optimum.py::test_null_is_the_mean_square_over_all_orders",)),
    Fault("half the gap for a quarter", "evidence/optimism.py",
          "dtype=np.float64) / 4 for end", "dtype=np.float64) / 2 for end",
          ("tests/evidence/test_optimism.py::test_a_quarter_is_the_gain_of_a_doubling",)),
    Fault("one-sided binomial limits", "evidence/certificates.py",
          "tail = int((x == upper).sum()), (1.0 - level) / 2.0", "tail = int((x == upper).sum()), 1.0 - level",
          ("tests/evidence/test_certificates.py::test_coverage_over_all_outcomes",)),
    Fault("Maurer and Pontil without the range term", "evidence/certificates.py",
          "+ 7 * extent * log", "+ 0 * extent * log",
          ("tests/evidence/test_certificates.py::test_coverage_over_all_outcomes",)),
    # ---- the surface over a plane
    Fault("plane: sums over k divided by k + 1", "convergence/settling_surface.py",
          "(sums[:, k - 1] / k).T", "(sums[:, k - 1] / (k + 1)).T",
          (f"{SETTLING}::test_a_quadratic_loss_in_closed_form",)),
    Fault("plane: one more image counts in full", "convergence/settling_surface.py",
          "/ (k[:-1, None] + 1.0)", "/ 1.0", (f"{SETTLING}::test_running_sums_are_the_means_at_each_k",)),
    Fault("plane: distance from the first surface", "convergence/settling_surface.py",
          "np.abs(means[-1] - means)", "np.abs(means[0] - means)",
          (f"{SETTLING}::test_running_sums_are_the_means_at_each_k",)),
    Fault("plane: settled once, settled for good", "convergence/settling_surface.py",
          "everywhere[::-1], False", "everywhere, False", (f"{SETTLING}::test_settled_means_from_there_on",)),
    Fault("plane: biases move, too", "curvature/plane.py",
          "if d.ndim < 2:", "if d.ndim < 1:", (f"{PLANES}::test_filters_get_the_length_of_the_weights_own",)),
    Fault("plane: filters keep their own length", "curvature/plane.py",
          "own / lengths, torch", "own / own, torch", (f"{PLANES}::test_filters_get_the_length_of_the_weights_own",)),
    Fault("plane: directions taken for orthonormal", "curvature/plane.py",
          "torch.linalg.solve(self._gram(), right).tolist()", "right.tolist()",
          (f"{PLANES}::test_coordinates_undo_at",)),
    Fault("eigenvalues err as one image does, however many", "curvature/outliers.py",
          "torch.cat(along).std(0) / n**0.5", "torch.cat(along).std(0)",
          ("tests/curvature/test_outliers.py::test_the_error_of_a_scalar_curvature_is_that_of_a_mean",)),
    Fault("shares of norms, not of their squares", "curvature/blocks.py",
          "share = block.mean() / whole", "share = (block.mean() / whole) ** 0.5",
          ("tests/curvature/test_blocks.py::test_small_groups_are_done_exactly",)),
    Fault("shares err as if the whole norm were known", "curvature/blocks.py",
          "own.plus(column, -share) if is_inside else", "own if is_inside else",
          ("tests/curvature/test_blocks.py::test_one_group_has_all_of_the_norm_without_error",)),
    Fault("ways of trainings: lengths for squares in what is hidden", "experiments/trajectory.py",
          '1 - inside / end["moved"] ** 2', '1 - inside**0.5 / end["moved"]',
          ("tests/experiments/test_trajectory.py::test_a_known_path_in_a_skewed_plane",)),
    Fault("ways of trainings: directions taken for unit ones", "experiments/trajectory.py",
          "(a * first[n].double() + b * second[n].double()).square().sum()", "(a**2 + b**2) / len(first)",
          ("tests/experiments/test_trajectory.py::test_a_known_path_in_a_skewed_plane",)),
    Fault("a forecast votes", "sufficiency/criterion.py",
          "self.is_null or self.is_bound or self.is_estimate", "self.is_null or self.is_bound",
          ("tests/sufficiency/test_estimates.py::test_a_forecast_has_no_vote",)),
    # ---- Lanczos
    Fault("Krylov space not begun again", "_lanczos.py",
          "krylov.restart(used_up, generator)", "krylov.extend(scale)",
          ("tests/test_lanczos.py::test_every_copy_is_found",)),
    Fault("what is left outside taken for nothing", "_lanczos.py",
          "return is_known | ((krylov.first == 0) & ~used_up)", "return torch.ones_like(is_known)",
          ("tests/test_lanczos.py::test_every_copy_is_found",)),
    # ---- reproductions
    Fault("tiny ViT scaled by its tokens", "reproductions/tiny_vit.py",
          "math.sqrt(X.shape[-1])).softmax(-1)", "math.sqrt(X.shape[-2])).softmax(-1)",
          (f"{REBUILT}::test_the_exact_hessian_of_the_tiny_vit_is_autodiffs",)),
    Fault("bound of the base network on no ball", "reproductions/base.py",
          "bend = (model.a.abs().max() + radius) * LARGEST_CURVATURE * reach", "bend = 0.0 * reach",
          (f"{REBUILT}::test_the_base_networks_bound_holds_where_curvature_is_all",)),
    Fault("second-order term not halved", "reproductions/assumption_1.py",
          "return slope_there, bend / 2", "return slope_there, bend",
          (f"{REBUILT}::test_first_and_second_order_terms_are_finite_differences_through_layer_norm",)),
    Fault("squared error with half its penalty", "reproductions/heads.py",
          "0.5 * classes * l2", "0.25 * classes * l2", (f"{REBUILT}::test_a_head_is_at_the_optimum_of_its_objective",)),
    Fault("classes that were never seen hit by rounding", "reproductions/heads.py",
          " & (first - second > TIE)", "",
          (f"{REBUILT}::test_no_image_is_hit_by_one_of_several_classes_that_were_never_seen",)),
    Fault("skew drawn the wrong way round", "reproductions/diversity.py",
          "rng.exponential(size=len(weights)) / weights", "rng.exponential(size=len(weights)) * weights",
          (f"{REBUILT}::test_skewed_draws_begin_with_one_class",)),
    Fault("interval of a mean without its root", "reproductions/findings.py",
          "/ math.sqrt(array.size)", "/ array.size**2", (f"{REBUILT_TEXTS}::test_an_interval_is_students",)),
    # ---- several runs side by side
    Fault("intervals that meet are told apart", "sufficiency/among_runs.py",
          "one.high < other.low", "one.high <= other.low",
          (f"{COMPARE}::test_intervals_that_meet_leave_it_open_whatever_their_k_star",)),
    Fault("runs ranked by the lower ends alone", "sufficiency/among_runs.py",
          "return other.low is not None and one.high < other.low", "return (one.low or 0) < (other.low or 0)",
          (f"{COMPARE}::test_intervals_that_meet_leave_it_open_whatever_their_k_star",)),
    Fault("not reached taken as needing more than any", "sufficiency/among_runs.py",
          "other.more_than is not None and one.high <= other.more_than", "other.more_than is not None",
          (f"{COMPARE}::test_what_is_not_there_yet_needs_more_than_what_it_judged_and_no_more_is_claimed",)),
    Fault("gains judged up to the largest size", "sufficiency/among_runs.py",
          'judged = [step["from"] for step', 'judged = [step["to"] for step',
          (f"{COMPARE}::test_what_is_not_there_yet_needs_more_than_what_it_judged_and_no_more_is_claimed",)),
    Fault("runs ranked whose data may differ", "experiments/differing.py",
          "if None not in prints and len(set(prints)) == 1:", "if len({p for p in prints if p}) == 1:",
          (f"{COMPARE}::test_what_differs_is_named_and_bars_what_it_must",)),
    Fault("groups of images compared one by one", "experiments/compare.py",
          '.get("num_groups") is not None for', '.get("num_groups") == 0 for',
          (f"{COMPARE}::test_what_can_not_be_paired_is_compared_apart",)),
    Fault("many runs ranked by intervals that hold one by one", "sufficiency/among_runs.py",
          "if contenders > 2:", "if contenders > 99:",
          (f"{COMPARE}::test_more_than_two_are_ranked_by_intervals_that_hold_together",)),
    Fault("differences of many runs as wide as those of two", "sufficiency/among_runs.py",
          "norm.isf(tail / pairs)", "norm.isf(tail)",
          (f"{COMPARE}::test_differences_among_many_have_wider_intervals",)),
    Fault("half-widths of a difference averaged, not added", "sufficiency/among_runs.py",
          "down = math.hypot(one[0] - one[1], other[2] - other[0])",
          "down = (one[0] - one[1] + other[2] - other[0]) / 2",
          (f"{COMPARE}::test_scores_measured_apart_have_the_interval_of_independent_errors",)),
    Fault("costs of stale records counted", "experiments/recorded.py",
          "and all(record.get(name) == row.get(name) for name in _SAME)", "and all(name in record for name in _SAME)",
          (f"{COMPARE}::test_costs_are_those_of_the_result_not_of_older_records",)),
    # ---- many machines, and what happens to them
    Fault("a record's checksum not looked at", "experiments/store.py",
          "and expected != _checksum(record)", "and False",
          ("tests/experiments/test_fuzz.py::test_records",)),
    Fault("a record's files not looked at", "experiments/store.py",
          "if found != digests.get(name):", "if False:",
          ("tests/experiments/test_fuzz.py::test_records",)),
    Fault("a folder that is taken, taken again", "experiments/lock.py",
          "lock.acquire(timeout=patience_s)", "pass",
          ("tests/experiments/test_lock.py::test_one_process_does_not_hold_a_folder_twice",)),
    Fault("parts of a batch all weighed as the whole", "training/micro_batches.py",
          "loss = loss * (len(inputs) / len(x))", "pass",
          ("tests/training/test_micro_batches.py::test_parts_give_the_gradient_of_the_whole[15-8]",)),
    Fault("batch normalization over parts of a batch", "training/micro_batches.py",
          "if any(isinstance(module, nn.modules.batchnorm._BatchNorm)",
          "if all(isinstance(module, nn.modules.batchnorm._BatchNorm)",
          ("tests/training/test_room.py::test_a_model_that_needs_whole_batches_is_refused_not_changed",)),
    Fault("images left out where memory runs out", "_room.py",
          "start += at_once", "start += count",
          ("tests/training/test_room.py::test_scores_go_on_in_halves_and_skip_no_image",)),
    Fault("a remote record's name taken for a record", "_folders.py",
          "key=lambda path: (path.name == last, path.name)", "key=lambda path: (path.name != last, path.name)",
          (f"{REMOTE}::test_the_deciding_file_is_written_last",)),
    Fault("a connection that breaks taken for no file", "_folders.py",
          "except (FileNotFoundError, NotADirectoryError):\n            return None",
          "except (FileNotFoundError, NotADirectoryError, RunError):\n            return None",
          (f"{REMOTE}::test_a_connection_that_breaks_is_no_missing_file",)),
    Fault("a claim taken over that is renewed", "experiments/lease.py",
          "if now is not None and now != seen:", "if False:",
          (f"{REMOTE}::test_a_folder_is_held_by_one[memory]",)),
    Fault("a claim over SFTP that can't be written to", "_folders.py",
          'mode = "wxb" if self.protocols & _SSH else "xb"', 'mode = "xb"',
          (f"{SFTP}::test_one_process_at_a_time",)),
    Fault("a claim taken twice over SFTP", "_folders.py",
          'mode = "wxb" if self.protocols & _SSH else "xb"', 'mode = "wb"',
          (f"{SFTP}::test_of_two_that_create_a_file_at_once_one_does",)),
    Fault("another's claim removed", "experiments/lease.py",
          "if _holder(claim) == name:\n                claim.unlink()", "claim.unlink()",
          (f"{REMOTE}::test_a_claim_that_was_taken_over_is_not_renewed_nor_removed[memory]",)),
    Fault("a password shown", "_folders.py",
          'shown = redacted(url).rstrip("/")', 'shown = url.rstrip("/")',
          (f"{SAFETY}::test_no_secret_of_environment_or_address_is_in_any_file[1]",)),
    Fault("links in a run folder followed", "_folders.py",
          "and not path.resolve().is_relative_to(folder.resolve())", "and False",
          (f"{ESCAPE}::test_figures_that_are_a_link",)),
    Fault("links in a shard copied", "experiments/store.py",
          "if any(isinstance(path, Path) and path.is_symlink() for path in parts):", "if False:",
          (f"{ESCAPE}::test_shards_with_links_are_left_behind",)),
    Fault("files outside of a table's folder opened", "data/columns.py",
          "or not inside", "or False",
          (f"{ESCAPE}::test_paths_in_tables[../secret.png]",)),
    Fault("a run folder's trust in code taken over", "experiments/plan.py",
          'and not changes.get("trust_remote_code")', "and False",
          ("tests/experiments/test_foreign_code.py::test_a_run_folder_is_not_trusted_by_itself",)),
    Fault("memory that ran out remembered for good", "experiments/mend.py",
          "store.record(key).get(OUT_OF_MEMORY)", "False",
          ("tests/experiments/test_memory_short.py::test_a_cell_fails_by_name_and_is_measured_again[score]",)),
    Fault("a share without its last item", "experiments/shards.py",
          "return sorted(mine)", "return sorted(mine)[:-1]",
          ("tests/experiments/test_shards.py::test_every_item_is_in_one_share_and_shares_cost_alike[3]",)),
    # ---- scale: shards of the curve over k, memory that runs out, half precision
    Fault("shards that overlap are counted twice", "curvature/shards.py", "if shard.start < done:",
          "if shard.start < 0:", (f"{SHARDS}::test_shards_that_do_not_fit_are_refused",)),
    Fault("shards of another model are merged", "curvature/shards.py",
          "found.update(held.reshape(-1).view(torch.uint8).numpy().tobytes())", "pass",
          (f"{SHARDS}::test_another_model_is_refused",)),
    Fault("a merge keeps the sum of the last shard alone", "curvature/shards.py",
          "    device, sizes = sketch.vectors.device, shard.counts.tolist()",
          "    device, sizes = sketch.vectors.device, shard.counts.tolist()\n    sketch.images.zero_()",
          (f"{SHARDS}::test_merged_at_every_k_as_undivided",)),
    Fault("a pass holds as many samples as the memory takes", "curvature/difference.py",
          "return max(1, min(fit, most))", "return max(1, fit)",
          (f"{SHARDS}::test_memory_of_a_pass_is_that_of_256_samples",)),
    Fault("what failed halfway is added again", "curvature/per_sample.py",
          "result[place] = 0  # in case it was begun before", "pass",
          (f"{SHORT}::test_a_product_that_fails_in_the_middle_counts_no_sample_twice",)),
    Fault("losses of training in half precision", "training/precision.py", "return scores.float()", "return scores",
          (f"{HALF_PRECISION}::test_only_steps_are_in_half_precision",)),
    Fault("gradients clipped while they are scaled", "training/descent.py", "by.unscale(optimizer)", "pass",
          (f"{HALF_PRECISION}::test_gradients_are_clipped_at_their_own_scale",)),
)  # fmt: skip


@contextmanager
def workspace() -> Iterator[Path]:
    """Give a copy of the package and its tests in a temporary folder."""
    skipped = shutil.ignore_patterns("__pycache__", "bundled_vit", "*.safetensors")
    with tempfile.TemporaryDirectory(prefix="planted-") as name:
        root = Path(name)
        for folder in ("src", "tests"):
            shutil.copytree(ROOT / folder, root / folder, ignore=skipped)
        shutil.copy(ROOT / "pyproject.toml", root)
        yield root


def patched(fault: Fault, root: Path = ROOT) -> str:
    """Return the text of the fault's file with the fault in it; the old text must be there exactly once."""
    text = (root / PACKAGE / fault.file).read_text(encoding="utf-8")
    count = text.count(fault.old)
    if count != 1:
        raise ValueError(f"{fault.name}: {fault.old!r} is {count} times in {fault.file}; it must be there once.")
    return text.replace(fault.old, fault.new)


def run_tests(root: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run tests on the package in `root`; return pytest's exit code and the last lines it wrote."""
    environment = os.environ | {
        "PYTHONPATH": str(root / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    command = [sys.executable, "-c", RUNNER, str(root), *OPTIONS, *tests]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    # A fixture that is missing turns a test red as well, and says nothing about the fault: one must have failed.
    failed = done.returncode == RED and re.search(r"^\d+ failed", said, re.MULTILINE)
    if done.returncode != GREEN and not failed:
        raise RuntimeError(f"tests did not run (exit {done.returncode}):\n{said[-3000:]}")
    return done.returncode, said


def is_found(fault: Fault, root: Path) -> bool:
    """Plant the fault in the workspace, run its tests, and take it out again."""
    target = root / PACKAGE / fault.file
    clean = target.read_text(encoding="utf-8")
    target.write_text(patched(fault, root), encoding="utf-8")
    try:
        return all(run_tests(root, [test])[0] == RED for test in fault.tests)
    finally:
        target.write_text(clean, encoding="utf-8")


def are_green(faults: Sequence[Fault], root: Path) -> bool:
    """Say whether the tests of all faults pass without a fault."""
    code, said = run_tests(root, sorted({test for fault in faults for test in fault.tests}))
    if code != GREEN:
        print(said[-3000:])
    return code == GREEN


def main() -> int:
    """Plant, run, and print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", metavar="NAME", default="", help="only faults whose name contains this")
    parser.add_argument("--list", action="store_true", help="name the faults and their tests, and run nothing")
    options = parser.parse_args()
    chosen = [fault for fault in FAULTS if options.only in fault.name]
    if not chosen:
        parser.error(f"no fault is named {options.only!r}; see --list")
    width = max(len(fault.name) for fault in chosen)
    if options.list:
        print("\n".join(f"{fault.name:{width}} | {fault.file} | {', '.join(fault.tests)}" for fault in chosen))
        return 0
    try:
        return _check_all(chosen, width)
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2


def _check_all(chosen: Sequence[Fault], width: int) -> int:
    for fault in chosen:
        patched(fault)
    survived = 0
    with workspace() as root:
        if not are_green(chosen, root):
            raise RuntimeError("the tests are red without any fault, so their red says nothing.")
        print(f"{'fault':{width}} | red? | seconds | tests")
        for fault in chosen:
            started = time.perf_counter()
            found = is_found(fault, root)
            survived += not found
            took, answer = time.perf_counter() - started, "yes" if found else "NO"
            print(f"{fault.name:{width}} | {answer:4} | {took:7.1f} | {', '.join(fault.tests)}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} faults found.")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
