# Every target sets up what it needs first: `make demo` works on a fresh clone that has
# only make and a Python from 3.10 to 3.13.

VENV ?= .venv
# Processes of `make test`. Most tests keep one core busy, and each process may hold 4 GB.
WORKERS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := build/resnet18-ort

# 3.12 first: the newest that all extras were tested with.
CANDIDATES := python3.12 python3.11 python3.13 python3.10 python3
USABLE := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in $(CANDIDATES); do $$p -c "$(USABLE)" 2>/dev/null && { echo $$p; break; }; done)

# Where exporter.data.datasets looks before it downloads, and a file of the four.
DATA_FILE := t10k-images-idx3-ubyte.gz
DATA_FOLDERS := $(EXPORTER_DATA) /usr/share/datasets $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/exporter
# strip, for nothing in two folders is still a space, which $(if) takes for something.
DATA_FOUND = $(strip $(foreach folder,$(DATA_FOLDERS),$(wildcard $(folder)/$(DATA_FILE) $(folder)/fashion-mnist/$(DATA_FILE))))
define LOAD_DATA
import sys
from exporter.data.datasets import load
sys.excepthook = lambda kind, error, trace: print(f"make data: {error}", file=sys.stderr)
for split in ("train", "test"):
    load("fashion-mnist", split)
endef
export LOAD_DATA

.DEFAULT_GOAL := help
.PHONY: help setup data demo test check site format clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(STAMP)  ## create .venv and install the tool with all it needs on a CPU

# An environment that was copied or whose Python is gone can't be mended: it is made anew.
$(STAMP): pyproject.toml
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  if ! "$(PYTHON)" -c "$(USABLE)" 2>/dev/null; then \
	    echo "make: needs Python 3.10 to 3.13 with the venv module; $(if $(PYTHON),'$(PYTHON)' is not one,none of '$(CANDIDATES)' is one)" >&2; \
	    echo "  on Debian or Ubuntu: apt-get install python3 python3-venv" >&2; \
	    echo "  or name one: make PYTHON=/path/to/python $(or $(MAKECMDGOALS),setup)" >&2; \
	    exit 1; \
	  fi; \
	  "$(PYTHON)" -m venv --clear $(VENV); \
	fi
	@echo "Installing into $(VENV); the first time takes some minutes."
	@$(BIN)/python -m pip install $(if $(CI),-qq --no-compile) --editable '.[cpu,openvino,rtx,dev,docs]'
	@touch $@

data: setup  ## get Fashion-MNIST, unless it is here
	@$(if $(DATA_FOUND),,$(INSTALL_DATA))
	@$(BIN)/python -c "$$LOAD_DATA"

# Best effort: where it doesn't work, the tool downloads, and its error names all the ways.
define INSTALL_DATA
if command -v apt-get >/dev/null; then \
  test "$$(id -u)" = 0 && sudo= || sudo="sudo -n"; \
  $$sudo apt-get install -y -qq dataset-fashion-mnist \
    || { $$sudo apt-get update -qq && $$sudo apt-get install -y -qq dataset-fashion-mnist; } \
    || echo "make data: apt-get could not install dataset-fashion-mnist; going on to a download" >&2; \
fi
endef

demo: setup data  ## export the shipped ResNet-18 and compare it with Keras on 10,000 images
	@mkdir -p $(dir $(DEMO))
	$(BIN)/exporter export resnet18 --to ort -o $(DEMO) --force
	$(BIN)/exporter evaluate $(DEMO) --data fashion-mnist

test: check data  ## the checks, then all tests that can run here
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

check: setup site  ## lint, format, types, the layers of imports and the site, as CI runs them
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Its tools need Python 3.11. The variable silences an advertisement in each build.
site: setup  ## build the documentation into build/site; a warning is an error
	@if [ -x $(BIN)/mkdocs ]; then \
	  NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo "build/site/index.html"; \
	else echo "no mkdocs here, so the site is not built: it needs Python 3.11"; fi

format: setup  ## mend what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove all that was made here, .venv included
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
