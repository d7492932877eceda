# The project's commands. `make demo` and `make test` need only Debian, Python 3.11+ and the network to PyPI.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CLASSFEED := $(BIN)/classfeed

help: ## what can be done here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | column -t -s '|'

setup: $(STAMP) ## the virtual environment with the locked dependencies

$(STAMP): requirements.lock pyproject.toml scripts/setup
	@PYTHON="$(PYTHON)" VENV="$(VENV)" scripts/setup
	@touch $(STAMP)

demo: setup ## set everything up, run three business days on embedded parts, say what was delivered
	@$(CLASSFEED) demo

up: setup ## the Dagster UI on embedded parts, until Ctrl-C
	@$(CLASSFEED) up

test: setup ## the tests, with coverage
	@$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term --cov-report=xml

nightly: setup ## the long tests: a simulated year, every evening against the customers' own books
	@$(BIN)/python -m pytest -m nightly

torture: setup ## kills, races, outages, hostile bytes and random days for BUDGET seconds; one table of faults and outcomes
	@$(BIN)/python -m classfeed_dagster_tests.torture --budget $(or $(BUDGET),120)

mutation: setup ## is every small wrong change of a deciding module noticed? MUTANTS of them, for at most BUDGET seconds
	@$(BIN)/python -m classfeed_dagster_tests.torture.mutation --sample $(or $(MUTANTS),400) --seconds $(or $(BUDGET),9000) --require 90

browser: setup ## the Dagster UI in a real browser (needs Chromium: apt-get install chromium)
	@test -x .browser/bin/python || $(PYTHON) -m venv .browser
	@.browser/bin/pip install --quiet --disable-pip-version-check playwright
	@CLASSFEED_PLAYWRIGHT=$(CURDIR)/.browser/bin/python $(BIN)/python -m pytest -m browser

bench: setup ## speed and memory, as ratios to named baselines in the same run (many minutes)
	@$(BIN)/python -m benchmarks.documents
	@$(BIN)/python -m benchmarks.reconciliation
	@$(BIN)/python -m benchmarks.whole_job

lint: setup ## ruff and mypy
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: setup ## let ruff format and mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: setup ## write the parts of the docs that come from code
	@$(BIN)/python scripts/render_docs.py

lock: setup ## resolve the dependencies again
	@$(BIN)/pip install -q uv
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --all-extras --no-strip-extras --upgrade \
		--no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.lock

clean: ## remove the embedded services' data (.classfeed); nothing outside it
	@rm -rf .classfeed

.PHONY: help setup demo up test nightly torture mutation browser bench lint format docs lock clean
