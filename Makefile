PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-bench
BROWSER := .browser
IMAGES := .images
SLURM := .slurm
LOWEST := .venv-lowest
# One more than there are cores, as some tests wait for processes.
WORKERS = $$($(BIN)/python -c "import os; print(min(4, os.cpu_count() + 1))")
CORE := tests/cli/test_answers.py tests/cli/test_command.py tests/cli/test_encodings.py tests/fit tests/laws tests/recipes tests/reference tests/report tests/table tests/test_files.py tests/test_text.py
AXE := 4.14.1
# npm does not trust by itself what the system trusts.
SYSTEM_CERTIFICATES := /etc/ssl/certs/ca-certificates.crt
PEER_PYTHON ?= $(PYTHON)

.DEFAULT_GOAL := help
.PHONY: help install demo demo-images test test-slow test-browser test-lowest test-package test-ray-cluster test-slurm browser-ready slurm-ready check lint docs docs-ready docs-links bench bench-beyond bench-calibration bench-coverage bench-execute bench-fit bench-hparams bench-joint bench-models bench-plan \
	bench-report bench-tables bench-train chaos chaos-clusters gpu-check study clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/:.*## /\t/' | expand -t 16

install: $(READY) ## Set up .venv with everything that the other targets need

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev]"
	@touch $@

demo: install ## Train a real sweep on real text and answer (about 5 minutes on two cores)
	$(BIN)/flops-fit demo --output-dir outputs/demo

demo-images: install $(IMAGES)/.ready ## Train vision transformers on 60,000 real images and answer (about 5 minutes on two cores)
	$(BIN)/flops-fit demo --images --data-dir $(IMAGES)/usr/share/datasets/fashion-mnist --output-dir outputs/demo-images

# Debian's package, unpacked here: that takes no root, and changes nothing else.
$(IMAGES)/.ready:
	@mkdir -p $(IMAGES)
	@cd $(IMAGES) && { apt-get download -q dataset-fashion-mnist || { apt-get update -qq && apt-get download -q dataset-fashion-mnist; }; } \
		&& dpkg-deb -x dataset-fashion-mnist_*.deb . && rm dataset-fashion-mnist_*.deb \
		|| { echo "expected Debian's package dataset-fashion-mnist, and apt-get could not download it: put the four files" \
		"*-ubyte.gz of Fashion-MNIST into a folder, and run $(BIN)/flops-fit demo --images --data-dir FOLDER"; exit 1; }
	@touch $@

test: install ## Run the tests, a file to a core (9 to 14 minutes on two), but the slowest
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: install ## Run the slowest tests: pages of the documentation, coverage of intervals, the demo, Ray
	$(BIN)/python -m pytest -n $(WORKERS) --dist load -m slow

test-lowest: $(LOWEST)/.ready ## Run the tests that need no torch at the lowest versions that are declared (about 10 minutes)
	$(LOWEST)/bin/python -m pytest -W ignore::DeprecationWarning $(CORE)

# Old releases warn beside new ones of what they need themselves, so deprecations are no errors there.
$(LOWEST)/.ready: pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	SSL_CERT_FILE=$${SSL_CERT_FILE-$(wildcard $(SYSTEM_CERTIFICATES))} $(LOWEST)/bin/uv pip compile --quiet \
		--resolution lowest-direct --extra pandas --extra parquet --extra polars pyproject.toml --output-file $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -r $(LOWEST)/lowest.txt -e . \
		hypothesis pytest pytest-timeout
	@touch $@

test-package: install ## Build wheel and sdist, and try them as another user, elsewhere, without this environment (2 minutes)
	PYTHON=$(PYTHON) tests/package.sh

test-browser: $(BROWSER)/.ready ## Open report pages in Chromium: numbers, requests, accessibility (a minute)
	$(BIN)/python -m pytest tests/browser -s

