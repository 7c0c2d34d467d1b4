# Everything on a fresh machine with Python 3.11 or newer: `make demo`, `make test`. No virtual environment needs to be active.

PYTHON ?= python3
VENV ?= .venv
# dependency groups need pip 25.1, --build-constraint 25.3
PIP_VERSION ?= 26.1.2

# torch's threads wait for each other by spinning: on a busy machine two are slower than one by far
export OMP_NUM_THREADS ?= 1

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
WANTED := ".[s3,wandb]" --group dev --group demo --group docs

.PHONY: help demo deploy test check bench soak docs wheel lock clean install
.DEFAULT_GOAL := help

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*  ## /  make \1\t/p' Makefile | expand -t 16

demo: $(VENV)/.installed  ## from URLs to a ControlNet that suddenly converges; RETRAIN=1 makes its small base anew
	$(BIN)/python examples/demo.py $(if $(RETRAIN),--retrain)

deploy: $(VENV)/.installed  ## scheduled runs on this machine: Prefect server, deployments of prefect.yaml, worker
	$(BIN)/python examples/deploy.py

# a file in one process; as many processes as CPUs, but for tests that start engines: each of them has its own Ray, and
# waits for it now and then
test: $(VENV)/.installed  ## run every test
	$(BIN)/python -m pytest tests/unit --numprocesses=auto --maxprocesses=4 --dist=loadfile --quiet
	$(BIN)/python -m pytest tests/integration tests/e2e --numprocesses=3 --dist=loadfile --durations=20 --quiet

check: $(VENV)/.installed  ## what must pass first: style, types, walls, generated docs, links of the site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.installed  ## run every benchmark; takes long
	set -e; for script in $(filter-out benchmarks/soak.py,$(wildcard benchmarks/*.py)); do $(BIN)/python "$$script"; done

wheel: $(VENV)/.pip  ## write what other machines install into dist/: the wheel and constraints.txt
	rm -f dist/controlmill-*.whl
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	cp constraints.txt dist/

soak: $(VENV)/.installed  ## two hours of building and training with kills; SHORT=1 for ten minutes
	$(BIN)/python benchmarks/soak.py --minutes $(if $(SHORT),10,120) \
		--out benchmarks/results/soak_$(if $(SHORT),short_,)$(shell date -u +%F).md

docs: $(VENV)/.installed  ## write the generated blocks and build the site into site/
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# by the oldest Python that is supported: what needs a newer one is not chosen. Only DeepSpeed has no wheel
lock: $(VENV)/.pip  ## resolve all dependencies anew and write constraints.txt; needs Python 3.11
	@$(BIN)/python -c 'import sys; sys.exit(None if sys.version_info[:2] == (3, 11) else "make lock needs Python 3.11: make lock VENV=.venv-lock PYTHON=python3.11")'
	$(PIP) install --quiet --dry-run --ignore-installed --only-binary=:all: --no-binary=deepspeed \
		--report $(VENV)/report.json ".[s3,gcs,wandb,bitsandbytes]" --group dev --group demo --group docs
	$(BIN)/python .ci/constraints.py $(VENV)/report.json constraints.txt

clean:  ## delete what the other targets wrote, except the virtual environment
	rm -rf site dist demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

install: $(VENV)/.installed  ## make the virtual environment, pinned

$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "controlmill needs Python 3.11 to 3.13, this is " + sys.version.split()[0] + "; choose one with make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet "pip==$(PIP_VERSION)"
	@touch $@

$(VENV)/.installed: $(VENV)/.pip pyproject.toml constraints.txt
	@echo "installing into $(VENV): takes some minutes the first time"
	$(PIP) install --quiet --no-compile --constraint constraints.txt --build-constraint constraints.txt --editable $(WANTED)
	# apart, for the one test of it: diffusers imports it wherever it is, a second at the start of every process
	$(PIP) install --quiet --no-compile --constraint constraints.txt --no-deps --target $(VENV)/bitsandbytes bitsandbytes
	# on all CPUs, where pip has one at work; without tests of packages. Some ship files that are no Python: they stay as they are
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
	@touch $@
