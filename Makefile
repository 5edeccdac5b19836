# Two commands on a fresh machine with Python 3.11 or later: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OUT ?= runs/demo
JOBS ?= 2
# A core for each process of tests; what wants all of them follows by itself.
SIDE_BY_SIDE = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test quick check format bench docs faults audit-deps clean

demo: $(VENV)/.installed
	@$(BIN)/stillscape demo --out $(OUT) || test $$? -eq 3

test: check
	$(SIDE_BY_SIDE) -m "not alone"
	$(BIN)/python -m pytest -m alone

quick: check
	$(SIDE_BY_SIDE) -m "not slow and not alone"

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "docs: site/index.html"

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/last_layers/run.py
	$(BIN)/python benchmarks/overhead/run.py
	$(BIN)/python benchmarks/realistic/run.py
	$(BIN)/python benchmarks/surface/run.py

# Every fault that the tests know, counted: writes docs/faults.md.
faults: $(VENV)/.installed-dev
	$(BIN)/python scripts/faults.py

# Known vulnerabilities of what is pinned. It needs pip-audit and its database; where either is missing, it says so.
audit-deps: $(VENV)/.installed
	@$(INSTALL) --editable '.[audit]' || echo "audit-deps: pip-audit can't be installed here"
	@$(BIN)/python scripts/audit_dependencies.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Stillscape needs Python 3.11 or later; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist runs site
