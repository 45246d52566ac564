# Every target installs what it needs: a bare Debian with python3 (3.11 or newer) and make suffices.
# Only relative paths are used, so the checkout may be in any directory, also in one with a space in
# its path.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

MAKEFLAGS += --no-print-directory
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help venv demo test check check-deep coverage bench fuzz mutants dist image deb release lock clean

# Variables of the caller's environment must not change what Python does here, and byte code must be
# kept, because compiling at every start would take longer than the start itself.
unexport PYTHONDONTWRITEBYTECODE PYTHONHOME PYTHONPATH PYTHONSAFEPATH VIRTUAL_ENV
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV PIP_NO_COMPILE
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | while IFS=$$'\t' read -r name text; do
	  printf '  make %-10s %s\n' "$$name" "$$text"
	done
	echo '  Variables: PYTHON=python3.x for .venv, ARGS="..." for demo, test, coverage, bench, fuzz and mutants'

demo: venv ## show the whole tool at work, on dummy files and a provider on loopback
	@$(BIN)/hashclient demo $(ARGS)

# `make test` takes two and a half minutes on two processors; with ARGS=--full it runs the slow
# tests as well. `make check` runs the tests of documents and architecture; `make coverage` runs all
# tests.
test: venv ## run the tests, without the slow ones (all but check-deep: ARGS=--full)
	@$(BIN)/python -m pytest -n auto --dist worksteal -m 'not docs' $(ARGS)

check: venv ## check format, lint, types, architecture, and that the docs are in step
	@$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/python -m mypy
	# pytest ends with exit code 5 if no test has the marker `docs`.
	$(BIN)/python -m pytest -q --full -m docs || test $$? = 5

# `make check-deep` takes about two hours on two processors. A Python or a mail server that is
# not installed is named and left out. The first Python runs all examples of the tests, the second
# runs all tests with fewer examples, and every other Python runs the tests of `make test`.
PYTHONS ?= 3.11 3.13 3.12
FUZZ_SECONDS ?= 600
CASES ?= 20000
MUTANTS ?= 300
check-deep: check ## run what takes long: all examples, every Python, the wheel, known holes, fuzzing
	@depths=("--deep -m ''" --full)
	for version in $(PYTHONS); do
	  if ! "python$$version" -c '' 2> /dev/null; then
	    echo "make: python$$version is not here: not tested" >&2
	    continue
	  fi
	  $(MAKE) VENV=".venv-$$version" PYTHON="python$$version" test ARGS="$${depths[0]-}"
	  depths=("$${depths[@]:1}")
	done
	$(MAKE) dist
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install -q pip-audit < /dev/null
	build/audit/bin/pip-audit --require-hashes --disable-pip -r requirements.lock |& tee build/audited
	# pip-audit also ends with 0 if the registry says nothing about a package.
	! grep -q "could not be audited" build/audited || echo "make: not all packages were audited" >&2
	rm -rf build/audit build/audited
	$(BIN)/python -m fixtures.differential | xargs -P "$$(nproc)" -I KIND \
	  $(BIN)/python -m fixtures.differential KIND --cases $(CASES)
	$(MAKE) mutants ARGS="--number $(MUTANTS)"
	targets=$$($(MAKE) fuzz ARGS=)
	each=$$(( $(FUZZ_SECONDS) / $$(wc -l <<< "$$targets") + 1 ))
	xargs -P "$$(nproc)" -I TARGET $(BIN)/python -m fixtures.fuzz TARGET "$$each" <<< "$$targets"

coverage: ## run the slow tests as well, and demand the branch coverage set in pyproject.toml
	@$(MAKE) test ARGS="--full -m '' --cov --cov-report=term $(ARGS)"

bench: venv ## run the benchmarks, side by side with peers and with the physical floor
	@$(BIN)/python -m bench $(ARGS)

fuzz: venv ## fuzz a parser, guided by coverage: ARGS="index 60", a target and seconds
	@$(BIN)/python -c 'import atheris' 2> /dev/null \
	  || $(BIN)/python -m pip install -q --no-deps --only-binary :all: --require-hashes \
	    -r fixtures/fuzz/requirements.lock < /dev/null
	$(BIN)/python -m fixtures.fuzz $(ARGS)

mutants: venv ## put small faults into modules, and see whether tests notice: ARGS="--number 30"
	@$(BIN)/python -c 'import cosmic_ray' 2> /dev/null \
	  || $(BIN)/python -m pip install -q --no-deps --only-binary :all: --require-hashes \
	    -r fixtures/mutants/requirements.lock < /dev/null
	$(BIN)/python -m fixtures.mutants $(ARGS)

