# Every target sets up what it needs in .venv, without a prompt; `make` alone lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test check lint fix bench docs clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime  ## train two small networks on real seismograms, capture, store and draw every layer: demo/
	$(BIN)/stratascope demo --to demo

# A thread each: on two cores, the threads of two processes wait for one another most of the time.
test: $(VENV)/.dev  ## run all tests, the examples in the documentation included
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

check: lint test  ## everything that a change must pass

lint: $(VENV)/.dev  ## style, types, import direction, size budgets
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python tools/budget.py

fix: $(VENV)/.dev  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## print the ratios: capture, extract, memory, statistics, profile, compare, pictures, simulation
	$(BIN)/python benchmarks/capture.py
	$(BIN)/python benchmarks/extract.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/stats.py
	$(BIN)/python benchmarks/profiling.py
	$(BIN)/python benchmarks/compare.py
	$(BIN)/python benchmarks/render.py
	$(BIN)/python benchmarks/simulate.py

docs: $(VENV)/.dev  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## remove what the other targets made, .venv included
	rm -rf $(VENV) site dist demo .pytest_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks

$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "stratascope needs Python 3.11 or newer, got $$($(PYTHON) --version): make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(VENV), which takes a minute or two"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip==26.1
	@touch $@

$(VENV)/.runtime: $(VENV)/.pip pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) install --quiet --constraint constraints.txt --group dev
	@touch $@
