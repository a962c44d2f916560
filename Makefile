# Every target sets up what it needs, from nothing but Python 3.11 and a C compiler.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: help demo test test-all bench results-cpu results-gpu lint format types clean

help:
	@echo "make demo         train, cut and draw on real images (two minutes)"
	@echo "make test         lint, format check, types, tests, doctests"
	@echo "make test-all     the same, slow tests included"
	@echo "make bench        speed and memory against the obvious alternatives, ten minutes on a quiet machine"
	@echo "make results-cpu  all methods, three seeds: four to five days of one core, goes on where it was"
	@echo "make results-gpu  nine minutes of the same on a GPU: run it until all is done"
	@echo "make format       reformat and fix what can be fixed"

demo: $(VENV)/.run
	$(BIN)/pliant demo --overwrite

test: lint types
	$(PYTEST) -m "not slow"

test-all: lint types
	$(PYTEST)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

results-cpu: $(VENV)/.run
	$(BIN)/python scripts/suite.py recipes/suites/cpu.yaml

results-gpu: $(VENV)/.run
	$(BIN)/python scripts/suite.py recipes/suites/gpu.yaml --minutes 9

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