# The same commit gives the same files, because all dates in the files are the date of the commit.
dist: venv ## build sdist, wheel, its bill of materials and hashclient-verify into dist/, and try them
	@rm -rf dist build/try
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m hatchling build -d dist
	$(PYTHON) -m venv build/try
	build/try/bin/pip install -q --no-deps --require-hashes --only-binary :all: -r requirements.lock
	build/try/bin/pip install -q --no-deps --no-index dist/*.whl
	build/try/bin/hashclient demo > /dev/null
	build/try/bin/hashclient --version
	$(BIN)/python -m docs.image.parts dist/*.whl
	$(BIN)/python -m docs.verify.bundle dist/hashclient-verify
	$(PYTHON) -I -S dist/hashclient-verify --version
	rm -rf build/try

# `make image` needs root, mmdebstrap and bubblewrap.
image: venv ## build the OCI image and its bill of materials into dist/
	$(BIN)/python -m docs.image.build dist/hashclient-image.tar

# `make deb` needs dpkg-deb.
deb: venv ## build a package for Debian and its bill of materials into dist/
	$(BIN)/python -m docs.debian.build dist

# `make release` needs ssh-keygen and the programs that `make image` and `make deb` need. KEY is the
# file of the key that signs the sums, which also signs tags.
release: venv ## build all files of a release into dist/, and sign their sums: KEY=~/.ssh/id_release
	@key=$$(realpath -e -- "$(KEY)") || { echo 'make release: which key signs? KEY=FILE' >&2; exit 1; }
	$(MAKE) dist
	$(MAKE) deb
	$(MAKE) image
	cd dist
	sha256sum -- * > SHA256SUMS
	ssh-keygen -q -Y sign -n hashclient -f "$$key" SHA256SUMS

# Only `make lock` needs uv (https://docs.astral.sh/uv/). Existing pins are kept as far as
# pyproject.toml allows; ARGS=--upgrade takes the newest versions.
lock: ## write the lock files again from pyproject.toml (needs uv)
	@command -v uv > /dev/null || { echo 'make lock: uv not found; pipx install uv' >&2; exit 1; }
	compile() {
	  uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	    --generate-hashes --only-binary :all: --no-emit-index-url --no-emit-find-links \
	    --custom-compile-command 'make lock' $(ARGS) pyproject.toml "$$@"
	}
	# requirements.lock has the packages that a client needs; the packages of other extras, which are
	# large, are only in requirements-dev.lock.
	compile --extra socks -o requirements.lock
	compile --all-extras --group dev -c requirements.lock -o requirements-dev.lock

clean: ## remove everything that the targets have made
	@rm -rf $(VENV) .venv-* .venv.lock build dist htmlcov .coverage .coverage.*
	rm -rf .fuzz .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find hashclient tests fixtures bench -name __pycache__ -type d -prune -exec rm -rf {} +

# The virtual environment. Its stamp file names the inputs that the environment was made from. The
# environment is made again if an input has changed, if the tree was moved, or if the environment's
# Python does not start.
venv:
	@exec 9> .venv.lock
	# If several makes run at the same time, one builds the environment and the others wait for it.
	if command -v flock > /dev/null; then flock 9; fi
	fail() {
	  printf 'make: error: %s\n' "$$1" >&2
	  if [ $$# -gt 1 ]; then printf 'hint: %s\n' "$$2" >&2; fi
	  exit 1
	}
	# 1. Find a Python that is installed and new enough.
	python=$$(command -v '$(PYTHON)') || fail 'no $(PYTHON) found' \
	  'install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3'
	stamp=$$(pwd; echo "$$python"; sha256sum requirements-dev.lock pyproject.toml)
	if [ "$$(cat $(VENV)/stamp 2> /dev/null)" != "$$stamp" ] || ! $(BIN)/python -c '' 2> /dev/null
	then
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail \
	    "$$("$$python" --version 2>&1) is too old: $$python" \
	    'Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11'
	  # 2. Debian packages the venv module separately; root installs that package without asking.
	  if ! "$$python" -c 'import ensurepip, venv' 2> /dev/null; then
	    package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
	    if [ "$$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
	      fail "$$python cannot make virtual environments" "install $$package, or run make as root"
	    fi
	    echo "make: installing $$package" >&2
	    export DEBIAN_FRONTEND=noninteractive
	    apt-get install -qq -y "$$package" < /dev/null > /dev/null 2>&1 \
	      || { apt-get update -qq && apt-get install -qq -y "$$package"; } < /dev/null >&2 \
	      || fail "cannot install $$package" 'see what apt-get says above'
	  fi
	  # 3. Install the locked packages, then the project itself as an editable install. The lock file
	  #    names all packages, so pip may not look for other packages. Otherwise pip would stop at a
	  #    release that is newer than the locked one, if a package asks for it with an extra.
	  echo "make: setting up $(VENV) with $$("$$python" --version)" >&2
	  rm -rf $(VENV)
	  "$$python" -m venv $(VENV)
	  $(BIN)/python -m pip install -q --no-deps --only-binary :all: --require-hashes \
	    -r requirements-dev.lock < /dev/null
	  $(BIN)/python -m pip install -q --no-deps --no-build-isolation --no-index \
	    --editable . < /dev/null
	  $(BIN)/python -m pip check > /dev/null || $(BIN)/python -m pip check
	  printf '%s\n' "$$stamp" > $(VENV)/stamp
	fi
	# 4. Compile changed modules; a syntax error is ignored here, because the target shows it.
	$(BIN)/python -m compileall -qq hashclient || true
