PYTHON ?= python3.11
BIN := .venv/bin
SETUP := .venv/.installed

# Of the model of causal_lm.
NAME ?= $(notdir $(patsubst %/,%,$(MODEL)))

.PHONY: sweep causal_lm test check clean

sweep: $(SETUP)  ## the main job: every method on the digits, then a figure and a table
	$(BIN)/python -m experiments.sweep experiment=digits
	$(BIN)/python -m experiments.report experiment=digits

# The shell reads ARGS too: ARGS="\"task.test.split='validation[:20]'\" threads=1".
causal_lm: $(SETUP)  ## MODEL=<name or folder>: methods by norms, perplexity against bits per weight
	@test -n "$(MODEL)" || { echo "give MODEL=<a name on the hub, or a folder>"; exit 2; }
	$(BIN)/python -m experiments.sweep experiment=causal_lm task.pretrained=$(MODEL) \
		sweep=$(NAME) $(ARGS)
	$(BIN)/python -m experiments.report runs=results/runs/$(NAME) metric=perplexity \
		size=layers_bits_per_weight

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
