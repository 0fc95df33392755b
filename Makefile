# Needs Python 3.11 or newer and make. Everything else goes into .venv.
# Settings pass through from the environment or the command line: make demo PARTITIONS=8, make dev PORT=8080.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
# Markers: what the product and the demo need is installed; and in addition what the tests need, installed for the first test run.
INSTALLED := $(VENV)/.installed
WITH_TESTS := $(VENV)/.installed-tests

# The first of these that is new enough is used. python3 may be older than another installed version.
PYTHONS := python3.13 python3.12 python3.11 python3.14 python3

PIP := PYTHONUNBUFFERED=1 $(BIN)/python -m pip install --disable-pip-version-check
# Prints each package's name when pip reaches it, and pip's whole output if it fails.
SHOW := 2>&1 | tee $(VENV)/install.log | while read -r word package rest; do case "$$word $$package" in \
    "pip failed") echo; cat $(VENV)/install.log >&2; exit 1 ;; \
    Collecting*) printf ' %s' "$${package%%[!A-Za-z0-9._-]*}" ;; esac; done && echo

.DEFAULT_GOAL := help
.PHONY: help install demo dev test test-fast chaos bench fuzz docs lint clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile

install: $(WITH_TESTS) ## create .venv and install the project with its test dependencies

demo: $(INSTALLED) ## process real prices with several workers and check the result; leaves nothing running (CLUSTER=3: on a cluster)
	@$(BIN)/python -m celery_partitions.demo

dev: $(if $(SCENE),$(WITH_TESTS),$(INSTALLED)) ## run a server, workers and Flower until Ctrl-C (SCENE=1: a group in trouble; CLUSTER=3: on a cluster)
	@$(BIN)/python -m $(if $(SCENE),tests.dashboard.scene,celery_partitions.demo --keep)

test: $(WITH_TESTS) ## run all tests on all processors (ARGS="-k name" passes options to pytest)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: $(WITH_TESTS) ## run the tests that need no server and no worker (ARGS as above)
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not server and not slow and not benchmark" $(ARGS)

chaos: $(WITH_TESTS) ## inject random faults into a whole group, then check its history (SECONDS=60 SEED=7; CLUSTER=3: on a cluster with replicas)
	@$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED)) $(if $(CLUSTER),--cluster $(CLUSTER))

bench: $(WITH_TESTS) ## run the benchmarks; tables and plots go to .bench/
	@$(BIN)/python -c 'import gevent' 2>/dev/null || $(PIP) --quiet -e '.[bench]'
	$(BIN)/python -m tests.benchmarks

fuzz: $(WITH_TESTS) ## fuzz the decoders with atheris for SECONDS (60)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) --quiet -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz $(or $(SECONDS),60)

docs: $(WITH_TESTS) ## generate the guides' tables from the code: settings, commands, metrics, API, errors
	$(BIN)/python -m tests.docs.generate

lint: $(WITH_TESTS) ## check style, types and the import contract
	@mkdir -p build/typing && ln -sfn ../../tasks build/typing/celery_partitions && ln -sfn ../../config build/typing/celery_partitions_config
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## remove .venv, caches and the output of demo, chaos and bench
	rm -rf $(VENV) .dev .bench .fuzz .chaos .screenshots .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage build *.egg-info
	find config tasks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Created again when pyproject.toml changes.
$(INSTALLED): pyproject.toml
	@python=; \
	for name in $(PYTHONS); do \
	    if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "Python 3.11 or newer is required. None of these is new enough: $(PYTHONS)" >&2; exit 1; \
	fi; \
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	    version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    echo "$$python has no venv module. On Debian and Ubuntu: apt-get install python$$version-venv" >&2; exit 1; \
	fi; \
	echo "1/3 Creating $(VENV) with $$($$python -V)"; \
	$$python -m venv --clear $(VENV)
	@printf '2/3 Installing Celery, Flower, a Redis server and this project (about 15 seconds):'
	@{ $(PIP) -e '.[demo]' || echo 'pip failed'; } $(SHOW)
	@echo '3/3 Installing real stock prices (bokeh-sampledata, without its dependency pandas)'
	@$(PIP) --quiet --quiet --no-deps 'bokeh-sampledata>=2025'
	@touch $@

$(WITH_TESTS): $(INSTALLED)
	@printf 'Installing the test dependencies (about a minute the first time):'
	@{ $(PIP) -e '.[test]' || echo 'pip failed'; } $(SHOW)
	@touch $@
