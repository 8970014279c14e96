# make chat · make serve · make ui · make test: each sets up what it needs from nothing, and only once.
# MODEL=path names another model than the pocket one; PYTHON, VENV and CXX can be set too.

PYTHON ?= python3
VENV ?= .venv
MODEL ?=
BIN := $(VENV)/bin
SOURCES := $(shell find src native -type f ! -name '*.pyc' ! -name '*.so') CMakeLists.txt pyproject.toml README.md
say = @printf 'octuor: %s\n' "$(1)" >&2
# An extra's packages, without building the project again.
extra = $$($(BIN)/python -c "import sys, tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['$(1)'])")

.PHONY: chat serve ui test test-amx test-clients test-formats test-robust test-ui test-parity test-aarch64 test-aarch64-python lint format bench clean

chat: $(VENV)/.octuor
	@$(BIN)/octuor chat $(MODEL)

serve: $(VENV)/.octuor $(VENV)/.serve
	@$(BIN)/octuor serve $(MODEL)

ui: $(VENV)/.octuor $(VENV)/.ui
	@$(BIN)/octuor ui $(MODEL)

test: $(VENV)/.octuor $(VENV)/.test
	$(BIN)/python -m pytest

test-parity: $(VENV)/.octuor $(VENV)/.test $(VENV)/.parity
	$(BIN)/python -m pytest tests/parity/live_*.py tests/train/live_*.py tests/tune/live_*.py tests/evaluate/live_*.py \
	  tests/integrations/live_*.py

# The programs of other people's clients against a server; each client has an environment of its own.
CLIENTS := $(basename $(notdir $(wildcard tests/clients/requirements/*.txt)))

test-clients: $(VENV)/.octuor $(VENV)/.test
	@$(MAKE) --no-print-directory -j4 $(CLIENTS:%=build/clients/%/.installed)
	$(BIN)/python -m pytest tests/clients/live_*.py

build/clients/%/.installed: tests/clients/requirements/%.txt
	$(call say,installing $* and what it needs into $(@D))
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check 'pytest>=8' -r $< >&2
	@touch $@

# Checkpoints that other people's quantizers write; each program has an environment of its own over ours, which lends it
# PyTorch and transformers where it does not ask for others.
FORMATS := $(basename $(notdir $(wildcard tests/formats/requirements/*.txt)))

test-formats: $(VENV)/.octuor $(VENV)/.test $(VENV)/.parity $(FORMATS:%=build/formats/%/.installed)
	$(BIN)/python -m pytest tests/formats/live_*.py

build/formats/%/.installed: tests/formats/requirements/%.txt | $(VENV)/.parity
	$(call say,installing $* and what it needs into $(@D))
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/octuor-parity.pth
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $< >&2
	@touch $@

# Bodies of every kind, whatever /openapi.json allows and forbids, kill -9 under load: some minutes.
test-robust: $(VENV)/.octuor $(VENV)/.test $(VENV)/.robust
	$(BIN)/python -m pytest tests/robustness/live_*.py

# The chat page in a real browser; pictures of it are left in build/ui.
test-ui: $(VENV)/.octuor $(VENV)/.test $(VENV)/.ui
	@for tool in chromium chromedriver; do command -v $$tool >/dev/null || { \
	  echo "octuor: expected the program $$tool; on Debian: sudo apt install chromium chromium-driver" >&2; exit 1; }; done
	@$(BIN)/python -m pip install --quiet $(call extra,test-ui) >&2
	$(BIN)/python -m pytest -s tests/ui/live_*.py

# The kernels for AMX on a processor without it: a second build, whose matrix unit is plain C++.
test-amx: $(VENV)/.octuor $(VENV)/.test
	@$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/amx \
	  --config-settings=cmake.define.OCTUOR_EMULATE_AMX=ON --config-settings=build-dir=build/amx-cmake . >&2
	PYTHONPATH=build/amx OCTUOR_ISA=amx $(BIN)/python -m pytest tests/ops -k amx

# The kernels for 64-bit Arm on emulated processors; docs/platforms.md says more.
test-aarch64:
	@for tool in cmake aarch64-linux-gnu-g++ qemu-aarch64; do command -v $$tool >/dev/null || { \
	  echo "octuor: expected the program $$tool; on Debian and Ubuntu: sudo apt install cmake g++-aarch64-linux-gnu qemu-user" >&2; exit 1; }; done
	cmake -S . -B build/aarch64 -DCMAKE_TOOLCHAIN_FILE=native/tests/aarch64.cmake -DOCTUOR_EXTENSION=OFF -DOCTUOR_COMPARE=ON
	cmake --build build/aarch64
	ctest --test-dir build/aarch64 --verbose --no-tests=error

test-aarch64-python: $(VENV)/.venv
	@$(BIN)/python -m pip install --quiet nanobind
	native/tests/aarch64_python.sh build/aarch64-python $(BIN)/python

lint: $(VENV)/.octuor $(VENV)/.test $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.octuor $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.octuor
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/octuor bench --geometry mixtral-8x7b --layers 2 --prompt 128,512 --batch 1,8

clean:
	rm -rf build dist $(VENV)

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "octuor: expected Python 3.11 or later, found $$($(PYTHON) --version 2>&1); name one with PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "octuor: $(PYTHON) has no venv module; on Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@printf '#include <bit>\nint main() { return static_cast<int>(std::bit_ceil(1u)) - 1; }\n' \
	  | $(CXX) -std=c++20 -x c++ -o /dev/null - 2>/dev/null || { \
	  echo "octuor: expected a C++20 compiler, '$(CXX)' is none; on Debian and Ubuntu: sudo apt install g++ (or set CXX)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.octuor: $(VENV)/.venv $(SOURCES)
	$(call say,building the kernels and installing into $(VENV): a minute or two, once)
	@$(BIN)/python -m pip install --quiet . >&2
	@touch $@

$(VENV)/.test: $(VENV)/.octuor pyproject.toml
	$(call say,installing what the tests need)
	@$(BIN)/python -m pip install --quiet $(call extra,test) $(call extra,serve) $(call extra,otel) >&2
	@touch $@

$(VENV)/.serve: $(VENV)/.octuor pyproject.toml
	$(call say,installing what the server needs)
	@$(BIN)/python -m pip install --quiet $(call extra,serve) >&2
	@touch $@

$(VENV)/.ui: $(VENV)/.octuor pyproject.toml
	$(call say,installing what the page needs)
	@$(BIN)/python -m pip install --quiet $(call extra,ui) >&2
	@touch $@

$(VENV)/.lint: $(VENV)/.venv pyproject.toml
	@$(BIN)/python -m pip install --quiet $(call extra,lint) >&2
	@touch $@

$(VENV)/.robust: $(VENV)/.octuor pyproject.toml
	@$(BIN)/python -m pip install --quiet $(call extra,robust) >&2
	@touch $@

$(VENV)/.parity: $(VENV)/.octuor pyproject.toml
	$(call say,installing PyTorch and transformers for the live comparison)
	@$(BIN)/python -m pip install --quiet $(call extra,train) $(call extra,parity) $(call extra,eval) >&2
	@touch $@
