# Needs Python 3.11 or newer and make. Everything else goes into .venv.
# Settings pass through from the environment or the command line: make demo PARTITIONS=8, make dev PORT=8080.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
# What the product and the demo need; what the tests need in addition, installed when they are asked for.
INSTALLED := $(VENV)/.installed
WITH_TESTS := $(VENV)/.installed-tests

# Taken by name when there; python3 may be older than what is also installed.
PYTHONS := python3.13 python3.12 python3.11 python3.14 python3

PIP := PYTHONUNBUFFERED=1 $(BIN)/python -m pip install --disable-pip-version-check
# Names each package when pip reaches it, and shows all that pip said when it failed.
SHOW := 2>&1 | tee $(VENV)/install.log | while read -r word package rest; do case "$$word $$package" in \
    "pip failed") echo; cat $(VENV)/install.log >&2; exit 1 ;; \
    Collecting*) printf ' %s' "$${package%%[!A-Za-z0-9._-]*}" ;; esac; done && echo

.DEFAULT_GOAL := help
.PHONY: help install demo dev test test-fast chaos bench fuzz docs lint clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile

install: $(WITH_TESTS) ## make .venv and install the project into it, with what the tests need

demo: $(INSTALLED) ## real prices through several workers, checked; leaves nothing running
	@$(BIN)/python -m celery_partitions.demo

dev: $(INSTALLED) ## a server, workers and Flower, until Ctrl-C
	@$(BIN)/python -m celery_partitions.demo --keep

test: $(WITH_TESTS) ## all tests, on each processor (ARGS="-k name" passes options to pytest)
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-fast: $(WITH_TESTS) ## the tests that start no worker: a minute (ARGS as above)
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not server and not benchmark" $(ARGS)

chaos: $(WITH_TESTS) ## harm a whole group at random, then prove its history (SECONDS=60 SEED=7)
	@$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

bench: $(WITH_TESTS) ## measure; tables and plots go to .bench/
	$(BIN)/python -m tests.benchmarks

fuzz: $(WITH_TESTS) ## look SECONDS long (60) for bytes that break a decoder, with atheris
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) --quiet -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz $(or $(SECONDS),60)

docs: $(WITH_TESTS) ## write what the code knows into the guides: settings, commands, metrics, API, errors
	$(BIN)/python -m tests.docs.generate

lint: $(WITH_TESTS) ## style, types and the import contract
	@mkdir -p build/typing && ln -sfn ../../tasks build/typing/celery_partitions && ln -sfn ../../config build/typing/celery_partitions_config
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## remove .venv, caches and what demo, chaos and bench wrote
	rm -rf $(VENV) .dev .bench .fuzz .chaos .screenshots .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage build *.egg-info
	find config tasks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Made again when pyproject.toml changes.
$(INSTALLED): pyproject.toml
	@python=; \
	for name in $(PYTHONS); do \
	    if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "Python 3.11 or newer is needed, and none of these is: $(PYTHONS)" >&2; exit 1; \
	fi; \
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	    version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    echo "$$python has no venv. On Debian and Ubuntu: apt-get install python$$version-venv" >&2; exit 1; \
	fi; \
	echo "1/3 Making $(VENV) with $$($$python -V)"; \
	$$python -m venv --clear $(VENV)
	@printf '2/3 Installing Celery, Flower, a Redis server and this project (15 seconds or so):'
	@{ $(PIP) -e '.[demo]' || echo 'pip failed'; } $(SHOW)
	@echo '3/3 Installing real stock prices (bokeh-sampledata, without the pandas that it asks for)'
	@$(PIP) --quiet --quiet --no-deps 'bokeh-sampledata>=2025'
	@touch $@

$(WITH_TESTS): $(INSTALLED)
	@printf 'Installing what the tests need (a minute or so the first time):'
	@{ $(PIP) -e '.[test]' || echo 'pip failed'; } $(SHOW)
	@touch $@
