# Two commands do everything: `make demo` and `make test`. Both need python3 >= 3.11 and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint docs bench fuzz clean model

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv from the pinned versions, each file checked by its hash

# Wheels alone: a source package would run its own code here and fetch tools that no hash pins. The file lists every
# package, so pip need not look for dependencies, which it cannot do by hashes where a package is wanted with extras.
$(READY): pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 11) else f"error: python3 {v}: hemalens needs 3.11 or later; run: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@$(PYTHON) -m venv $(VENV) || { echo "error: python3 -m venv: failed; install your system's package for it (python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY) ## render synthetic cells, take them the whole way, name the report
	$(BIN)/hemalens demo --out out/demo

test: lint ## set up, lint, type-check, test
	$(BIN)/python -m pytest

lint: $(READY) ## ruff, mypy --strict, import arrows, generated docs and licences
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/supply.py --check

docs: $(READY) ## write the generated pages and build/sbom.cdx.json anew, build the site into build/site
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/supply.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(READY) ## run the benchmarks (real cells: set HEMALENS_DATA)
	@for script in benchmarks/bench_run.py $(filter-out benchmarks/bench_run.py,$(wildcard benchmarks/bench_*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

fuzz: $(READY) ## decode 100,000 mutated images in worker processes (COUNT=N: up to N; goes on where it was)
	$(BIN)/python tests/fuzz.py $(COUNT)

model: $(READY) ## train the embedded model anew (real cells: set HEMALENS_DATA)
	$(BIN)/python benchmarks/make_model.py

clean: ## remove what the other targets made
	rm -rf $(VENV) out build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
