# setup: install with everything the tests need; lint, test, bench: what they say.
PYTHON ?= python3
CLANG_FORMAT ?= clang-format

.PHONY: setup lint format test bench

setup:
	$(PYTHON) -m pip install -e '.[test]'

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(CLANG_FORMAT) --dry-run --Werror $(shell git ls-files 'csrc/*.h' 'csrc/*.cpp')

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	$(CLANG_FORMAT) -i $(shell git ls-files 'csrc/*.h' 'csrc/*.cpp')

test:
	$(PYTHON) -m pytest

bench:
	$(PYTHON) benchmarks/augment_bench.py
