# The project's commands. `make demo` and `make test` need only Debian, Python 3.11+ and the network to PyPI.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-demo
CLASSFEED := $(BIN)/classfeed

# Without its compiled bytecode every process compiles 200 modules again.
unexport PYTHONDONTWRITEBYTECODE

help: ## what can be done here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | column -t -s '|'

setup: $(STAMP) ## the virtual environment with the locked dependencies

$(STAMP): requirements.lock pyproject.toml scripts/setup
	@PYTHON="$(PYTHON)" VENV="$(VENV)" scripts/setup dev

# The demo needs half of what development needs: no mypy, moto or kubernetes. A complete environment serves as well.
setup-demo: $(if $(wildcard $(STAMP)),$(STAMP),$(DEMO_STAMP)) ## the virtual environment with what the demo needs

$(DEMO_STAMP): requirements-demo.lock pyproject.toml scripts/setup
	@PYTHON="$(PYTHON)" VENV="$(VENV)" scripts/setup demo

demo: setup-demo ## set everything up, run three business days on embedded parts, say what was delivered; FROM=2023-01-03 for fixed dates
	@$(CLASSFEED) demo $(if $(FROM),--from $(FROM))

up: setup-demo ## the Dagster UI on embedded parts, until Ctrl-C
	@$(CLASSFEED) up

# Two more than there are cores: a third of the time the tests wait for servers, disks and other processes.
SUITE := pytest -n $(shell expr $$(nproc) + 2) --dist worksteal
PYTEST := $(BIN)/python -m $(SUITE)

test: setup ## the tests
	@$(PYTEST)

coverage: setup ## the tests with coverage of lines and branches; fails below 96 %
	@$(BIN)/python -m slipcover --json --out .coverage.json -m $(SUITE)
	@$(BIN)/python -m slipcover --merge .coverage.json --branch --xml --out coverage.xml --fail-under 96

properties: setup ## the property tests with all their examples, chosen anew in each run
	@CLASSFEED_TEST_EXAMPLES=random $(PYTEST) -m hypothesis

nightly: setup ## the long tests: a simulated year, every evening against the customers' own books
	@$(BIN)/python -m pytest -m nightly

torture: setup ## kills, races, outages, hostile bytes and random days for BUDGET seconds; one table of faults and outcomes
	@$(BIN)/python -m classfeed_dagster_tests.torture --budget $(or $(BUDGET),120)

torture-short: setup ## the same in two minutes or so, without the daemon: with every change
	@$(BIN)/python -m classfeed_dagster_tests.torture --budget 60 --only time,security,crash,crash-s3,machine,readers,writer

mutation: setup ## is every small wrong change of a deciding module noticed? MUTANTS of them, for at most BUDGET seconds; OUT=FILE
	@$(BIN)/python -m classfeed_dagster_tests.torture.mutation --sample $(or $(MUTANTS),400) --seconds $(or $(BUDGET),9000) --require 90 $(if $(OUT),--out $(OUT))

browser: setup ## the Dagster UI in a real browser (needs Chromium: apt-get install chromium)
	@test -x .browser/bin/python || $(PYTHON) -m venv .browser
	@.browser/bin/pip install --quiet --disable-pip-version-check playwright
	@command -v npm > /dev/null && npm install --silent --no-audit --no-fund --prefix .browser axe-core || true
	@CLASSFEED_PLAYWRIGHT=$(CURDIR)/.browser/bin/python $(BIN)/python -m pytest -m browser

production: setup ## the deployment as its templates describe it, on this machine (root); PRODUCTION=--help
	@$$([ "$$(id -u)" = 0 ] || echo sudo) $(BIN)/python -m classfeed_dagster_tests.rehearsal $(PRODUCTION)

backfill: setup ## DATES dates through the real webserver, daemon and queue, as the UI launches them (an hour or more)
	@$(BIN)/python -m classfeed_dagster_tests.torture.backfill --dates $(or $(DATES),250)

history: setup ## DATES delivered dates of every feed under the daemon for MINUTES: ticks and memory
	@$(BIN)/python -m classfeed_dagster_tests.torture.history --dates $(or $(DATES),750) --minutes $(or $(MINUTES),60)

celery: setup ## a date's steps on two Celery workers apart, same bytes as in one process (apt-get install redis-server); CELERY=--kill
	@$(BIN)/python -m classfeed_dagster_tests.torture.celery_workers $(CELERY)

bench: setup ## speed and memory, as ratios to named baselines in the same run: a quarter of an hour; BENCH=--help
	@$(BIN)/python -m benchmarks $(BENCH)

lint: setup ## format, style, types, order of the packages, dead code, dependencies, spelling, house style
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/vulture
	@$(BIN)/deptry classfeed_dagster --no-ansi
	@$(BIN)/codespell $$(git ls-files)
	@$(BIN)/python scripts/house_style.py

style: setup ## every place that the house style objects to (styles/house.toml), also those within the allowed number
	@$(BIN)/python scripts/house_style.py --all

lint-deploy: .deploy-tools/.installed ## templates, Dockerfile, workflows and scripts: made by the code, and by the linters
	@.deploy-tools/bin/python -m deploy.lint

templates: .deploy-tools/.installed ## CloudFormation's templates and the dashboard, from deploy/
	@.deploy-tools/bin/python -m deploy.app
	@.deploy-tools/bin/python -m deploy.grafana.dashboard

audit: .deploy-tools/.installed ## known vulnerabilities of what the image is made of (asks PyPI)
	@.deploy-tools/bin/pip-audit --strict --require-hashes --disable-pip -r deploy/requirements.lock

.deploy-tools/.installed: deploy/infrastructure.lock
	@$(PYTHON) -m venv .deploy-tools
	@.deploy-tools/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r deploy/infrastructure.lock
	@touch $@

format: setup ## let ruff format and fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: setup ## write the parts of the docs that come from code
	@$(BIN)/python scripts/render_docs.py

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header \
	--no-emit-index-url --no-emit-find-links pyproject.toml

lock: setup ## resolve the dependencies again, the image's too, locked versions kept where possible; UPGRADE=--upgrade for the newest
	@$(COMPILE) --all-extras $(UPGRADE) --output-file requirements.lock
	@$(COMPILE) --extra embedded --extra setup --constraint requirements.lock --output-file requirements-demo.lock
	@$(BIN)/python -m deploy.lock

clean: ## remove the embedded services' data (.classfeed); nothing outside it
	@rm -rf .classfeed

.PHONY: help setup setup-demo demo up test coverage properties nightly torture torture-short mutation browser backfill history celery bench lint style lint-deploy templates audit format docs lock clean production
