# make help lists the targets. Variables: CC (compiler of the C tests), RUN (what runs them), PYTHON.
PYTHON ?= python3
VARIANT ?= plain
OBJCOPY ?= objcopy

C_FLAGS := -std=c11 -ffp-contract=off -fno-math-errno -pthread -Wall -Wextra -Wno-missing-field-initializers -g -Iinclude -Isrc/clstm/core
OPTIMIZE := -O2
ASAN := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
TSAN := -fsanitize=thread -fno-omit-frame-pointer

BUILD := build
OUT := $(BUILD)/c/$(notdir $(firstword $(CC)))-$(VARIANT)
HEADERS := $(wildcard include/*.h src/clstm/core/*.h src/clstm/core/*.inc tests/c/*.h)
CORE := $(patsubst src/clstm/core/%.c,$(OUT)/%.o,$(wildcard src/clstm/core/*.c))
C_TESTS := $(patsubst tests/c/%.c,$(OUT)/%,$(filter-out $(SKIP),$(wildcard tests/c/test_*.c)))
GOLDEN := $(patsubst tests/c/%.c,$(OUT)/%,$(filter-out $(SKIP),tests/c/golden.c))

.DEFAULT_GOAL := help
.PHONY: help build test ctest asan tsan pyasan pytsan freethreaded valgrind fuzz pyfuzz simde aarch64 golden wheels lib \
    install cross abi lint style types warnings manifest format bench roof clean
.SECONDARY:

help: ## List the targets
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

build: ## Install in place, so that edits of Python files take effect at once
	$(PYTHON) -m pip install --quiet --no-build-isolation --no-deps --editable .

test: ## Run the Python tests on the installed package
	$(PYTHON) -m pytest

ctest: $(C_TESTS) $(GOLDEN) ## Build and run the C tests, without Python
	@passed=0; failed=0; \
	for test in $(C_TESTS) $(GOLDEN:%="% tests/c/golden.txt"); do \
	    if $(RUN) $$test; then passed=$$((passed + 1)); else echo "FAILED: $$test"; failed=$$((failed + 1)); fi; \
	done; \
	echo "$$passed passed, $$failed failed"; test $$failed -eq 0

asan: ## The C tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) ctest VARIANT=asan OPTIMIZE="-O1 $(ASAN)"

tsan: ## The C tests under ThreadSanitizer
	@$(MAKE) ctest VARIANT=tsan OPTIMIZE="-O1 $(TSAN)"

PYASAN := $(BUILD)/pyasan
PYASAN_TESTS := test_threads test_memory test_stream test_states_and_lengths test_variants test_variant_bits \
    test_variant_options test_activations test_regularizers test_mask test_packing test_checkpoint test_dropout test_trace \
    test_truncation test_arrays test_weights

pyasan: ## Python tests on an extension with AddressSanitizer and UndefinedBehaviorSanitizer
	CLSTM_SANITIZE=address,undefined $(PYTHON) setup.py -q build --build-lib $(PYASAN)/lib --build-temp $(PYASAN)/temp
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libstdc++.so)" \
	    PYTHONPATH=$(PYASAN)/lib $(PYTHON) -m pytest $(PYASAN_TESTS:%=tests/%.py) \
	    -k "not grow_memory and not free and not sizes_that_fit and not go_with_the_layer" \
	    --deselect tests/test_checkpoint.py::test_memory

# The interpreter itself, not a script that starts it. Left out: forks, which ThreadSanitizer does not survive, and tests
# that race for values on purpose, where nothing must break
PYTSAN := $(BUILD)/pytsan
PYTSAN_TESTS := test_threads test_stream test_dropout test_module

pytsan: ## Python tests on an extension with ThreadSanitizer
	CLSTM_SANITIZE=thread $(PYTHON) setup.py -q build --build-lib $(PYTSAN)/lib --build-temp $(PYTSAN)/temp
	LD_PRELOAD="$$($(CC) -print-file-name=libtsan.so)" PYTHONPATH=$(PYTSAN)/lib \
	    "$$($(PYTHON) -c 'import sys; print(sys.executable)')" -m pytest $(PYTSAN_TESTS:%=tests/%.py) \
	    -k "not processes and not grow_memory and not free and not at_once and not break"

FREETHREADED := $(BUILD)/freethreaded
FREETHREADED_TESTS := test_threads test_processes test_memory test_stream test_checkpoint test_dropout test_module test_embed

freethreaded: ## The tests that threads may break, three times, on a Python without the GIL: PYTHON=python3.13t
	$(PYTHON) -c "import sysconfig; assert sysconfig.get_config_var('Py_GIL_DISABLED'), 'this Python has a GIL'"
	$(PYTHON) setup.py -q build --build-lib $(FREETHREADED)/lib --build-temp $(FREETHREADED)/temp
	for turn in 1 2 3; do PYTHONPATH=$(FREETHREADED)/lib $(PYTHON) -X faulthandler -m pytest -q $(FREETHREADED_TESTS:%=tests/%.py) || exit 1; done

# It does not flush denormals, as test_activations and the golden bytes want; what a sleeping worker owns is "possibly lost" to it
valgrind: ## The C tests under valgrind, without those that wait for threads or watch system calls
	@$(MAKE) ctest VARIANT=valgrind OPTIMIZE="-O1 -DCHECK_EMULATOR" \
	    SKIP="tests/c/golden.c $(addprefix tests/c/test_,threads.c realtime.c concurrent.c activations.c)" \
	    RUN="valgrind -q --error-exitcode=1 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite"

# libFuzzer finds new inputs and keeps them in build/fuzz; tests/fuzz/corpus is where it starts
FUZZ_SECONDS := 60
FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))

fuzz: $(FUZZERS:%=fuzz-%) ## Look for inputs that break the C interface and the reader: FUZZ_SECONDS each, with clang

# The kernels are not instrumented, which would take clang minutes; `make asan` watches their memory
FUZZED := $(filter-out $(wildcard src/clstm/core/kernels_*.c),$(wildcard src/clstm/core/*.c))

fuzz-%: $(patsubst src/clstm/core/%.c,$(BUILD)/lib/%.o,$(wildcard src/clstm/core/kernels_*.c))
	@mkdir -p $(BUILD)/fuzz/$*
	clang -std=c11 -g -O1 -pthread -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Iinclude \
	    -Isrc/clstm/core -Iexamples tests/fuzz/fuzz_$*.c $(FUZZED) $^ -lm -o $(BUILD)/fuzz/$*.run
	$(BUILD)/fuzz/$*.run -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -artifact_prefix=$(BUILD)/fuzz/ -verbosity=0 \
	    -print_final_stats=1 $(BUILD)/fuzz/$* tests/fuzz/corpus/$*

# pip install atheris; new inputs are kept in build/fuzz. tests/fuzz/seeds.py made those that it starts from.
READERS := safetensors config onnx keras keras_config nam rtneural arguments

pyfuzz: $(READERS:%=pyfuzz-%) ## Look for files and arguments that break the Python readers: FUZZ_SECONDS each, with Atheris

pyfuzz-%:
	@mkdir -p $(BUILD)/fuzz/python/$*
	$(PYTHON) tests/fuzz/readers.py $* -max_total_time=$(FUZZ_SECONDS) -max_len=16384 -verbosity=0 -print_final_stats=1 \
	    -artifact_prefix=$(BUILD)/fuzz/ $(BUILD)/fuzz/python/$* tests/fuzz/corpus/$*

simde: ## The C tests with AVX-512 translated to AVX2 by SIMDe, for machines without it
	@$(MAKE) ctest VARIANT=simde OPTIMIZE="-O2 -DCLSTM_TEST_EMULATED_AVX512"

build/c/%-simde/kernels_avx512.o: CFLAGS += -Itests/c/simde -O1 -g0 -mavx2 -mfma -DTARGET= -Wno-psabi

# QEMU cannot fork a process with threads, nor watch system calls, as these tests do
aarch64: ## The C tests cross-compiled for 64-bit ARM, on QEMU
	@$(MAKE) ctest CC=aarch64-linux-gnu-gcc OPTIMIZE="-O2 -DCHECK_EMULATOR" SKIP="tests/c/test_threads.c tests/c/test_realtime.c" \
	    RUN="qemu-aarch64 -L /usr/aarch64-linux-gnu"

golden: $(OUT)/golden ## Renew tests/c/golden.txt after a change of bits
	$(RUN) $(OUT)/golden > tests/c/golden.txt

PYTHONS := python3.10 python3.11 python3.12 python3.13

wheels: ## Build, repair, check and test a wheel for each of PYTHONS, in dist
	for python in $(PYTHONS); do tools/wheel.sh $$python dist || exit 1; done

# The library for C programs. Internal functions are hidden in both forms: only the names of clstm.h can be linked.
PREFIX := /usr/local
LIB := $(BUILD)/lib
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
ABI := $(shell sed -n 's/^.define CLSTM_ABI_MAJOR //p' include/clstm.h)
# -falign-loops and its parameter: see setup.py
LIB_FLAGS := $(filter-out -g,$(C_FLAGS)) -O3 -falign-loops=64 --param=align-threshold=1000 \
    -Wno-unused-command-line-argument -fPIC -fvisibility=hidden
# dlclose must not take the code away from sleeping workers
STAYS := -Wl,-z,nodelete

lib: $(LIB)/libclstm.a $(LIB)/libclstm.so.$(ABI) $(LIB)/clstm.pc ## Build the static and the shared C library, in build/lib

install: lib ## Install header, libraries and pkg-config file in PREFIX (/usr/local)
	install -d $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig
	install -m 644 include/clstm.h $(DESTDIR)$(PREFIX)/include
	install -m 644 $(LIB)/libclstm.a $(DESTDIR)$(PREFIX)/lib
	install -m 755 $(LIB)/libclstm.so.$(ABI) $(DESTDIR)$(PREFIX)/lib
	ln -sf libclstm.so.$(ABI) $(DESTDIR)$(PREFIX)/lib/libclstm.so
	install -m 644 $(LIB)/clstm.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig

# -fno-lto: distributions ask for -flto, whose objects keep the names that libclstm.a hides
$(LIB)/%.o: src/clstm/core/%.c $(HEADERS)
	@mkdir -p $(LIB)
	$(CC) $(LIB_FLAGS) $(CFLAGS) -fno-lto -c $< -o $@

LIB_OBJECTS := $(patsubst src/clstm/core/%.c,$(LIB)/%.o,$(wildcard src/clstm/core/*.c))

$(LIB)/libclstm.so.$(ABI): $(LIB_OBJECTS)
	$(CC) -shared -pthread -Wl,-soname,$(notdir $@) $(STAYS) $(LDFLAGS) $^ -lm -o $@

$(LIB)/libclstm.a: $(LIB_OBJECTS)
	$(CC) -r -nostdlib $^ -o $(LIB)/clstm.all
	$(OBJCOPY) --localize-hidden $(LIB)/clstm.all
	rm -f $@
	$(AR) rcs $@ $(LIB)/clstm.all

.PHONY: $(LIB)/clstm.pc
$(LIB)/clstm.pc: # anew each time, for PREFIX may be another one
	@mkdir -p $(LIB)
	printf '%s\n' 'prefix=$(PREFIX)' 'includedir=$${prefix}/include' 'libdir=$${prefix}/lib' '' 'Name: clstm' \
	    'Description: Long Short-Term Memory networks on CPUs' 'Version: $(VERSION)' \
	    'Cflags: -I$${includedir}' 'Libs: -L$${libdir} -lclstm' 'Libs.private: $(STAYS) -pthread -lm' > $@

# Compilers of other systems: pip install ziglang
CROSS := x86_64-windows-gnu aarch64-windows-gnu x86_64-macos aarch64-macos x86_64-linux-musl aarch64-linux-musl
ZIG ?= $(PYTHON) -m ziglang

cross: $(CROSS:%=cross-%) ## Compile the core for Windows, macOS and musl with zig cc

cross-%:
	@mkdir -p $(BUILD)/cross/$*
	@for source in src/clstm/core/*.c; do \
	    $(ZIG) cc -target $* $(filter-out -g,$(C_FLAGS)) -O1 -Werror -c $$source \
	        -o $(BUILD)/cross/$*/$$(basename $$source .c).o || exit 1; \
	done
	@echo "$* compiles"

abi: ## Record the binary interface anew, after a change that docs/embedding.md allows
	$(PYTHON) tools/abi.py > tests/abi.txt

WARNINGS := -std=c11 -Wall -Wextra -Wconversion -Wsign-conversion -Werror -fsyntax-only -Iinclude -Isrc/clstm/core
STUBTEST := $(PYTHON) -m mypy.stubtest --concise --allowlist tests/stubtest.txt
FORMATTED := $(foreach at,include src/clstm src/clstm/core examples benchmarks tests/c tests/c/simde tests/fuzz,$(wildcard $(at)/*.[ch] $(at)/*.inc)) \
    tests/embed_pkg/embed_pkg/from_c.c

lint: style types warnings ## Check style, types and C compilers' warnings, on a built package

style: ## The part of lint that needs nothing built
	ruff check .
	ruff format --check .
	cython-lint src tests/embed_pkg
	clang-format --dry-run --Werror $(FORMATTED)

types: ## mypy, and stubs against the built extension
	$(PYTHON) -m mypy
	$(STUBTEST) clstm._core

warnings: ## C compilers' and cppcheck's, as errors
	for compiler in gcc clang; do \
	    for source in src/clstm/core/*.c; do $$compiler $(WARNINGS) $$source || exit 1; done; \
	done
	cppcheck --std=c11 --enable=warning,performance,portability --error-exitcode=1 -q -Iinclude -Isrc/clstm/core src/clstm/core

manifest: ## Compare the source distribution with what git knows
	check-manifest

format: ## Rewrite Python and C sources in the project's style
	ruff check --fix .
	ruff format .
	clang-format -i $(FORMATTED)

bench: ## Speed beside other libraries: writes docs/benchmarks.md, in about ten minutes
	$(PYTHON) benchmarks/compare.py --threads 1 2 --json build/benchmarks.json --markdown docs/benchmarks.md \
	    --plot docs/images/roof.png

roof: ## Measure the machine: peak multiply-adds and memory bandwidth
	$(PYTHON) benchmarks/roof.py

clean: ## Remove everything that was built
	rm -rf build dist *.egg-info src/*.egg-info src/clstm/include src/clstm/_core.c src/clstm/*.so

$(OUT)/%.o: src/clstm/core/%.c $(HEADERS)
	@mkdir -p $(OUT)
	$(CC) $(C_FLAGS) $(OPTIMIZE) $(CFLAGS) -c $< -o $@

$(OUT)/%: tests/c/%.c $(CORE) $(HEADERS)
	$(CC) $(C_FLAGS) $(OPTIMIZE) $(CFLAGS) $< $(CORE) $(LDFLAGS) -lm -o $@
