# Two commands on a fresh machine with Python 3.11 or later: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OUT ?= runs/demo
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test quick check format bench faults audit-deps clean

demo: $(VENV)/.installed
	@$(BIN)/stillscape demo --out $(OUT) || test $$? -eq 3

test: check
	$(BIN)/python -m pytest

quick: check
	$(BIN)/python -m pytest -m "not slow"

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/last_layers/run.py
	$(BIN)/python benchmarks/overhead/run.py
	$(BIN)/python benchmarks/realistic/run.py

# Every fault that the tests know, counted: writes docs/faults.md.
faults: $(VENV)/.installed-dev
	$(BIN)/python scripts/faults.py

# Known vulnerabilities of what is pinned. It needs pip-audit and its database; where either is missing, it says so.
audit-deps: $(VENV)/.installed-dev
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
	rm -rf $(VENV) build dist runs
