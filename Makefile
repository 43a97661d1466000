# Every target sets up what it needs by itself: a virtual environment with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
DATA ?=
OUT ?= results/demo$(if $(DATA),-$(notdir $(patsubst %/,%,$(DATA))))

export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-slow mutants lint bench

demo: $(VENV)/.ready
	$(VENV)/bin/python -m jobs.demo --storage $(OUT) $(if $(DATA),--data.root $(DATA))

# Side by side: tests that share a Ray go to one process, and much of what the slow ones do is waiting.
test: $(VENV)/.ready
	$(VENV)/bin/python -m pytest -m "not slow" --numprocesses 2

test-slow: $(VENV)/.ready
	$(VENV)/bin/python -m pytest -m slow --numprocesses 3

# Plants the faults listed in tests/mutants/ one after the other, and counts those that the tests see.
mutants: $(VENV)/.ready
	$(VENV)/bin/python -m tests.mutants

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

bench: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/data.py

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version) if sys.version_info < (3, 11) else None'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
# For Python 3.11 PyOcto asks for an older NumPy than it needs. Without it three tests are skipped.
	-$(VENV)/bin/python -m pip install --quiet --no-deps --constraint constraints.txt pyocto pyproj
	touch $@
