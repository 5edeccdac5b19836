"""Plans, runs and their records: the way from a folder of images to a verdict."""

from stillscape.experiments.analyze import analyze
from stillscape.experiments.bench import Bench, Cell, set_up
from stillscape.experiments.callback import DataCurveCallback
from stillscape.experiments.compare import compare_runs
from stillscape.experiments.cost import Cost, estimate, fit_budget, wall_seconds
from stillscape.experiments.data_sufficiency import DataSufficiency
from stillscape.experiments.evidence_table import measure_evidence
from stillscape.experiments.plan import Plan, demo_plan, make_plan
from stillscape.experiments.progress import Progress, Silent
from stillscape.experiments.run import read_result, run, run_shard
from stillscape.experiments.shards import Shard, merge, parse_shard
from stillscape.experiments.store import Store, content_key
from stillscape.experiments.watch import watch

__all__ = [
    "Bench",
    "Cell",
    "Cost",
    "DataCurveCallback",
    "DataSufficiency",
    "Plan",
    "Progress",
    "Shard",
    "Silent",
    "Store",
    "analyze",
    "compare_runs",
    "content_key",
    "demo_plan",
    "estimate",
    "fit_budget",
    "make_plan",
    "measure_evidence",
    "merge",
    "parse_shard",
    "read_result",
    "run",
    "run_shard",
    "set_up",
    "wall_seconds",
    "watch",
]
