"""From an adaptation's record of spectra to what its result says of them."""

from typing import Any

from stillscape.experiments.collect import Collected
from stillscape.experiments.spectrum import KIND, spectrum_key
from stillscape.experiments.store import Store

#: What a result keeps of a record: no times, which differ between equal runs.
KEPT = ("version", "images", "parameters", "num_classes", "num_sample_products", "sizes")


def measured_spectrum(collected: Collected) -> tuple[dict[str, Any] | None, list[str]]:
    """Return what was measured of an adaptation's spectra, and notes; None where the plan asks for nothing."""
    bench, store = collected.bench, Store(collected.store.place.parent, KIND)
    key = spectrum_key(bench, collected.store, collected.adapt)
    if key is None or not store.has(key):
        return None, []
    record = store.record(key)
    if record["status"] != "ok":
        return None, [f"The spectrum of the Hessian was not measured ({record['reason'].rstrip('.')})."]
    unsettled = [str(row["k"]) for row in record["sizes"] if not row["converged"]]
    notes = [f"Eigenvalues of the Hessian did not settle at k = {', '.join(unsettled)}."] if unsettled else []
    return {name: record[name] for name in KEPT}, notes
