# make demo | test | test-slow | bench | docs | lint | format | lock | clean
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ALONE := $(VENV)/.alone
INSTALLED := $(VENV)/.installed

.PHONY: demo test suite test-slow bench docs lint format lock clean install

demo: $(ALONE)
	$(BIN)/tombola run demo

# mypy, a minute on one core, beside the tests
test: install
	$(MAKE) --no-print-directory --jobs=2 lint suite

# a file of tests a process at a time, on every core; two threads in each would only get in each other's way.
# In the order of the files: xdist's own, most tests first, would leave the long files of few tests to the end
suite: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow

# a quarter of an hour or more, most of it torch-blue's ten samples; all are run, then a missed target of any is a failure
bench: install
	@failed=0; for name in training predict deploy study data; do \
		$(BIN)/python -m benchmarks.$$name --quick || failed=1; \
	done; exit $$failed

docs: install
	$(BIN)/sphinx-build -E -W --keep-going -q docs docs/_build
	@echo "docs: docs/_build/index.html"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(INSTALLED)

# tombola without what tests and docs need; torch first and alone: the pinned build is then found by all that depends on it.
# Python compiles the modules that are imported; pip would compile ten times as many
$(ALONE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable .
	touch $(ALONE)

$(INSTALLED): $(ALONE)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,peers]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps bayesian-torch
	touch $(INSTALLED)

# resolve anew within pyproject.toml's ranges; torch keeps its pin
lock:
	rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --editable '.[dev,peers]'
	$(BIN)/pip install --quiet --no-deps bayesian-torch
	(sed -n '1p' constraints.txt; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu//') > constraints.new && mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build dist runs
