"""docs/theory-table.md: what it names exists, what it measured keeps its limit, and the script still writes it."""

import ast
import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from scripts.formula_table.table import all_rows

ROOT = Path(__file__).parents[1]
THEORY, TABLE = ROOT / "docs" / "theory.md", ROOT / "docs" / "theory-table.md"
SCRIPT = "scripts.formula_table"
CHECK = re.compile(r"(\S+) \((<=|>) (\S+)\)")
#: "docs/theory, section 6", "sections 2 and 5", "sections 3, 4", "docs/theory, 5.3", "(theory, section 0)".
SECTIONS = re.compile(r"theory, (?:sections? )?(\d+(?:\.\d+)?(?:(?:, | and )\d+(?:\.\d+)?)*)")
NAMED = re.compile(r"theory, (?:section [\d.]+, )?((?:Lemma|Theorem|Propositions?|counterexample|statement) [\w']+)")


def rows(path):
    """Return the cells of every row of the table in a file."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


ROWS = rows(TABLE)
NAMES = [row[0] for row in ROWS]


@cache
def headings():
    """Return what stands in front of the sections of docs/theory: "5.3" for "### 5.3 Left vectors"."""
    found = re.findall(r"^##+ (?:Section )?(\d+(?:\.\d+)?)\b", THEORY.read_text(encoding="utf-8"), re.MULTILINE)
    return set(found)


@cache
def names_in(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def resolved(name):
    """Return what a dotted name stands for: a module as long as it imports, then attributes."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


def kept(cell):
    """Return whether every measured number of a cell keeps its limit; at least one must be there."""
    checks = CHECK.findall(cell)
    assert checks, f"nothing measured in {cell!r}"
    return all(float(value) > float(limit) if sign == ">" else float(value) <= float(limit)
               for value, sign, limit in checks)  # fmt: skip


def test_rows_are_whole_and_differ():
    assert all(len(row) == 6 and all(row) for row in ROWS)
    assert len(set(NAMES)) == len(NAMES)


def test_every_formula_of_the_issue_has_a_row():
    pairs = [("V", "V"), ("V", "Q"), ("V", "K"), ("Q", "Q"), ("Q", "K"), ("K", "K")]
    wanted = [f"attention: H_{part}(W_{a}, W_{b})" for part in "of" for a, b in pairs]
    wanted += ["Theorem 1'", "Theorem 1''", "Theorem 1'''", "variance law", "matrix Bernstein", "mean over samples"]
    wanted += ["H_o = F'F", "head alone", "shift of the minimizer", "LayerNorm: D", "LayerNorm: N"]
    assert set(wanted) <= set(NAMES)
    for words in ("Theorem 2'", "chain of 3", "block bound", "Theorem 3'", "hoeffding_serfling", "k* of"):
        assert any(words in name for name in NAMES), words


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_row_names_what_exists(row):
    _, section, function, test, _, measured = row
    assert section in headings()
    assert resolved(function.strip("`")) is not None
    path, name = test.strip("`").split("::")
    assert name in names_in(path)
    assert kept(measured)


def test_a_limit_that_is_not_kept_is_seen():
    assert kept("autodiff 9e-16 (<= 1e-12); norm / M 1.5 (> 1)")
    assert not kept("autodiff 9e-16 (<= 1e-12); differences 0.1 (<= 1e-06)")
    assert not kept("norm / M 1 (> 1)")
    assert not kept("autodiff nan (<= 1e-12)")


def test_every_cited_section_exists():
    cited, text = set(), THEORY.read_text(encoding="utf-8")
    for path in sorted((ROOT / "src").rglob("*.py")):
        code = re.sub(r"\s*\n\s*#?\s*", " ", path.read_text(encoding="utf-8"))  # citations run over the ends of lines
        for numbers in SECTIONS.findall(code):
            cited |= {(path.name, number) for number in re.findall(r"\d+(?:\.\d+)?", numbers)}
        for name in NAMED.findall(code):
            number, wanted = name.split()[1], name.replace("Propositions", "Proposition")
            shown = f"| {number} |" if name.startswith("statement") else wanted.replace("counter", "Counter")
            assert shown in text, f"{path.name} cites {name!r}"
    assert len(cited) > 20, "the pattern finds no citations any more"
    assert {entry for entry in cited if entry[1] not in headings()} == set()


def test_sections_of_the_theory_are_in_order():
    text = THEORY.read_text(encoding="utf-8")
    numbers = [tuple(map(int, n.split("."))) for n in re.findall(r"^##+ (?:Section )?(\d+(?:\.\d+)?)\b", text, re.M)]
    assert numbers == sorted(numbers)
    assert text.count("```") % 2 == 0
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for paragraph in re.split(r"\n\s*\n", prose):
        assert paragraph.count("$") % 2 == 0, paragraph


def test_the_file_has_the_rows_of_the_script():
    named = [[row.formula, row.section, f"`{row.function}`", f"`{row.test}`"] for row in all_rows()]
    assert named == [row[:4] for row in ROWS], f"run python -m {SCRIPT}"


@pytest.mark.slow
def test_the_script_writes_the_same_rows(tmp_path):
    """With few cases the numbers differ; formulas, sections, functions and tests don't, and every limit is kept."""
    out = tmp_path / "table.md"
    command = [sys.executable, "-m", SCRIPT, "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [row[:4] for row in rows(out)] == [row[:4] for row in ROWS], f"run python -m {SCRIPT}"
    assert all(kept(row[5]) for row in rows(out))
