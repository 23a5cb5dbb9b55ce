# One word for each thing a contributor does. A fresh machine needs Python 3.11+, make and the package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# FlameIQ brings scipy, so the tests that run it find it in an environment of its own.
FLAMEIQ := .venvs/flameiq
# Peers whose results ours must equal, without what they need for everything else; a later release of one of
# them is in a folder within.
PEERS := .venvs/peers
# The benchmarks' peers are nobody else's business either.
BENCH := .venvs/bench

.PHONY: run test servers quick check format lint types imports bench docs lock clean

run: $(VENV)/.installed
	$(BIN)/python examples/parse_stdlib.py

test: $(VENV)/.installed $(FLAMEIQ)/.installed $(PEERS)/.installed
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -m "not heavy" -n 2 --dist loadfile $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report
	$(BIN)/pytest -m heavy -n 2 --dist loadfile $(ARGS)

# The real servers that heavy tests start, from Debian's packages into .servers; nobody needs to be root.
servers:
	$(PYTHON) tests/servers/programs.py

quick: $(VENV)/.installed
	$(BIN)/pytest -m "not heavy" -n 2 --dist loadfile $(ARGS)

check: lint types imports

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy
	$(BIN)/pyright

imports: $(VENV)/.installed
	$(BIN)/lint-imports

# Takes a quarter of an hour: many processes, one after the other. The tables go into the documentation.
bench: $(BENCH)/.installed $(PEERS)/.installed
	$(BENCH)/bin/python -m benchmarks $(ARGS)

docs: $(VENV)/.installed
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# Rewrites the locked versions from pyproject.toml.
lock: $(VENV)/.installed
	$(BIN)/pip install -q uv
	$(BIN)/uv pip compile --universal --python-version 3.11 --upgrade \
	  --extra cli --extra gpu --extra testing --group dev --no-annotate --custom-compile-command "make lock" -o requirements/dev.txt pyproject.toml
	$(BIN)/uv pip compile --universal --python-version 3.11 --upgrade \
	  --group bench --no-annotate --custom-compile-command "make lock" -o requirements/bench.txt pyproject.toml

clean:
	rm -rf $(VENV) .venvs .servers dist docs/_build .coverage .coverage.* htmlcov

$(VENV)/.installed: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'metrics-framework needs Python 3.11 or newer: make PYTHON=/path/to/python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -r requirements/dev.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	touch $@

$(BENCH)/.installed: requirements/bench.txt requirements/peers.txt pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install -q --disable-pip-version-check -r requirements/bench.txt
	$(BENCH)/bin/pip install -q --disable-pip-version-check --no-deps --ignore-requires-python -r requirements/peers.txt
	$(BENCH)/bin/pip install -q --disable-pip-version-check --no-deps -e .
	touch $@

$(FLAMEIQ)/.installed: requirements/flameiq.txt
	$(PYTHON) -m venv $(FLAMEIQ)
	$(FLAMEIQ)/bin/pip install -q --disable-pip-version-check -r requirements/flameiq.txt
	touch $@

$(PEERS)/.installed: requirements/peers.txt requirements/peers-later.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install -q --disable-pip-version-check --no-deps --ignore-requires-python -r requirements/peers.txt
	rm -rf $(PEERS)/later
	$(PEERS)/bin/pip install -q --disable-pip-version-check --no-deps -r requirements/peers-later.txt --target $(PEERS)/later
	touch $@
