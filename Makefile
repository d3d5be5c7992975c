# Two commands are enough: `make lab` and `make test`. `make` alone explains the rest.

# Where everything is installed. Empty (make test VENV=) uses the environment that is active, as it is: for conda.
VENV ?= .venv
# The Python that the environment is made with: the first of these that is in range.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c $(PYTHON_FITS) 2>/dev/null && { echo $$p; break; }; done)
# no: leave numba out even where it could be installed.
NUMBA ?= yes
# More arguments for a target, as in: make lab LAB_ARGS=--no-browser, make test TEST_ARGS="-k free".
LAB_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=

# A file stays with one worker: the cells of a notebook share a kernel. (Groups, the finer way, pytest 9.2 ignores.)
IN_PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
WITH_NOTEBOOKS := --nbval --nbval-current-env --nbval-cell-timeout 120

# As an address, the notebook also stands in what JupyterLab prints for another machine's browser.
ON_THE_TOUR := --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/00_tour.ipynb
# Asks for no news and no updates: nothing leaves the machine.
OFFLINE := --LabApp.app_settings_dir=.lab

PYTHON_FITS := 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
PYTHON_HINT := 'No fitting Python ("$(PYTHON)"). Install Python 3.11, 3.12 or 3.13 with venv' \
	'(Debian, Ubuntu: apt install python3-venv), or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12'

ifeq ($(VENV),)
PY := python
READY_LAB :=
READY_TEST :=
else
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
READY_LAB := $(VENV)/.ready-lab
READY_TEST := $(VENV)/.ready-test
endif

.DEFAULT_GOAL := help
.PHONY: help lab test lint bench warm clean

help: ## explain the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

lab: $(READY_LAB) ## open JupyterLab on the tour (the first time: set up .venv)
	JUPYTER_PREFER_ENV_PATH=1 $(PY) -m jupyterlab $(ON_THE_TOUR) $(OFFLINE) $(LAB_ARGS)

test: $(READY_TEST) ## run every test: package, notebooks, browser (the first time: set up .venv)
	$(MAKE) --no-print-directory --jobs=2 lint warm
	$(PY) -m pytest $(IN_PARALLEL) $(WITH_NOTEBOOKS) $(TEST_ARGS)

lint: $(READY_TEST) ## check style and types
	$(PY) -m ruff check .
	$(PY) -m mypy

bench: $(READY_TEST) ## measure the speed (BENCH_ARGS=--benchmark-autosave keeps it, --benchmark-compare compares)
	$(PY) -m pytest benchmarks --benchmark-only $(BENCH_ARGS)

warm: $(READY_TEST) ## compile ahead of time what numba would compile at first use
	$(PY) -m percpu_lab warm

clean: ## remove the environment and everything that was made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(or $(PYTHON),false) -c $(PYTHON_FITS) || { printf '%s\n' $(PYTHON_HINT) >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# The package itself is not copied, only linked: a change to it needs no new set-up.
$(VENV)/.ready-%: pyproject.toml | $(VENV)/.made
	@echo "Setting up $(VENV) for $*: about a minute and 1 GB, once."
	@if [ "$(NUMBA)" = yes ] && $(PIP) --only-binary numba,llvmlite -e ".[$*,fast]"; then :; \
	elif [ "$(NUMBA)" = yes ] && [ "$(CI)" = true ]; then echo "numba must install where CI=true" >&2; exit 1; \
	else echo "NOTE: going on without numba; everything works, bulk runs are slower."; \
	$(PIP) -e ".[$*]"; fi
	@touch $@
