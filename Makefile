# setup: install with everything the tests need; lint, bench: what they say.
# test: all tests, in two processes. test-fast: within two minutes, every operator and a training run.
# fuzz: 10,000 random cases of the C++ operators against the reference, minutes. million: a million in
# two processes, hours; called again after Ctrl-C it goes on from build/million.json.
# gpu-check: on a machine with an NVIDIA GPU, in two calls of nine minutes, without a network: build,
# measure the works against their targets; then the tests that run on a GPU, compute-sanitizer.
# sanitize: their tests, and the CUDA kernels' in the emulator, under AddressSanitizer and
# UndefinedBehaviorSanitizer, in a build apart.
PYTHON ?= python3
CLANG_FORMAT ?= clang-format

# Later flags win over those of Python and setup.py: -fwrapv would make every overflow defined.
SANITIZER_FLAGS = -fsanitize=address,undefined -fno-wrapv -fno-omit-frame-pointer -O1 -g1
SANITIZED = WSDAN_SANITIZED=$(CURDIR)/build/sanitized PYTHONPATH=$(CURDIR)/build/sanitized \
	LD_PRELOAD="$(shell gcc -print-file-name=libasan.so) $(shell gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
NATIVE_TESTS = $(addprefix tests/kernels/test_,native.py resized.py properties.py ops.py boxes.py \
	golden.py registered.py nonfinite.py)
CPP_FILES = $(shell git ls-files '*.h' '*.cpp' '*.cuh' '*.cu')

.PHONY: setup lint format test test-fast bench fuzz million gpu-check sanitize

setup:
	$(PYTHON) -m pip install -e '.[test]'

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(CLANG_FORMAT) --dry-run --Werror $(CPP_FILES)

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	$(CLANG_FORMAT) -i $(CPP_FILES)

test:
	$(PYTHON) -m pytest -n 2

test-fast:
	$(PYTHON) -m pytest -n 2 -m "not slow"

bench:
	$(PYTHON) benchmarks/augment_bench.py
	$(PYTHON) benchmarks/bap_bench.py

fuzz:
	$(PYTHON) tests/support/fuzz.py --cases 10000

million:
	@mkdir -p build
	OMP_NUM_THREADS=1 $(PYTHON) tests/support/fuzz.py --cases 1000000 --processes 2 --log build/million.json

gpu-check:
	$(PYTHON) -m benchmarks.gpu_check --only build smoke measure
	$(PYTHON) -m benchmarks.gpu_check --only tests sanitize

# The pytest program, not -m pytest, which would put the checkout before PYTHONPATH. --capture=sys: a
# finding ends the process, and its text with what pytest has captured.
sanitize:
	WSDAN_CUDA=0 WSDAN_CPU_FLAGS="$(SANITIZER_FLAGS)" $(PYTHON) setup.py -q \
		build_py --build-lib build/sanitized build_ext --build-lib build/sanitized
	$(SANITIZED) $(dir $(shell command -v $(PYTHON)))pytest -n 2 --capture=sys $(NATIVE_TESTS)
	$(SANITIZED) $(PYTHON) tests/support/fuzz.py --cases 300 --seed 20000
	$(SANITIZED) WSDAN_EMULATOR=address $(dir $(shell command -v $(PYTHON)))pytest -n 2 --capture=sys \
		tests/gpu/test_cuda.py
