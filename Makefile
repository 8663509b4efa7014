# Needs Python >= 3.11 and nothing else. `make help` lists what there is.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Every extra but `flash`, which is built against CUDA.
EXTRAS := train,demo,eval,serve,space,docs,dev
PYTHON := $(shell for p in python3.11 python3; do \
	if command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then echo $$p; break; fi; done)

FLOOR := $(shell sed -n 's/^ *"transformers>=\([0-9.]*\)".*/\1/p' pyproject.toml)

PRESET ?= small
SEED ?= 0
OUTPUT_DIR ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-floor test-gpu test-serving lint format reference docs release-check

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv and install the package with every extra but `flash`
	@echo "Installed into $(VENV). Next: make demo, or . $(BIN)/activate && metis-home --help"

$(STAMP): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "Found neither python3.11 nor a python3 of version 3.11 or later on PATH." \
			"Install Python 3.11 (with its venv module), then run make again." >&2; exit 1; fi
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); the first time this downloads several GB (PyTorch) and takes some minutes."
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

demo: $(STAMP) ## Train and report the miniature (PRESET=smoke|small|full, SEED=0, OUTPUT_DIR=...)
	$(BIN)/metis-home demo --preset $(PRESET) --seed $(SEED) $(if $(OUTPUT_DIR),--output_dir "$(OUTPUT_DIR)")

test: $(STAMP) ## Run the tests, without the slow ones
	$(BIN)/python -m pytest -n 2 --dist loadscope -q
	@echo "All tests passed; nothing was written outside temporary folders. Next: make demo"

test-all: $(STAMP) ## Run all tests that need no GPU
	$(BIN)/python -m pytest -n 2 --dist loadscope -q -m 'not gpu'
	@echo "All tests passed; nothing was written outside temporary folders. Next: make demo"

test-floor: $(STAMP) ## Run the model's tests on the oldest transformers that pyproject.toml allows
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --upgrade --target $(VENV)/floor \
		"transformers==$(FLOOR).*"
	PYTHONPATH=$(VENV)/floor $(BIN)/python -m pytest -n 2 --dist loadscope -q tests/modeling tests/conversion
	@echo "All tests passed with transformers $(FLOOR); it is installed in $(VENV)/floor. Next: make test"

test-serving: $(STAMP) ## Run the tests of serving and of rollouts, with real vLLM where VLLM=path names its command
	METIS_HOME_VLLM="$(VLLM)" $(BIN)/python -m pytest -q -rs -m 'not gpu' tests/serving tests/trainers/test_vllm_rollouts.py
	@echo "Next: make test-all for the rest"

test-gpu: $(STAMP) ## Run the tests that need CUDA
	$(BIN)/python -m pytest -q -m gpu
	@echo "Next: make test-all for the rest"

lint: $(STAMP) ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@echo "No complaints; nothing was written. Next: make test"

format: $(STAMP) ## Fix style and format in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	@echo "Sources are formatted in place. Next: make test"

reference: $(STAMP) ## Write docs/api from the docstrings
	$(BIN)/python scripts/reference.py

docs: $(STAMP) ## Build the documentation into site/; a link that leads nowhere fails
	$(BIN)/zensical build --clean --strict
	@echo "The pages are in site/. Next: open site/index.html, or .venv/bin/zensical serve while you write"

release-check: $(STAMP) ## Build wheel and sdist, install the wheel into a new environment and run the demo there
	$(BIN)/python scripts/release_check.py
