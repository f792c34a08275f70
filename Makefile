# One command each: make bench, make test, make lint. Uses .venv unless VENV says otherwise.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: bench test lint install clean

bench: install
	$(BIN)/pytest suites/smoke.yaml

test: install
	$(BIN)/pytest -n 2 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
