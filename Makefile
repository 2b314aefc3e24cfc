# Two commands do everything on a machine that has Python, pip and make: `make quickstart` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test slow lint realdata browser clean

quickstart: .venv/installed
	$(BIN)/l2a-transfer quickstart --out quickstart --overwrite
	@echo; echo "So that your shell finds l2a-transfer: . $(BIN)/activate"

test: .venv/installed-test
	$(BIN)/python -m pytest

lint: .venv/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: .venv/installed-test
	$(BIN)/python -m pytest -m "slow and not realdata and not gpu and not browser"

# Needs L2A_TEST_DATA, a folder with cifar-10-batches-py, caltech101, stanford40 and svhn1083.
realdata: .venv/installed-test
	$(BIN)/python -m pytest -m realdata

# Needs Chromium, as from `apt-get install chromium`.
browser: .venv/installed-test
	$(BIN)/python -m pytest -m browser

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --editable .
	@touch $@

.venv/installed-test: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --editable ".[test]"
	@touch $@

.venv/installed-lint: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --editable ".[lint,test]"
	@touch $@

clean:
	rm -rf .venv quickstart .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
