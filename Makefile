# Two commands do everything on a machine that has Python, pip and make: `make quickstart` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test slow lint docs docs-serve bench realdata browser test-lowest test-newest clean

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
	$(BIN)/python scripts/draw_rooms.py --check
	$(BIN)/python scripts/write_lists.py --check
	$(BIN)/python scripts/write_figures.py --check

# What takes long, and the properties that Hypothesis tests, with many more examples.
slow: .venv/installed-test
	$(BIN)/python -m pytest -m "(slow or hypothesis) and not realdata and not gpu and not browser" --hypothesis-profile full

# The site, without a network and with warnings as errors; every command, option and public name must be in it.
docs: .venv/installed-docs
	$(BIN)/python scripts/check_prose.py
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs site
	$(BIN)/python scripts/check_site.py site
	@echo "Open site/index.html, or: make docs-serve"

docs-serve: docs
	$(BIN)/python -m http.server --directory site --bind 127.0.0.1 8000

# Is this tree slower than REV (by default the last tag, or where this branch began)? Two minutes on an idle machine.
bench: .venv/installed-test
	$(BIN)/python benchmarks/bench.py $(if $(REV),--against $(REV))

# Needs L2A_TEST_DATA, a folder with cifar-10-batches-py, caltech101, stanford40 and svhn1083.
realdata: .venv/installed-test
	$(BIN)/python -m pytest -n 0 -m realdata

# Needs Chromium, as from `apt-get install chromium`.
browser: .venv/installed-test
	$(BIN)/python -m pytest -n 0 -m browser

# The oldest versions that pyproject.toml allows with Python 3.10, and the newest with the newest Python of this machine.
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/python -m pytest

test-newest: .venv-newest/installed
	.venv-newest/bin/python -m pytest

# uv, because pip cannot choose the oldest; what both environments have in common lies on the disk once.
.venv-lowest/installed: .venv-uv/bin/uv pyproject.toml
	python=$$($(PYTHON) scripts/find_python.py 3.10) && .venv-uv/bin/uv venv --clear --python "$$python" .venv-lowest
	.venv-uv/bin/uv pip install --python .venv-lowest --resolution lowest-direct --editable ".[test]"
	@touch $@

.venv-newest/installed: .venv-uv/bin/uv pyproject.toml
	python=$$($(PYTHON) scripts/find_python.py newest) && .venv-uv/bin/uv venv --clear --python "$$python" .venv-newest
	.venv-uv/bin/uv pip install --python .venv-newest --upgrade --editable ".[test]"
	@touch $@

.venv-uv/bin/uv:
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/python -m pip install uv

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --editable .
	@touch $@

.venv/installed-test: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --editable ".[test]"
	@touch $@

.venv/installed-docs: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --editable ".[docs]"
	@touch $@

.venv/installed-lint: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --editable ".[lint,test]"
	@touch $@

clean:
	rm -rf .venv .venv-lowest .venv-newest .venv-uv quickstart .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