$(BROWSER)/.ready: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[browser]"
	@command -v chromium > /dev/null || { command -v apt-get > /dev/null \
		&& apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
		|| { echo "expected chromium; it is not on the path and apt-get could not install it"; exit 1; }
	NODE_EXTRA_CA_CERTS=$${NODE_EXTRA_CA_CERTS-$(wildcard $(SYSTEM_CERTIFICATES))} \
		npm install --silent --no-audit --no-fund --prefix $(BROWSER) axe-core@$(AXE)
	@touch $@

test-slurm: install $(SLURM)/.ready ## Run sweeps on a real Slurm of three nodes on this machine, as the present user (8 minutes)
	$(BIN)/python -m pytest tests/cluster/test_slurm.py

test-ray-cluster: install ## Run sweeps on a Ray cluster of three nodes in network namespaces: needs root (3 minutes)
	$(BIN)/python -m pytest tests/cluster/test_ray.py

# Debian's packages and the libraries that this machine lacks for them, unpacked here as above.
$(SLURM)/.ready:
	@mkdir -p $(SLURM)
	@cd $(SLURM) && { command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null; } \
		&& { apt-cache show slurmctld > /dev/null 2>&1 || apt-get update -qq; } \
		&& apt-get download -q slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libmunge2 \
		$$(apt-get install -s --no-install-recommends slurmctld slurmd munge | awk '/^Inst (lib|slurm-wlm)/ {print $$2}') \
		&& printf '%s\n' *.deb | xargs -I FILE dpkg-deb -x FILE . && rm *.deb \
		|| { echo "expected Debian's packages slurmctld, slurmd, slurm-client, slurm-wlm-basic-plugins and munge, and" \
		"apt-get could not download them: unpack them into $(SLURM), and run $(BIN)/python -m pytest tests/cluster/test_slurm.py"; exit 1; }
	@touch $@

slurm-ready: $(SLURM)/.ready

docs: $(VENV)/.ready-docs ## Build the documentation into docs/_build/html, warnings as errors (a quarter of a minute)
	rm -rf docs/reference/generated
	$(BIN)/python -m sphinx --builder html --fresh-env --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

docs-ready: $(VENV)/.ready-docs
browser-ready: $(BROWSER)/.ready

docs-links: $(VENV)/.ready-docs ## Ask every address in the documentation whether it is there: needs a network
	$(BIN)/python -m sphinx --builder linkcheck --quiet docs docs/_build/linkcheck

$(VENV)/.ready-docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[docs]"
	@touch $@

check: lint ## Lint, format, layers and types
	$(BIN)/mypy

lint: install ## Lint, format and layers, in seconds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

bench: install $(PEERS)/.ready $(PEERS)/.ready-train $(IMAGES)/.ready ## Every benchmark, and what has moved since they were recorded (about five hours)
	$(BIN)/python -m benchmarks

bench-beyond: install ## Questions beyond N and D, on public tables in a folder: FLOPS_FIT_SWEEPS=DIR (about a quarter of an hour)
	$(BIN)/python -m benchmarks.beyond

bench-calibration: install ## Measure the intervals on public sweeps with the top budgets held out (about 5 minutes)
	$(BIN)/python -m benchmarks.calibration

bench-coverage: install ## Measure how often the 90 % intervals hold where the law is right (ten minutes)
	$(BIN)/python -m benchmarks.coverage

bench-execute: install ## Two at a time against one, the same digits everywhere, overhead of a run (about 16 minutes)
	$(BIN)/python -m benchmarks.execute

study: install $(IMAGES)/.ready ## Predict the largest budget of a sweep on text and of one on images, then train it (about an hour and a half)
	$(BIN)/python -m benchmarks.study text; text=$$?; \
		$(BIN)/python -m benchmarks.study images --data-dir $(IMAGES)/usr/share/datasets/fashion-mnist && exit $$text

chaos: install ## Kill, tear and fill the disk under sweeps, and look what is lost (about 8 minutes)
	$(BIN)/python -m benchmarks.chaos

gpu-check: install ## Run all that a GPU runs on the one of this machine, a verdict a line (10 minutes at most)
	$(BIN)/python -m benchmarks.gpu

chaos-clusters: install $(SLURM)/.ready ## The same on a real Slurm, and on Ray in network namespaces, which needs root (about 10 minutes)
	$(BIN)/python -m benchmarks.chaos.clusters

bench-fit: install $(PEERS)/.ready ## Accuracy, speed and size of the fit, beside other packages (about 5 minutes)
	$(BIN)/python -m benchmarks.fit

bench-hparams: install ## One rate over widths in μP and without, and the demo untuned and tuned (about 45 minutes)
	$(BIN)/python -m benchmarks.hparams

bench-joint: install $(IMAGES)/.ready ## Rates and batches as part of the surface, simulated (about two hours) and on public runs
	$(BIN)/python -m benchmarks.joint

bench-models: install ## 68 kinds of model, data and loss: planned, trained, held against closed forms, and a thousand healthy runs (16 minutes)
	$(BIN)/python -m benchmarks.models

bench-plan: install ## Exact cost, predicted times, and FLOPs to an answer by design (about 25 minutes)
	$(BIN)/python -m benchmarks.plan

bench-report: install ## From runs to a finished page: seconds, size, time to load (a minute)
	$(BIN)/python -m benchmarks.report

bench-tables: install ## Which of fifty files, written as tools write them, are read as they are (a minute)
	$(BIN)/python -m benchmarks.tables

bench-train: install $(PEERS)/.ready-train ## Training beside a loop by hand and other trainers (about 13 minutes)
	$(BIN)/python -m benchmarks.train

# Each package alone, so that one that cannot be installed leaves its reason in a log and no more.
# $(1): the list of packages; $(2): what they have to live with.
define install-peers
	$(PEER_PYTHON) -m venv $(PEERS)
	while read -r peer; do \
		$(PEERS)/bin/python -m pip install --disable-pip-version-check "$$peer" $(2) \
			> "$(PEERS)/$${peer%%==*}.log" 2>&1 < /dev/null || echo "not installed: $$peer"; \
	done < $(1)
	@touch $@
endef

$(PEERS)/.ready: benchmarks/fit/peers.txt
	$(call install-peers,$<,)

$(PEERS)/.ready-train: benchmarks/train/peers.txt constraints.txt
	$(call install-peers,$<,$(filter torch==% accelerate==%,$(shell cat constraints.txt)))

clean: ## Remove .venv, caches and outputs
	rm -rf $(VENV) $(LOWEST) $(PEERS) $(BROWSER) $(IMAGES) $(SLURM) docs/_build docs/reference/generated outputs .mypy_cache .ruff_cache .import_linter_cache
