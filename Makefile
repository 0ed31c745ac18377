PYTHON ?= python3.11
BIN := .venv/bin
SETUP := .venv/.installed

.PHONY: sweep test check clean

sweep: $(SETUP)  ## the main job: every method on the digits, a table and a figure
	$(BIN)/python -m experiments.sweep -m +experiment=digits
	$(BIN)/python -m experiments.report experiment=digits

test: $(SETUP)  ## the full tests
	$(BIN)/python -m pytest -n auto

check: $(SETUP)  ## linter, formatter and type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
