"""The house rules that no linter knows: who may import whom, no global seeding, nothing printed but at the door."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "stillscape"
FILES = sorted(SOURCE.rglob("*.py"))
LINES = 400

#: A room may import itself, what stands in its row, and the modules with a leading underscore at the root.
MAY_IMPORT = {
    "data": set(),
    "models": {"data"},
    "training": {"models", "data"},
    "curvature": set(),
    "hessian": set(),
    "bounds": {"curvature", "hessian"},
    "convergence": {"curvature", "hessian"},
    "evidence": {"bounds", "convergence", "curvature", "hessian"},
    "sufficiency": {"evidence", "bounds", "convergence", "curvature", "hessian"},
    "experiments": {
        "sufficiency",
        "evidence",
        "bounds",
        "convergence",
        "curvature",
        "hessian",
        "training",
        "models",
        "data",
    },
    # a display measures what it draws where it is given an estimator, as scikit-learn's do
    "report": {"experiments", "sufficiency", "bounds", "convergence", "curvature", "hessian"},
    "reproductions": {
        "report",
        "experiments",
        "sufficiency",
        "evidence",
        "bounds",
        "convergence",
        "curvature",
        "hessian",
        "training",
        "models",
        "data",
    },
    "cli": {"experiments", "report", "data", "bounds", "_terminal"},
    "_commands": {"bounds", "reproductions", "experiments", "report", "sufficiency", "data", "_terminal"},
    "_terminal": set(),
    "_preloaded": {"experiments"},
    "_notebook": {"report"},  # opened when a notebook asks for a picture, not before
}
#: What a room must never touch, whatever imports it: pure mathematics knows no files, images or models.
FORBIDDEN = {
    "curvature": {"transformers", "peft", "datasets", "PIL", "pathlib", "pandas"},
    "bounds": {"transformers", "peft", "datasets", "PIL", "pathlib"},
    "convergence": {"torch", "transformers", "peft", "datasets", "PIL", "pathlib"},
    "evidence": {"transformers", "peft", "datasets", "PIL", "pathlib"},
    "sufficiency": {"torch", "transformers", "peft", "datasets", "PIL", "pathlib"},
    "report": {"torch", "transformers", "peft", "datasets"},
}
GLOBAL_SEEDS = {
    "torch.manual_seed",
    "torch.random.manual_seed",
    "torch.cuda.manual_seed_all",
    "np.random.seed",
    "numpy.random.seed",
    "random.seed",
    "transformers.set_seed",
    "set_seed",
}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            found.add(node.module or "")
            if node.module == "stillscape":
                found |= {f"stillscape.{alias.name}" for alias in node.names}
    return found


def illegal_imports(room: str, tree: ast.AST) -> set[str]:
    used = {name.split(".")[1] for name in imports(tree) if name.startswith("stillscape.")}
    own = {name for name in used if not name.startswith("_") or name == "_terminal"}
    outside = {name.split(".")[0] for name in imports(tree)} & FORBIDDEN.get(room, set())
    return (own - MAY_IMPORT[room] - {room}) | outside


def calls(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_file(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    room = room_of(path)
    if room in MAY_IMPORT:
        assert not illegal_imports(room, tree)
    assert not calls(tree) & GLOBAL_SEEDS
    if room not in ("cli", "_commands"):
        assert "print" not in calls(tree)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES


def test_every_room_has_a_rule():
    rooms = {room_of(path) for path in FILES if not room_of(path).startswith("__")}
    outside = {
        "_checks",
        "_errors",
        "_files",
        "_flags",
        "_folders",
        "_lanczos",
        "_processes",
        "_room",
        "_scores",
        "_secrets",
    }
    assert rooms - set(MAY_IMPORT) == outside


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("curvature", "from stillscape.data import scan"),
        ("curvature", "import transformers.models"),
        ("bounds", "from stillscape.sufficiency import Criterion"),
        ("models", "from stillscape import training"),
        ("experiments", "import stillscape.report"),
    ],
)
def test_the_rule_can_fail(room, source):
    assert illegal_imports(room, ast.parse(source))


def test_seeding_is_seen():
    assert calls(ast.parse("torch.manual_seed(0)")) & GLOBAL_SEEDS
