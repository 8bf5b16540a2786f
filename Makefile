# `make` lists the targets. The first run of any of them creates .venv from requirements.lock.
SHELL := /bin/bash
.DEFAULT_GOAL := help
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c "$(SUPPORTED)" 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: help serve batch stream stop test check fix bench clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

serve: $(READY) ## serve the demo models over HTTP; Ctrl-C stops
	@$(BIN)/python -m examples.train
	@$(BIN)/python -m deployments up

batch: $(READY) ## score the demo table on Ray
	@$(BIN)/python -m examples.train
	@test -e var/data/transactions/part-0003.parquet || $(BIN)/python -m examples.transactions var/data/transactions
	@$(BIN)/python -m batch --config configs/batch.yaml

stream: $(READY) ## score a stream of demo events
	@$(BIN)/python -m examples.train
	@test -e var/data/transactions/part-0003.parquet || $(BIN)/python -m examples.transactions var/data/transactions
	@$(BIN)/python -m streaming demo --config configs/streaming.yaml --events var/data/transactions --key-column transaction_id

stop: $(READY) ## end everything that was started in this folder
	@$(BIN)/python -m deployments stop

test: $(READY) ## all tests, the long ones short
	@$(BIN)/python -m pytest -q

check: $(READY) ## lint, types and unit tests; changes nothing
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/python -m pytest -q tests/unit

fix: $(READY) ## let ruff repair what it can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: $(READY) ## every benchmark, one after the other
	@for bench in benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python -m $$(echo $${bench%.py} | tr / .) || exit 1; done

clean: ## remove what running has written, not the environment
	@rm -rf var

$(READY): requirements.lock pyproject.toml
	@python="$(PYTHON)"; $${python:-false} -c "$(SUPPORTED)" 2>/dev/null || { echo "Cannot set up: Python 3.11, 3.12 or 3.13 is needed, this is $$($${python:-python3} --version 2>&1). Install one, or run make PYTHON=/path/to/python3.12." >&2; exit 1; }
	@touch . 2>/dev/null && test -w . || { echo "Cannot set up: this user may not write to $$PWD. Give it the right, or use another folder." >&2; exit 1; }
	@echo "creating $(VENV) with $(PYTHON) (about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "Cannot create $(VENV): install the package python3-venv." >&2; exit 1; }
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on --quiet --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --disable-pip-version-check -qq --no-deps --no-build-isolation -e .
	@touch $(READY)
