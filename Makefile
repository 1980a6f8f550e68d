# Every target works through .venv, made here from requirements.lock. Paths are relative, so the folder may have spaces in
# its name. ARGS goes to the tool at the end of a target: `make test ARGS="-k ledger -x"`.

PYTHON ?=
ARGS ?=
UV_VERSION := 0.13.8

# Packages from elsewhere on the path would win over the pinned ones, and a folder with an `__init__.py` named `runtime`
# or `benchmarks` over ours. `-P` below keeps the current folder out too: tests find the packages as a user's program does.
unexport PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# In the lock beside what pyproject.toml asks for: the build backend, so that the editable install downloads nothing, and
# a Node.js from a wheel, so that pyright needs none on the machine.
LOCK_ALSO := "hatchling>=1.27" "editables>=0.5" "pyright[nodejs]"

# Servers that others wrote, for `make interop` only.
INTEROP_PYTHON := "llama-cpp-python[server]==0.3.36" "gguf==0.19.0"
INTEROP_NODE := @copilotkit/aimock@1.43.0

.PHONY: help setup demo test test-long chaos interop lint lock clean-venv

help:
	@echo "make setup      make .venv with all pinned packages, or bring it up to date"
	@echo "make demo       run examples/first_sweep.py: no key, no network"
	@echo "make test       the tests"
	@echo "make test-long  the tests with the long ones, and 2,000 examples for each property"
	@echo "make chaos      the tests that kill processes"
	@echo "make interop    servers that others wrote, installed into .interop (ten minutes the first time)"
	@echo "make lint       format, lint, types, import rules"
	@echo "make lock       solve requirements.lock again; ARGS=--upgrade takes new versions"
	@echo "make clean-venv remove .venv"

# Sets $$python, or ends with the cure. Asks each candidate to run something, because a pyenv shim may exist and not work.
define FIND_PYTHON
python=; bare=; \
if [ -n "$$PYTHON" ]; then set -- "$$PYTHON"; else set -- python3.11 python3.12 python3.13 python3; fi; \
for one in "$$@"; do \
	"$$one" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue; \
	if "$$one" -c 'import ensurepip, venv' 2>/dev/null; then python=$$one; break; else bare=$${bare:-$$one}; fi; \
done; \
if [ -z "$$python" ] && [ -n "$$bare" ]; then \
	version=$$("$$bare" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	echo "$$bare cannot make a virtual environment. On Debian or Ubuntu: apt-get install python$$version-venv" >&2; exit 1; \
elif [ -z "$$python" ]; then \
	echo "No working Python 3.11, 3.12 or 3.13 found. Install one, or name it: make setup PYTHON=python3.12" >&2; exit 1; \
fi
endef
export PYTHON

# The stamp holds a checksum of what .venv was made from, and the folder, which the editable install knows by its full name.
setup:
	@set -eu; \
	key=$$({ pwd; cat requirements.lock pyproject.toml; } | cksum); \
	if [ "$$(cat .venv/stamp 2>/dev/null)" = "$$key" ] && .venv/bin/python -c 1 2>/dev/null; then exit 0; fi; \
	if [ "$$(cat .venv/folder 2>/dev/null)" != "$$(pwd)" ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then \
		$(FIND_PYTHON); \
		echo "Making .venv with $$("$$python" --version)"; \
		rm -rf .venv; "$$python" -m venv .venv; pwd > .venv/folder; \
	fi; \
	rm -f .venv/stamp; \
	echo "Installing the pinned packages into .venv (a minute or two the first time)"; \
	.venv/bin/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements.lock; \
	.venv/bin/python -m pip install --quiet --no-build-isolation --no-deps -e .; \
	.venv/bin/python -m pip check || { echo "requirements.lock does not fit pyproject.toml: make lock" >&2; exit 1; }; \
	echo "$$key" > .venv/stamp

demo: setup
	@.venv/bin/ostrom sweep examples/first_sweep.py --out out/first-sweep --yes $(ARGS)
	@echo "The results are in out/first-sweep; start with report.html there."

test: setup
	@.venv/bin/python -P -m pytest -m "not long and not chaos and not interop" $(ARGS)

test-long: setup
	@OSTROM_HYPOTHESIS=long .venv/bin/python -P -m pytest -m "not chaos and not interop" $(ARGS)

chaos: setup
	@.venv/bin/python -P -m pytest -m chaos $(ARGS)

# Needs a C++ compiler, cmake, Node.js and npm. Compiling llama-cpp-python is what takes the time.
interop: setup
	@set -eu; \
	if [ ! -f .interop/stamp ]; then \
		$(FIND_PYTHON); "$$python" -m venv .interop/venv; \
		echo "Installing the servers into .interop (ten minutes: llama.cpp is compiled)"; \
		.interop/venv/bin/python -m pip install --quiet $(INTEROP_PYTHON); \
		npm install --silent --no-fund --no-audit --prefix .interop $(INTEROP_NODE); \
		touch .interop/stamp; \
	fi; \
	.venv/bin/python -P -m pytest -m interop tests/interop $(ARGS)

# All five always run, so that one look shows everything there is to mend.
lint: setup
	@status=0; \
	check() { echo "== $$1"; shift; "$$@" || status=1; }; \
	check "ruff format" .venv/bin/python -m ruff format --check .; \
	check "ruff check" .venv/bin/python -m ruff check .; \
	check "mypy" .venv/bin/python -m mypy; \
	check "mypy, the public face" .venv/bin/python -m mypy tests/typing/api.py; \
	check "pyright" .venv/bin/python -m pyright --pythonpath .venv/bin/python; \
	check "lint-imports" .venv/bin/lint-imports --no-logo; \
	exit $$status

# Own environment: the lock must be solvable when .venv cannot be made from it.
lock:
	@set -eu; \
	$(FIND_PYTHON); \
	tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	"$$python" -m venv "$$tools"; \
	"$$tools/bin/python" -m pip install --quiet --only-binary :all: "uv==$(UV_VERSION)"; \
	printf '%s\n' $(LOCK_ALSO) | "$$tools/bin/uv" pip compile --quiet --no-config --universal --python-version 3.11 \
		--generate-hashes --no-annotate --custom-compile-command "make lock" --extra dev $(ARGS) \
		-o requirements.lock pyproject.toml -

clean-venv:
	rm -rf .venv
