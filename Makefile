# The short names of the commands that people type. `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help sweep test test-all lint board clean

help:
	@echo "make sweep      install into .venv, then the quickstart: 3 optimizers x 2 schedules x 2 seeds on the embedded digits"
	@echo "make test       install into .venv with the test extra, then the suite"
	@echo "make test-all   as test, with the slow tests"
	@echo "make lint       the style checks alone"
	@echo "make board      TensorBoard over outputs/"
	@echo "make clean      remove .venv; results stay"

sweep: .venv/runner.installed
	$(BIN)/python -m runner -m experiment=quickstart

test: lint
	$(BIN)/python -m pytest -n 2

test-all: lint
	$(BIN)/python -m pytest -n 2 -m "slow or not slow"

lint: .venv/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

board: .venv/runner.installed
	$(BIN)/tensorboard --logdir outputs

clean:
	rm -rf .venv

# Installed again only when pyproject.toml changed. The package itself is editable: its code needs no second install.
.venv/runner.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/test.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ .venv/runner.installed
