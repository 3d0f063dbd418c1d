PYTHON ?= python3
CLANG_FORMAT ?= clang-format
SCHEMA = $(PYTHON) -m check_jsonschema -q --builtin-schema vendor.

# Later flags win over those of Python and setup.py: -fwrapv would make every overflow defined.
SANITIZER_FLAGS = -fsanitize=address,undefined -fno-wrapv -fno-omit-frame-pointer -O1 -g1
SANITIZED = WSDAN_SANITIZED=$(CURDIR)/build/sanitized PYTHONPATH=$(CURDIR)/build/sanitized \
	LD_PRELOAD="$(shell gcc -print-file-name=libasan.so) $(shell gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
NATIVE_TESTS = $(addprefix tests/kernels/test_,native.py resized.py properties.py ops.py boxes.py \
	golden.py registered.py nonfinite.py)
CPP_FILES = $(shell git ls-files '*.h' '*.cpp' '*.cuh' '*.cu')

.PHONY: help setup lint format docs test test-fast bench fuzz million gpu-check sanitize wheels wheels-test release

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## install the package with what the tests need
	$(PYTHON) -m pip install -e '.[test]'

lint:  ## ruff, mypy, clang-format, GitHub workflows
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(SCHEMA)github-workflows .github/workflows/*.yml
	$(SCHEMA)github-issue-forms .github/ISSUE_TEMPLATE/*.yml
	$(SCHEMA)citation-file-format CITATION.cff
	$(CLANG_FORMAT) --dry-run --Werror $(CPP_FILES)

format:  ## format Python and C++
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	$(CLANG_FORMAT) -i $(CPP_FILES)

docs:  ## the site, in build/site/index.html; a warning is an error; needs pip install -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

test:  ## all tests, in two processes
	$(PYTHON) -m pytest -n 2

test-fast:  ## the quick ones, within two minutes: every operator and a training run
	$(PYTHON) -m pytest -n 2 -m "not slow"

bench:  ## the benchmarks of the operators on this machine
	$(PYTHON) benchmarks/augment_bench.py
	$(PYTHON) benchmarks/bap_bench.py

fuzz:  ## 10,000 random cases of the C++ operators against the reference, minutes
	$(PYTHON) tests/support/fuzz.py --cases 10000

million:  ## a million in two processes, hours; goes on where Ctrl-C stopped it
	@mkdir -p build
	OMP_NUM_THREADS=1 $(PYTHON) tests/support/fuzz.py --cases 1000000 --processes 2 --log build/million.json

gpu-check:  ## with an NVIDIA GPU, no network: build, measure, test; two calls of nine minutes
	$(PYTHON) -m benchmarks.gpu_check --only build smoke measure
	$(PYTHON) -m benchmarks.gpu_check --only tests sanitize

# Those of the C++ operators, and of the CUDA kernels in the emulator, in a build apart. The pytest
# program, not -m pytest, which would put the checkout before PYTHONPATH. --capture=sys: a
# finding ends the process, and its text with what pytest has captured.
sanitize:  ## the operators under AddressSanitizer and UndefinedBehaviorSanitizer
	WSDAN_CUDA=0 WSDAN_CPU_FLAGS="$(SANITIZER_FLAGS)" $(PYTHON) setup.py -q \
		build_py --build-lib build/sanitized build_ext --build-lib build/sanitized
	$(SANITIZED) $(dir $(shell command -v $(PYTHON)))pytest -n 2 --capture=sys $(NATIVE_TESTS)
	$(SANITIZED) $(PYTHON) tests/support/fuzz.py --cases 300 --seed 20000
	$(SANITIZED) WSDAN_EMULATOR=address $(dir $(shell command -v $(PYTHON)))pytest -n 2 --capture=sys \
		tests/gpu/test_cuda.py

wheels:  ## what a release consists of, into dist/: three wheels, one archive; needs nvcc
	$(PYTHON) -m release.wheels

wheels-test:  ## those without CUDA, where no compiler is: each Python, oldest and newest torch; an hour
	$(PYTHON) -m release.trial

release:  ## what a release of this checkout lacks; changes nothing
	$(PYTHON) -m release.check
