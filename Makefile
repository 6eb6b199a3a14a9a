# Everything a fresh machine needs is a target away: `make chat`, `make test`.
# Windows without make: the README gives the same steps as plain pip commands.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
AS_ROOT := $(if $(filter-out 0,$(shell id -u)),sudo -n)

.PHONY: chat test test-parity test-optimum run-optimum test-window test-webgpu test-arm64 test-arm64-full test-ray test-page test-clients check bench clean

chat: $(VENV)/export.stamp $(VENV)/chat.stamp
	@$(BIN)/edgert pull smollm2-135m-instruct > /dev/null
	@$(BIN)/edgert chat

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m "not parity and not webgpu and not arm64 and not optimum and not ray and not page and not clients"

# The NumPy reference of the tests against transformers, merged adapters against PEFT, the example that
# distills: heavy, needs torch.
test-parity: $(VENV)/parity.stamp
	$(BIN)/python -m pytest tests/test_transformers.py tests/test_peft.py tests/test_distill.py

# The chat window of the examples without a screen. `make test` runs it, too, where there is a display or Xvfb.
test-window: $(VENV)/test.stamp
	@command -v Xvfb > /dev/null \
	|| { $(AS_ROOT) apt-get -qq update && $(AS_ROOT) apt-get -qq -y --no-install-recommends install xvfb; } \
	|| { echo "test-window needs Xvfb, for which it can't be root here: apt install xvfb"; exit 1; }
	$(BIN)/python -m pytest -k window tests/test_examples.py

# Tiny checkpoints of many architectures by way of Optimum, adapters against PEFT: heavy, needs torch.
# In an environment of its own: Optimum wants an older transformers than the other tests.
test-optimum:
	@$(MAKE) --no-print-directory VENV=.venv-optimum run-optimum

run-optimum: $(VENV)/test.stamp $(VENV)/optimum.stamp $(VENV)/parity.stamp
	$(BIN)/python -m pytest -m optimum

# The WebGPU plugin without a GPU: Debian's chromium brings SwiftShader, a Vulkan driver in software.
SWIFTSHADER := /usr/lib/chromium/vk_swiftshader_icd.json
test-webgpu: $(VENV)/test.stamp $(VENV)/webgpu.stamp
	@{ test -f $(SWIFTSHADER) && /sbin/ldconfig -p | grep -q 'libvulkan\.so\.1 '; } \
	|| { $(AS_ROOT) apt-get -qq update && $(AS_ROOT) apt-get -qq -y --no-install-recommends install chromium libvulkan1; } \
	|| { echo "test-webgpu needs SwiftShader, for which it can't be root here: apt install chromium libvulkan1"; exit 1; }
	$(BIN)/python -m pytest -m "webgpu and not student"

# Raspberry Pi cores under qemu, with the real aarch64 wheels: Debian's tools come by apt where that may install.
test-arm64: $(VENV)/test.stamp
	$(BIN)/python benchmarks/userland.py
	$(BIN)/python -m pytest -m "arm64 and not student"

test-arm64-full: $(VENV)/test.stamp
	$(BIN)/python benchmarks/userland.py
	$(BIN)/python -m pytest -m arm64

# A batch on a Ray cluster of two nodes on this machine, one of which is killed.
test-ray: $(VENV)/test.stamp $(VENV)/ray.stamp
	$(BIN)/python -m pytest -m ray

# The page of `edgert serve` in Debian's Chromium without a window.
test-page: $(VENV)/test.stamp $(VENV)/page.stamp
	@command -v chromium > /dev/null \
	|| { $(AS_ROOT) apt-get -qq update && $(AS_ROOT) apt-get -qq -y --no-install-recommends install chromium; } \
	|| { echo "test-page needs Chromium, for which it can't be root here: apt install chromium"; exit 1; }
	$(BIN)/python -m pytest -m page

# The server against other people's programs; heavy to install.
test-clients: $(VENV)/test.stamp $(VENV)/clients.stamp
	$(BIN)/python -m pytest -m clients

# mypy doesn't follow editable installs: it checks a copy installed beside.
check: $(VENV)/test.stamp $(VENV)/check.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build && $(PIP) install --no-deps --target build/typed .
	cd build/typed && ../../$(BIN)/mypy -p edgert --config-file ../../pyproject.toml
	cd build/typed && ../../$(BIN)/mypy --config-file ../../pyproject.toml ../../examples
	cd build/typed && MYPYPATH=../../benchmarks ../../$(BIN)/mypy --config-file ../../pyproject.toml ../../benchmarks

# Against llama.cpp and onnxruntime-genai in the same run; see benchmarks/README.md.
bench: $(VENV)/test.stamp
	$(BIN)/python benchmarks/compare.py

clean:
	rm -rf $(VENV) .venv-optimum build

$(VENV)/pip.stamp:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'edgert needs Python 3.11 or newer: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	@touch $@

# One stamp an extra: installed once, again when the dependencies change.
$(VENV)/%.stamp: pyproject.toml | $(VENV)/pip.stamp
	$(PIP) install --editable '.[$*]'
	@touch $@
