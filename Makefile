SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check dev drill

PYTHON ?= python3
PORT ?= 3000
SEEDS ?= 50
INSTALLED := .venv/.installed
INSTANCE := .dagster/dagster.yaml

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DAGSTER_HOME := $(CURDIR)/.dagster
export DAGSTER_DISABLE_TELEMETRY := 1

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' Makefile

demo: export PYTHONWARNINGS := ignore
demo: export SATCLIP_PRESET := sandbox
demo: $(INSTALLED) $(INSTANCE) ## Run the whole chain on the embedded sandbox and name what it made
	@satclip sandbox run -- dagster job execute -m assets.definitions -j full_chain -c assets/config/sandbox.yaml
	@satclip summary

test: $(INSTALLED) ## Run all tests
	@pytest -n 2 --dist loadscope --no-loadscope-reorder --max-worker-restart=0

drill: export SATCLIP_DRILL_SEEDS := $(SEEDS)
drill: $(INSTALLED) ## Disturb 50 builds and compare them with an undisturbed one (another number: make drill SEEDS=...)
	@pytest -n 2 --dist load tests/drill

check: export PYTHONWARNINGS := ignore
check: $(INSTALLED) $(INSTANCE) ## Check format, style, types, import contracts and Dagster's definitions
	ruff format --check
	ruff check
	mypy
	lint-imports
	dagster definitions validate -w workspace.yaml

dev: export PYTHONWARNINGS := ignore
dev: export SATCLIP_PRESET := sandbox
dev: $(INSTALLED) $(INSTANCE) ## Open Dagster on the sandbox at http://127.0.0.1:3000 (another port: make dev PORT=...)
	@satclip sandbox run -- dagster dev -w workspace.yaml -h 127.0.0.1 -p $(PORT)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1), but Python 3.12 or newer is needed;" \
	    "name one, for example: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x .venv/bin/pip || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a few minutes the first time)"
	@.venv/bin/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(INSTANCE): dagster.yaml
	@mkdir -p $(@D)
	@cp $< $@
