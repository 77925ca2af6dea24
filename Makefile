# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test example docs slow bench lint format types clean

setup: $(STAMP)

# pip's own configuration decides the package index, so that a CPU build of torch can be chosen there
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "caddtree needs Python 3.11 or newer, found " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	# the variable, not the option: it holds for the build environment too
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/caddtree demo

# one thread per worker: the workers share the cores
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

# beside the packages of the environment, which takes seconds; `make slow` makes a fresh environment of its own
EXAMPLE := $(CURDIR)/build/example
example: setup
	rm -rf $(EXAMPLE)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(EXAMPLE) ./examples/plugin
	cd examples/plugin && OMP_NUM_THREADS=1 PYTHONPATH=$(EXAMPLE) $(CURDIR)/$(BIN)/python -m pytest --quiet --numprocesses auto --dist loadfile
	PYTHONPATH=$(EXAMPLE) $(BIN)/caddtree generate "def main(" --recipe examples/plugin/example.yaml --max-new-tokens 64

# every warning is an error; the pages are then in build/docs/index.html
docs: setup
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --jobs auto --quiet docs build/docs

slow: setup
	$(BIN)/python -m pytest -m slow

bench: setup
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/demo_pair.py --prompts 26
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/matrix.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/tree_building.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
