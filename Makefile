# Two commands for a fresh machine: `make demo` and `make test`. Only python 3.11+, make and git are needed.
.DELETE_ON_ERROR:
.PHONY: demo up down test test-gpu-image check docs bench bench-orchestration clean install

PYTHON ?= python3
BIN := .venv/bin
# Set so that nothing looks outside: every program here honours the word `true`.
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_DISABLE_TELEMETRY := 1

demo: .venv/installed        ## three iterations on the embedded tiny world, then the table (about 4 minutes)
	$(BIN)/csr run

up: .venv/installed          ## Prefect server, MLflow server and a worker on this machine; says where they are
	$(BIN)/csr up

down:                        ## stop what `make up` started, and nothing else
	$(BIN)/csr down

test: .venv/installed        ## every test (about 25 minutes)
	$(BIN)/python -m pytest

test-gpu-image: .venv-gpu-image/installed  ## the method on the older versions of a GPU image, python 3.12 (about 15 minutes)
	.venv-gpu-image/bin/python -m pytest tests/search tests/dpo tests/reward tests/policy tests/preference \
	  tests/evaluation tests/stages tests/golden tests/families tests/memory tests/guards tests/test_chat.py tests/test_export.py tests/test_params.py

.venv-gpu-image/installed: tests/gpu-image.txt
	python3.12 -m venv .venv-gpu-image
	.venv-gpu-image/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/gpu-image.txt
	touch $@

check: .venv/installed       ## the fast checks: format, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed        ## the documentation as a site, build/site/index.html; a dead link ends the build
	$(BIN)/mkdocs build

bench: .venv/installed       ## how fast the parts are beside the plain way, on a quiet machine (about 25 minutes)
	$(BIN)/python -m benchmarks.speed --growth

bench-orchestration: .venv/installed  ## the demo by the bare functions, csr run and dvc repro: what orchestration costs
	$(BIN)/python -m benchmarks.orchestration

install: .venv/installed

# The stamp makes a second run install nothing; it is redone when the versions change.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "python 3.11 or newer is needed; set PYTHON=..."'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "pip installs about 7 GB into .venv now: some minutes, in which it says nothing"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:                       ## what runs and tools made; not the environment (.venv)
	test ! -x $(BIN)/csr || $(BIN)/csr down
	rm -rf data models metrics reports ablation evaluations mlruns .csr .prefect build *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
