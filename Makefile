# One command each: make bench, make test, make test-all, make lint. Uses .venv unless VENV says otherwise.
# make bench-peers (benchmarks/README.md) has an environment of its own, PEERS_VENV, and takes
# TOKENIZER (folder or hub id), DATA (folder) and MODEL (folders); by default all from the hub.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PEERS_VENV ?= .venv-peers
PEERS := $(PEERS_VENV)/bin/python
PEERS_GIVEN := $(if $(TOKENIZER),--tokenizer $(TOKENIZER)) $(if $(DATA),--data $(DATA))

.PHONY: bench bench-peers overhead parity calibration test test-all lint install clean

bench: install
	$(BIN)/pytest suites/smoke.yaml

overhead: install
	$(BIN)/python benchmarks/overhead.py

calibration: install
	$(BIN)/python benchmarks/calibration.py

bench-peers: parity
	$(PEERS) benchmarks/peers.py $(PEERS_GIVEN)

parity: $(PEERS_VENV)/.installed
	$(PEERS) benchmarks/parity.py $(PEERS_GIVEN) $(if $(MODEL),--model $(MODEL))

# One thread a worker: two workers that take both cores each slow one another down.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

test: install
	$(PYTEST) -m "not slow and not e2e"

# The rest: slow tests, and whole pytest processes and real cells.
test-all: test
	$(PYTEST) -m "slow or e2e"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(PEERS_VENV)/.installed: pyproject.toml constraints.txt benchmarks/peer/requirements.txt
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt \
		-r benchmarks/peer/requirements.txt -e .
	touch $@

clean:
	rm -rf $(VENV) $(PEERS_VENV) .mypy_cache .pytest_cache .ruff_cache
