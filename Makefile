# foretell: `make help` lists the targets.
#
# Everything runs in a virtual environment of its own (VENV). Stamp files remember what is
# installed there, so that a repeated call installs nothing.

VENV        ?= .venv
TEST_JOBS   ?= 2
DEMO_OUT    ?= runs/demo
CONSTRAINTS ?= constraints.txt

BIN    := $(VENV)/bin
SHELL  := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Parallel tests and one thread each: more would fight for the same cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PIP        := $(BIN)/python -m pip --disable-pip-version-check --no-input

.PHONY: help demo test pytest lint format bench soak docs clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 16

# ---------------------------------------------------------------- environments

$(BIN)/python:
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
	  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	      python="$$candidate"; break; \
	    fi; \
	  done; \
	fi; \
	if [ -z "$$python" ]; then \
	  echo "foretell needs Python 3.11 or newer and none was found on PATH." >&2; \
	  echo "Install one (Debian 12: apt-get install python3 python3-venv) or name it: make PYTHON=/path/to/python3.11 ..." >&2; \
	  exit 1; \
	fi; \
	if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "PYTHON=$$python is not Python 3.11 or newer." >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	  echo "$$python cannot make virtual environments (Debian: apt-get install python3-venv)." >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv "$(VENV)"

# $(call install,EXTRAS): installs the checkout with these extras.
define install
	@echo "Installing foretell$(1) (the first time takes minutes)"
	@$(PIP) install -qq -c $(CONSTRAINTS) -e '.$(1)'
	@touch $@
endef

$(VENV)/.installed-core: $(BIN)/python pyproject.toml $(CONSTRAINTS)
	$(call install,)

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml $(CONSTRAINTS)
	$(call install,[dev$(comma)duckdb$(comma)federated$(comma)gluonts$(comma)language$(comma)private$(comma)ray$(comma)serve$(comma)trees])
	@touch $(VENV)/.installed-core

$(VENV)/.installed-docs: $(BIN)/python pyproject.toml $(CONSTRAINTS)
	$(call install,[docs])

$(VENV)/.installed-bench: $(BIN)/python pyproject.toml $(CONSTRAINTS)
	$(call install,[bench$(comma)duckdb$(comma)ray])

comma := ,

# ---------------------------------------------------------------- what people call

demo: $(VENV)/.installed-core  ## forecasts, orders and a report for a simulated shop
	@rm -rf "$(DEMO_OUT)"
	@$(BIN)/foretell run demand --out "$(DEMO_OUT)"
	@echo "Report: $(abspath $(DEMO_OUT))/report.html"

# Lint that fails does not hide what the tests say, and either fails the target.
test: $(VENV)/.installed-dev  ## lint, types, layers, then every test that is not slow
	@failed=; \
	$(MAKE) --no-print-directory lint || failed=lint; \
	$(MAKE) --no-print-directory pytest || failed="$$failed tests"; \
	if [ -n "$$failed" ]; then echo "Failed: $$failed" >&2; exit 1; fi

pytest: $(VENV)/.installed-dev
	@$(ONE_THREAD) $(BIN)/python -m pytest -n $(TEST_JOBS) -m "not slow" $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev  ## ruff, mypy and the layers
	@failed=; \
	$(BIN)/ruff check . || failed="ruff check"; \
	$(BIN)/ruff format --check . || failed="$$failed, ruff format"; \
	$(BIN)/mypy || failed="$$failed, mypy"; \
	$(BIN)/lint-imports || failed="$$failed, lint-imports"; \
	if [ -n "$$failed" ]; then echo "Failed: $${failed#, }" >&2; exit 1; fi

format: $(VENV)/.installed-dev  ## write the code in the project's form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.installed-bench  ## ours against the peers, every file of benchmarks/
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

soak: $(VENV)/.installed-dev  ## kill the service under load, replay real stays; SOAK_ARGS, REPLAY_ARGS
	@$(ONE_THREAD) $(BIN)/python benchmarks/soak_serving.py $(SOAK_ARGS)
	@data="$${FORETELL_DATA:-../shared/data}"; \
	if [ -d "$$data/physionet2019_sepsis" ]; then \
	  FORETELL_DATA="$$data" $(ONE_THREAD) $(BIN)/python benchmarks/replay_p19.py $(REPLAY_ARGS); \
	else \
	  echo "The replay of real stays is left out: there is no physionet2019_sepsis in $$data"; \
	fi

docs: $(VENV)/.installed-docs  ## the user's pages, into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Pages: $(abspath site)/index.html"

clean:  ## remove the environment and what was built
	rm -rf "$(VENV)" build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
