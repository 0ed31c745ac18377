PYTHON ?= python3.11
BIN := .venv/bin
SETUP := .venv/.installed

.PHONY: sweep test check clean

sweep: $(SETUP)  ## the main job: every method on the digits, then a figure and a table
	$(BIN)/python -m experiments.sweep experiment=digits
	$(BIN)/python -m experiments.report experiment=digits

test: $(SETUP)  ## all tests
	$(BIN)/python -m pytest -n auto

check: $(SETUP)  ## linter, formatter and type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The mark is written last: a set-up that was interrupted is done again from the start.
$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:  ## the environment; records stay
	rm -rf .venv
