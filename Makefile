# demo, test and lint, each from a fresh clone: the first run makes .venv and fills it, later runs go straight to work.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
RESULT ?= demo.mp4

.PHONY: help demo test lint clean
.DEFAULT_GOAL := help

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

# mediapipe brings an OpenCV that needs the X and GL libraries of a desktop; the headless one, put over it last, needs none.
$(READY): pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -r requirements.txt
	$(BIN)/pip install -q -e '.[dev,web,train,profile]' -c requirements.txt
	$(BIN)/pip install -q --force-reinstall --no-deps -c requirements.txt opencv-python-headless
	touch $@

demo: $(READY)  ## dub the portrait in assets/ with the speech in assets/
	$(BIN)/python scripts/inference.py --video assets/portrait.mp4 --audio assets/speech.wav --output $(RESULT)
	@echo "the result is $(abspath $(RESULT))"

test: $(READY)  ## the whole test suite, on two processors
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)  ## style, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

clean:  ## remove what these targets made
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache build dist latentsync.egg-info $(RESULT)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
