# make demo: InstructGPT in miniature.  make test: the whole suite.  make check: lint, types, fast tests.
# The set-up is shared and done once. A torch that PYTHON already has (a CUDA build, say) is used as it is;
# otherwise the version in constraints.txt is installed.

PYTHON ?= python3
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# Two processes of one thread each: threads that wait for one another spin, and starve a second process.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: demo test check setup smollm2 demo-seeds clean

demo: $(READY)
	PYTHONPATH=data $(BIN)/python -m miniature.demo --seed $(SEED)

demo-seeds: $(READY)
	PYTHONPATH=data $(BIN)/python -m miniature.seeds 0 1 2

test: $(READY)
	$(PYTEST) --cov=lit_instructgpt --cov-report=term:skip-covered --cov-fail-under=90

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m "not slow"

smollm2: $(READY)
	$(BIN)/python -m benchmarks.smollm2 --out models/smollm2

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it with make PYTHON=...")'
	@if $(PYTHON) -c 'import torch' 2>/dev/null; then \
	  echo "using the torch that $(PYTHON) has"; \
	  test -d $(VENV) || $(PYTHON) -m venv --system-site-packages $(VENV); \
	  grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt; \
	else \
	  test -d $(VENV) || $(PYTHON) -m venv $(VENV); \
	  cp constraints.txt $(VENV)/constraints.txt; \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(VENV)/constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage*
