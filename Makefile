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

# The first Python that fits; whatever else is installed does not matter. Of pip's talk only what takes long is shown,
# the rest is in .venv/pip.log, whose end follows a failure.
PIP := pip install --disable-pip-version-check
$(STAMP): requirements.lock
	@for python in python3.11 python3.12 python3 none; do \
	    "$$python" -c 'import sys, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && break; \
	done; \
	if [ "$$python" = none ]; then \
	    echo "error: needs Python 3.11 or 3.12 with its venv module; python3 is $$(python3 --version 2>&1 || true)" >&2; exit 1; fi; \
	echo "Setting up .venv with $$("$$python" --version): about 7 GB on disk, 2 to 10 minutes, mostly PyTorch"; \
	[ -x $(VENV)/bin/pip ] || "$$python" -m venv $(VENV)
	@$(PIP) --require-hashes -r requirements.lock 2>&1 | tee $(VENV)/pip.log | awk ' \
	    /Downloading .*[0-9][0-9](\.[0-9])? [MG]B/ {print "  downloading", $$2, $$3, $$4; fflush()} \
	    /^Installing/ {print "  unpacking, without a word for minutes"; fflush()}' \
	    || { tail -n 30 $(VENV)/pip.log >&2; exit 1; }
	@$(PIP) --quiet --no-deps --no-build-isolation --editable .
	@touch $@
	@echo "The environment is ready."

.PHONY: test
test: lint ## Checks and all tests (20 to 40 minutes on 2 cores)
	OMP_NUM_THREADS=1 pytest --numprocesses auto --maxprocesses 4 --dist loadgroup

.PHONY: lint
lint: $(STAMP) ## Style, types and workflow checks
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint

.PHONY: audit
audit: $(STAMP) ## Look up known vulnerabilities of all locked packages (needs the network)
	python workflow/scripts/audit.py requirements.lock

.PHONY: format
format: $(STAMP) ## Put code into the house style
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

.PHONY: lock
lock: $(STAMP) ## Resolve requirements.lock again from pyproject.toml
	uv pip compile -q --universal --fork-strategy fewest --generate-hashes --python-version 3.11 --no-header --extra dev \
	    pyproject.toml -o requirements.lock

.PHONY: schema
schema: $(STAMP) ## Write params/schema.json from the configuration models
	fdm show --schema > params/schema.json

.PHONY: tables
tables: $(STAMP) ## Rebuild the published reports, and their tables in README and docs
	dvc repro --force published/dvc.yaml
	python workflow/scripts/docs_tables.py

.PHONY: plots
plots: .dvc/offline.html ## Let `dvc plots` work without a network (needs npm, once)
	dvc config --local plots.html_template offline.html

.dvc/offline.html: workflow/scripts/offline_plots.py | $(STAMP)
	python $< $@

.PHONY: clean
clean: ## Remove results, reports and logs; runs (work/), data and downloads stay
	rm -rf results reports logs .snakemake
