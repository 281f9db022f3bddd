PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo test check bench-coverage clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/:.*## /\t/' | expand -t 16

install: $(READY) ## Set up .venv with everything that the other targets need

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: install ## Train a real sweep on real text and answer (about 4 minutes on two cores)
	$(BIN)/flops-fit demo --output-dir outputs/demo

test: install ## Run all tests
	$(BIN)/python -m pytest

check: install ## Lint, format, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-coverage: install ## Measure how often the 90 % intervals hold (slow)
	$(BIN)/python benchmarks/coverage.py

clean: ## Remove .venv, caches and outputs
	rm -rf $(VENV) outputs .mypy_cache .ruff_cache .import_linter_cache
