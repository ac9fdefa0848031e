# Everything a newcomer needs is Python >= 3.11 and make; uv is fetched into .tools/ where missing.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow gpu-check imports check docs format lock wheel clean

PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11,\
  $(shell $(python) -c 'import sys; sys.version_info >= (3, 11) and print("$(python)")' 2>/dev/null)))
DBBENCH := .venv/bin/dbbench
READY := .venv/.ready
FOLDERS := subjects prompts baselines reports

ifneq ($(shell uv --version 2>/dev/null),)
UV := uv
else
UV := .tools/uv/bin/uv
FETCHED_UV := $(UV)
endif

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with the pinned packages and dbbench itself

demo: $(READY) ## run the main job on six subjects of the embedded world, then show the report
	$(DBBENCH) run --suite mini --subjects dog,cat,teapot,backpack,vase,clock --out results/demo
	$(DBBENCH) report results/demo

test: $(READY) ## run the tests (ARGS="-k name" to choose)
	.venv/bin/python -m pytest --numprocesses=auto $(ARGS)

test-slow: $(READY) ## run the tests that take longer than 20 seconds each
	.venv/bin/python -m pytest -m "slow and not gpu" $(ARGS)

gpu-check: $(READY) ## settle in half an hour what only a GPU can say (ARGS="--tiny" tries the kit on a CPU)
	.venv/bin/python benchmark/measurements/gpu/check.py $(ARGS)

check: $(READY) docs ## ruff, ruff format, imports, strict mypy, the docs, and the search for secrets and vulnerable packages
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	@$(MAKE) --no-print-directory imports
	.venv/bin/mypy
	@.ci/audit

# The editable install keeps five folders apart; links put the package together as it is installed.
imports: $(READY) ## who may import whom: the contracts of .importlinter
	@rm -rf .tools/typing && mkdir -p .tools/typing/dbbench
	@ln -s "$(CURDIR)"/benchmark/dbbench/* $(FOLDERS:%="$(CURDIR)"/%) .tools/typing/dbbench/
	cd .tools/typing && "$(CURDIR)"/.venv/bin/lint-imports "$(CURDIR)"/.importlinter --no-cache

docs: $(READY) ## build the documentation strictly into .tools/site
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict --quiet

format: $(READY) ## let ruff put right what it can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

lock: $(FETCHED_UV) ## pin the newest versions of all packages in requirements.lock
	$(UV) pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	  --output-file requirements.lock

wheel: $(READY) ## build the source archive and the wheel into dist/
	.venv/bin/python -m build --no-isolation

clean: ## remove what make has made, except results/
	rm -rf .venv .tools build dist benchmark/dbbench.egg-info .mypy_cache .pytest_cache .ruff_cache

# The stamp comes last, so that an interrupted installation is taken up again.
$(READY): requirements.lock pyproject.toml | $(FETCHED_UV)
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	test -x .venv/bin/python || $(UV) venv --python "$(PYTHON)" .venv
	$(UV) pip install --python .venv/bin/python --compile-bytecode --require-hashes --requirements requirements.lock
	$(UV) pip install --python .venv/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

.tools/uv/bin/uv:
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	"$(PYTHON)" -m venv .tools/uv
	.tools/uv/bin/python -m pip install --quiet uv
