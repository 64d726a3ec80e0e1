# What people run and what CI runs. Two environments, never mixed: .venv for the server and its
# tests, QGIS's own Python for the tests of the plugin.
PYTHON ?= python3
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif

.PHONY: help setup demo test test-python test-qgis lint types format bench bench-large serve package docs clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -e 's/:.*  ## /\t/' | expand -t 14

setup: .venv/ready  ## make .venv with the server and the tools to test it

.venv/run: pyproject.toml metadata.txt
	$(PYTHON) .ci/setup.py .venv
	@touch $@

.venv/ready: .venv/run
	$(PYTHON) .ci/setup.py .venv --dev
	@touch $@

demo: .venv/run  ## set up, then run the whole path (yours: SCENE="a.tif b.tif" ARGS="--nodata 255")
	$(BIN)/terrakin demo $(SCENE) $(ARGS) --out build/demo

test: test-python test-qgis  ## set up, then run every test

# A process for each core, so one thread of linear algebra in each.
test-python: export OMP_NUM_THREADS = 1
test-python: .venv/ready
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder \
	    tests/embeddings tests/embed_server tests/architecture tests/plugin

test-qgis: .venv/ready package
	bash .ci/qgis-tests

lint: .venv/ready  ## ruff: style, complexity, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready  ## mypy, strict
	$(BIN)/mypy

format: .venv/ready  ## put the code into the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/ready  ## measure us and our rivals; writes build/bench.json
	$(BIN)/python tests/bench/run.py

bench-large: .venv/ready  ## the index at 1, 4 and 16 million rows; 34 GB of disk, twenty minutes
	$(BIN)/python tests/bench/large.py

serve: .venv/run  ## serve the demo's store
	$(BIN)/terrakin serve --store build/demo/store

package: .venv/ready  ## build the plugin's zip into build/
	$(BIN)/python .ci/package.py

docs: .venv/ready  ## draw the pictures of the docs (needs the evaluation data)
	$(BIN)/python docs/make_pictures.py
	$(BIN)/python docs/make_change_picture.py

clean:  ## remove what was built
	rm -rf build .venv
