# muybridge in a few words: make demo | test | check | bench | docs
# `make demo` and `make test` do their whole set-up. Another Python: make test PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
SPEED := decode loader train_step  # with real clips, or for long: the others, see docs/results.md

.PHONY: demo test check format bench docs clean
.NOTPARALLEL:

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "muybridge needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

# What development needs is a superset: whoever has it needs no second install for the demo.
$(INSTALLED_DEV): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,timm]"
	touch $(INSTALLED) $@

demo: $(INSTALLED)
	$(BIN)/muybridge demo

test: $(INSTALLED_DEV)
	$(BIN)/python -m pytest

check: $(INSTALLED_DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED_DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED_DEV)
	for name in $(SPEED); do $(BIN)/python benchmarks/$$name.py || exit 1; done

# Collects the lines "Deviation: ..." of the code into docs/deviations.md, and draws the README's picture.
docs: $(INSTALLED_DEV)
	$(BIN)/python tools/picture.py
	$(BIN)/python tools/deviations.py
	$(BIN)/python tools/networks.py

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
