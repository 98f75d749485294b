# Needs Python 3.11 or newer, Go, and make; all else is built or installed once, into .venv and the user's cache folder.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CHART  := charts/neva-pretrain
NAME   ?= neva
NODES  ?= 16

.DEFAULT_GOAL := help
.PHONY: help install release tools docs pictures site lint quick unit fuzz test e2e nemo chaos demo sandbox-up sandbox-down bench bench-gpu bench-planner bench-scale clean

help:  ## Show the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo 'python: installing the package and its development tools into $(VENV); the first time takes a minute'
	$(BIN)/pip install --disable-pip-version-check --editable '.[dev]'
	touch $@

install: $(VENV)/.installed  ## Install the package and its development tools into .venv

release: tools  ## A release's files in dist/, nothing published; KEY=NAME KEYRING=FILE [KEY_URL=URL] signs, PUSH=oci://... pushes the chart
	@$(BIN)/python -m tests.tools.release $(if $(HOME_URL),--home '$(HOME_URL)') $(if $(PUSH),--push '$(PUSH)') \
	  $(if $(KEY),--key '$(KEY)' --keyring '$(KEYRING)' $(if $(KEY_URL),--key-url '$(KEY_URL)'))

tools: install  ## Build helm, kubeconform, helm-docs and actionlint, once
	@$(BIN)/python -m tests.tools build helm kubeconform helm-docs actionlint

docs: tools  ## Make what follows from other files: values.schema.json, the chart's README and annotations, rules, field reports
	@$(BIN)/python -m tests.tools.schema
	@$(BIN)/python -m tests.tools.rules
	@$(BIN)/python -m tests.tools.reports
	@$(BIN)/python -m tests.tools.annotations
	@$$($(BIN)/python -m tests.tools path helm-docs) --chart-search-root charts --log-level warning

pictures: install  ## Draw the README's pictures with the product itself
	$(BIN)/python -m tests.tools.pictures

$(VENV)/.site: $(VENV)/.installed
	$(BIN)/pip install --disable-pip-version-check --editable '.[docs]'
	touch $@

site: $(VENV)/.site  ## The documents as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: tools  ## ruff, codespell, mypy --strict, import-linter, shellcheck, actionlint, helm lint --strict; made files up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy --python-version 3.10 --package neva_pod
	$(BIN)/shellcheck $(CHART)/files/*.sh
	$$($(BIN)/python -m tests.tools path actionlint) -shellcheck $(BIN)/shellcheck .github/workflows/*.yml
	$$($(BIN)/python -m tests.tools path helm) lint --strict --kube-version 1.37.0 $(CHART)
	$(BIN)/python -m tests.tools.docs $(CHART)
	$(BIN)/python -m tests.tools.schema --check
	$(BIN)/python -m tests.tools.rules --check
	$(BIN)/python -m tests.tools.reports --check
	$(BIN)/python -m tests.tools.annotations --check

quick: install  ## The fast tests: no Helm, under a minute
	$(BIN)/python -m pytest tests -m "not e2e and not nemo and not bench and not helm and not slow"

unit: tools  ## Unit, property and chart tests
	$(BIN)/python -m pytest tests -m "not e2e and not nemo and not bench" --numprocesses 2 --dist worksteal

fuzz: tools  ## Property tests with new examples, ROUNDS times (default 10)
	@for round in $$(seq $${ROUNDS:-10}); do NEVA_FUZZ=1 $(BIN)/python -m pytest -q $$(grep -rl '^@given' tests) -m "not e2e" || exit 1; done

test: lint unit  ## All that needs no control plane

$(VENV)/.e2e: $(VENV)/.installed
	@echo 'python: installing torch and the rest of the end-to-end tests into $(VENV); the first time takes minutes'
	$(BIN)/pip install --disable-pip-version-check --editable '.[dev,e2e]'
	@$(BIN)/python -m tests.tools build all
	touch $@

e2e: $(VENV)/.e2e  ## Install on a real API server, operator and scheduler; run real torchrun on CPU
	$(BIN)/python -m pytest tests/e2e -m e2e --numprocesses 2 --dist loadfile
	$(BIN)/python -m pytest tests/survival -m e2e --numprocesses 4

nemo: tools  ## NVIDIA's own NeVa code under the rendered configuration, on CPU (Python 3.11 or 3.12)
	@$(BIN)/python -m tests.nemo.environment
	$(BIN)/python -m pytest tests/nemo -m nemo --numprocesses 2 --dist loadfile

chaos: $(VENV)/.e2e  ## 500 random schedules of faults; NEVA_CHAOS=N for another number
	NEVA_CHAOS=$${NEVA_CHAOS:-500} $(BIN)/python -m pytest tests/survival/test_chaos.py -m e2e --numprocesses 4

sandbox-up: install  ## Start the local control plane with NODES simulated 8-GPU nodes
	@$(BIN)/python -m tests.tools build helm kubernetes kwok etcd training-operator
	@$(BIN)/python -m tests.sandbox up --name $(NAME) --nodes $(NODES)

sandbox-down: install  ## Stop it; no process stays
	@$(BIN)/python -m tests.sandbox down --name $(NAME)

demo: install  ## 16 nodes, neva-values --gpus 128, helm install, Running; leaves a kubeconfig to play with
	@$(BIN)/python -m tests.demo --name $(NAME) --nodes $(NODES)

bench: tools  ## Cost of a render and of the generator, as ratios
	@$(BIN)/python -m tests.bench.bench_generator

bench-planner: install  ## Accuracy of the cost model against measurements; cost of a search
	@$(BIN)/python -m tests.bench.bench_planner

bench-gpu:  ## A NeVa step on this machine's GPUs, with PYTHON's torch; CASES="7b:tp1:mbs16:fused ..."
	PYTHONPATH=generator:charts/neva-pretrain/files:.mcore $(PYTHON) -m benchmarks.neva_step $(CASES)

bench-scale: install  ## A job of 2,048 nodes on the local control plane
	@$(BIN)/python -m tests.bench.bench_scale

clean:  ## Remove what make made here; the tools in the cache stay
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
