# One-word commands for contributors. They need Python 3.11 or newer, make and the package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# FlameIQ depends on scipy, so it has its own environment. Some tests run it.
FLAMEIQ := .venvs/flameiq
# Programs that tests compare our results with, without their other dependencies. A subfolder has a later release
# of one of them.
PEERS := .venvs/peers
# Graphite's daemon, which a test starts.
CARBON := .venvs/carbon
# The libraries that the benchmarks compare with.
BENCH := .venvs/bench
# The compiled engine, beside its source.
CORE := metrics_framework/recording/_core.abi3.so
# A copy of the package whose engine checks every memory access.
SANITIZED := build/sanitize
# Cached bytecode halves the time of tests that start other processes. Some containers turn it off.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run live build test soak sanitize servers quick check format lint types imports bench docs links lock clean

run: $(VENV)/.installed $(CORE)
	$(BIN)/python examples/parse_stdlib.py

# A shop with simulated customers on a live page, until Ctrl-C.
live: $(VENV)/.installed $(CORE)
	$(BIN)/python examples/live.py $(ARGS)

# Fails if the machine cannot compile. The other targets use the pure engine then.
build: export METRICS_FRAMEWORK_COMPILED = 1
build: $(CORE)

# Heavy tests run in the order of their files: by default, files with few tests, which take the longest, come last.
test: $(VENV)/.installed $(CORE) $(FLAMEIQ)/.installed $(PEERS)/.installed
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -m "not heavy" -n 2 --dist loadfile $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report
	$(BIN)/pytest -m heavy -n 2 --dist loadfile --no-loadscope-reorder --durations 20 $(ARGS)

# Downloads the servers that heavy tests start into .servers, from Debian's packages and without root. Graphite's
# carbon gets an environment of its own.
servers: $(CARBON)/.installed
	$(PYTHON) tests/servers/programs.py

# The fast tests, with few examples of each property, without the documentation and the tests of the conformance kit
# itself: less than a minute on two cores.
quick: export TESTS_MAX_EXAMPLES = 10
quick: $(VENV)/.installed $(CORE)
	$(BIN)/pytest tests --ignore tests/sample_adapters -m "not slow and not heavy" -n auto --dist worksteal $(ARGS)

# The soak tests at full length; `make test` and CI run a tenth. A single one: make soak ARGS="-k NAME".
soak: $(VENV)/.installed $(CORE)
	METRICS_FRAMEWORK_SOAK=1 $(BIN)/pytest -m soak --timeout 7200 $(ARGS)

# The recording tests on a debug build under AddressSanitizer and UndefinedBehaviorSanitizer. Leaks are not reported,
# because CPython itself never frees some objects. Without xdist, which waits forever for an aborted worker.
sanitize: $(VENV)/.installed
	rm -rf $(SANITIZED)
	mkdir -p $(SANITIZED)
	cp -R metrics_framework $(SANITIZED)
	CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer" \
	  METRICS_FRAMEWORK_COMPILED=1 METRICS_FRAMEWORK_DEBUG_CORE=1 \
	  $(BIN)/python hatch_build.py $(SANITIZED)/metrics_framework/recording
	PYTHONPATH=$(CURDIR)/$(SANITIZED) PYTHONMALLOC=malloc LD_PRELOAD="$$($(CC) -print-file-name=libasan.so)" \
	  ASAN_OPTIONS=detect_leaks=0:log_path=$(CURDIR)/$(SANITIZED)/report UBSAN_OPTIONS=print_stacktrace=1 \
	  $(BIN)/pytest tests/metrics_framework/recording -p no:faulthandler -m "not heavy" -k "not pure" $(ARGS); \
	  status=$$?; ! cat $(SANITIZED)/report.* 2>/dev/null && exit $$status

check: lint types imports

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tools/check_class_names.py

# Also type-checks the Python blocks of the docs, and compares the stub of the compiled engine with the engine.
types: $(VENV)/.installed $(CORE)
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python tests/typing/check_docs.py
	! test -e $(CORE) || $(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml metrics_framework.recording._core

imports: $(VENV)/.installed
	$(BIN)/lint-imports

# Takes 15 minutes. Keeps the results in benchmarks/, and writes the tables of the README and the docs from them.
bench: $(BENCH)/.installed $(PEERS)/.installed
	$(BENCH)/bin/python -m benchmarks $(ARGS)

docs: $(VENV)/.installed
	rm -rf docs/_build/html
	$(BIN)/sphinx-build -W -q -b html -d docs/_build/doctrees docs docs/_build/html
	$(BIN)/python tools/check_site.py docs/_build/html
	@echo "docs/_build/html/index.html"

# The links to other sites, which needs the network. `make docs` checks those within the site.
links: $(VENV)/.installed
	$(BIN)/sphinx-build -q -b linkcheck -d docs/_build/doctrees docs docs/_build/links

# Updates the locked versions from pyproject.toml.
lock: $(VENV)/.installed
	$(BIN)/pip install -q uv
	$(BIN)/uv pip compile --universal --python-version 3.11 --upgrade \
	  --extra cli --extra compare --extra gpu --extra testing --group dev --no-annotate --custom-compile-command "make lock" -o requirements/dev.txt pyproject.toml
	$(BIN)/uv pip compile --universal --python-version 3.11 --upgrade \
	  --group bench --no-annotate --custom-compile-command "make lock" -o requirements/bench.txt pyproject.toml

clean:
	rm -rf $(VENV) .venvs .servers build dist docs/_build .coverage .coverage.* htmlcov $(CORE)

$(VENV)/.installed: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'metrics-framework needs Python 3.11 or newer: make PYTHON=/path/to/python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -r requirements/dev.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	touch $@

# A compile error stops make. A machine without a compiler gets a message instead, and uses the pure engine.
$(CORE): metrics_framework/recording/_core.c hatch_build.py | $(VENV)/.installed
	@$(BIN)/python hatch_build.py

$(BENCH)/.installed: requirements/bench.txt requirements/peers.txt pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install -q --disable-pip-version-check -r requirements/bench.txt
	$(BENCH)/bin/pip install -q --disable-pip-version-check --no-deps --ignore-requires-python -r requirements/peers.txt
	rm -rf $(BENCH)/lib/python*/site-packages/tests  # those of pyformance, which would hide ours
	$(BENCH)/bin/pip install -q --disable-pip-version-check --no-deps -e .
	touch $@

$(FLAMEIQ)/.installed: requirements/flameiq.txt
	$(PYTHON) -m venv $(FLAMEIQ)
	$(FLAMEIQ)/bin/pip install -q --disable-pip-version-check -r requirements/flameiq.txt
	touch $@

$(CARBON)/.installed: requirements/carbon.txt
	$(PYTHON) -m venv $(CARBON)
	$(CARBON)/bin/pip install -q --disable-pip-version-check -r requirements/carbon.txt
	touch $@

$(PEERS)/.installed: requirements/peers.txt requirements/peers-later.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install -q --disable-pip-version-check --no-deps --ignore-requires-python -r requirements/peers.txt
	rm -rf $(PEERS)/later
	$(PEERS)/bin/pip install -q --disable-pip-version-check --no-deps -r requirements/peers-later.txt --target $(PEERS)/later
	touch $@
