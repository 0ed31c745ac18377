PYTHON ?= python3.11
BIN := .venv/bin
# What is installed: what a sweep and its report need, and what tests and checks need besides.
SWEEP := .venv/.sweep
DEV := .venv/.dev
# And what the site needs.
DOCS := .venv/.docs

# Of the model of causal_lm.
NAME ?= $(notdir $(patsubst %/,%,$(MODEL)))

.PHONY: sweep causal_lm test test-browser test-environments test-all check docs clean

sweep: $(SWEEP)  ## the main job: every method on the digits, then a figure and a table
	$(BIN)/python -m experiments.sweep experiment=digits
	$(BIN)/python -m experiments.report experiment=digits compare=all

# The shell reads ARGS too: ARGS="\"task.test.split='validation[:20]'\" threads=1".
causal_lm: $(SWEEP)  ## MODEL=<name or folder>: methods by norms, perplexity against bits per weight
	@test -n "$(MODEL)" || { echo "give MODEL=<a name on the hub, or a folder>"; exit 2; }
	$(BIN)/python -m experiments.sweep experiment=causal_lm task.pretrained=$(MODEL) \
		sweep=$(NAME) $(ARGS)
	$(BIN)/python -m experiments.report runs=results/runs/$(NAME) metric=perplexity \
		size=layers_bits_per_weight

test: $(DEV)  ## all tests but those that install the library anew or need a browser
	$(BIN)/python -m pytest -n auto -m 'not environment and not browser'

test-environments: $(DEV)  ## those that install the library anew, in minutes
	$(BIN)/python -m pytest -m environment

test-browser: $(DEV)  ## those in Chromium (Debian: apt-get install chromium); skipped without it
	$(BIN)/python -m pytest -m browser

test-all: test test-browser test-environments docs  ## all tests, and the site with its links

check: $(DEV)  ## linter, formatter and type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(DOCS)  ## the site, into site/: these pages, all methods, results and the API
	$(BIN)/python -m manual

# The marks are written last: a set-up that was interrupted is done again from the start.
.venv/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	touch $@

$(SWEEP) $(DEV) $(DOCS): .venv/.%: .venv/.made
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$*]'
	touch $@

clean:  ## the environment; records stay
	rm -rf .venv
