# Two commands do everything: `make demo` runs the main job, `make test` runs every check.
# Both set up a virtual environment in the checkout with the versions pinned in constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: help demo test test-slow test-ray test-track test-wheel check format lint types layers unit experiments options docs benchmarks clean

help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: qwafer needs Python 3.11 or newer; set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing qwafer and its pinned dependencies into $(VENV) (a few minutes the first time)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev,audio,browser,labels,onnx,parquet,search,serve,tensorboard]'
	@touch $@

demo: $(VENV)/.installed ## the main job: a paired ablation on synthetic wafer maps, ending in a report
	$(BIN)/python -m qwafer.ablate --out runs/demo

test: $(VENV)/.installed-dev check unit ## every check: format, lint, types, layers, tests, documented examples

check: $(VENV)/.installed-dev format lint types layers ## the checks that run nothing

format: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

layers: $(VENV)/.installed-dev
	$(BIN)/lint-imports

unit: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow and not ray and not track and not wheel" --numprocesses 2 --dist loadfile --durations=15

test-slow: $(VENV)/.installed-dev ## the tests that are too long for `make test`
	$(BIN)/python -m pytest -m "slow and not ray and not wheel" --numprocesses 2 --dist loadfile --durations=15

test-ray: $(VENV)/.installed-dev ## sweeps on a Ray cluster of two nodes on this machine
	$(PIP) --editable '.[ray]'
	$(BIN)/python -m pytest -m ray --durations=15 tests/test_ray.py

# MLflow does not take the version of cachetools that is pinned, and both are large: they lie in a folder of their own.
test-track: $(VENV)/.installed-dev ## the trackers MLflow and Weights & Biases
	@grep -v '^cachetools==' constraints.txt > $(VENV)/constraints-track.txt
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --upgrade --constraint $(VENV)/constraints-track.txt --target $(VENV)/track 'mlflow-skinny>=3' alembic sqlalchemy wandb
	PYTHONPATH=$(VENV)/track $(BIN)/python -m pytest -m track --durations=5 tests/test_tracking.py

test-wheel: $(VENV)/.installed-dev ## every verb from the wheel, in an environment that holds nothing else (minutes; downloads)
	$(BIN)/python -m pytest -m wheel --durations=5 tests/test_wheel.py

experiments: $(VENV)/.installed ## every comparison in experiments/, resumably; writes the table in experiments/README.md
	$(BIN)/python experiments/run_all.py

options: $(VENV)/.installed ## docs/options.md, from the docstrings of the options
	$(BIN)/python -c 'from pathlib import Path; from qwafer.reference import options_page; Path("docs/options.md").write_text(options_page(), encoding="utf-8")'

docs: $(VENV)/.installed-dev ## the documentation as a site, in build/docs: notebooks run, links checked, no warning
	$(PIP) --editable '.[docs]'
	MPLBACKEND= $(BIN)/python docs/site_hooks.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## remove the virtual environment and caches, keep results
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info build
