# The tasks of this project. `make help` lists them; every one works on a fresh machine.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The first interpreter that TVM's wheel and this project support; override with `make PYTHON=... <task>`
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
ARGS ?=
PROGRAMS ?= 20000
SEED ?= $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')

# pyright runs on the node that PyPI carries, never on one that happens to be installed
export PYRIGHT_PYTHON_GLOBAL_NODE := 0
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help: ## list the tasks
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { \
		echo "no Python from 3.10 to 3.13 found: install one, or name it with PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test,dev,examples]'
	@touch $@

.PHONY: venv
venv: $(READY) ## make or update .venv

.PHONY: demo
demo: $(READY) ## run the language-model example; ARGS="--help" lists its options
	$(BIN)/python -m examples.llm.demo $(ARGS)

.PHONY: test
test: lint types ## every check: style, types, tests (fetches the demo's model once); ARGS="-k name" goes to pytest
	$(BIN)/python -m examples.llm.fetch
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

.PHONY: lint
lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: format
format: $(READY) ## let ruff rewrite the sources
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: types
types: $(READY) ## pyright, strict, on spmd/
	$(BIN)/pyright

.PHONY: fuzz
fuzz: $(READY) ## 20,000 new random programs, 2,000 for GPUs, and the property tests on many new examples; PROGRAMS=N SEED=N
	$(BIN)/python -m pytest -n 2 tests/test_programs.py tests/testing/test_pocl.py \
		--programs=$(PROGRAMS) --gpu-programs=$$(($(PROGRAMS) / 10)) --programs-seed=$(SEED) -k random_programs $(ARGS)
	$(BIN)/python -m pytest -n 2 -m hypothesis --hypothesis-profile=fuzz --timeout=3600 $(ARGS)

.PHONY: docs
docs: $(READY) ## the site of docs/ in build/site, with a reference of all public names; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

.PHONY: bench
bench: $(READY) ## every figure of the README and docs/measured.md, measured here
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: clean
clean: ## remove .venv, caches and build artefacts
	rm -rf .venv .cache .hypothesis .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
