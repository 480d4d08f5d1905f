# Everyday commands. `make` alone lists them; docs/workflow.md explains.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
SUITE ?= digits

.PHONY: help
help: ## List these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

.PHONY: reproduce
reproduce: $(STAMP) ## Environment, then a whole suite with its report (SUITE=digits); run again to resume
	snakemake --config suite=$(SUITE)
	@echo "The report: reports/$(SUITE)/index.html"

.PHONY: environment
environment: $(STAMP) ## Create or update .venv from requirements.lock

# The first Python that fits. Whatever else is installed does not matter.
$(STAMP): requirements.lock pyproject.toml
	@python=$$(for p in python3.11 python3.12 python3; do \
	    "$$p" -c 'import sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && { echo "$$p"; break; }; \
	done) || true; \
	if [ -z "$$python" ]; then \
	    echo "error: Python 3.11 or 3.12 with its venv module is needed; found: $$(python3 --version 2>&1 || true)" >&2; exit 1; fi; \
	echo "Creating .venv with $$($$python --version): about 5.5 GB, 2 to 10 minutes, mostly PyTorch ..."; \
	[ -x $(VENV)/bin/python ] || $$python -m venv $(VENV)
	@pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
	@echo "The environment is ready."

.PHONY: test
test: lint ## Checks and all tests (about 6 minutes on 2 cores)
	pytest

.PHONY: lint
lint: $(STAMP) ## Style, types and workflow checks
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint

.PHONY: format
format: $(STAMP) ## Put code into the house style
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

.PHONY: lock
lock: $(STAMP) ## Resolve requirements.lock anew from pyproject.toml
	uv pip compile -q --universal --fork-strategy fewest --generate-hashes --python-version 3.11 --no-header --extra dev \
	    --no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.lock

.PHONY: schema
schema: $(STAMP) ## Write params/schema.json from the configuration models
	fdm show --schema > params/schema.json

.PHONY: clean
clean: ## Remove results, reports and logs; runs (work/), data and downloads stay
	rm -rf results reports logs .snakemake
