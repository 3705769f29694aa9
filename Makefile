# Two commands matter: `make demo` and `make test`. Both do all their set-up.

PYTHON ?= python3
BIN := .venv/bin
MAJORS := 14 15 16 17 18

.PHONY: demo test test-unit test-real test-dynamodb-local lint format clean

demo: .venv/installed-local
	$(BIN)/lambda-migrate demo

test: lint test-unit test-real

# Format, style, types, and the layers of the house.
lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# No server, no real time; line and branch coverage of what runs in Lambda and of the command line.
test-unit: .venv/installed-dev
	$(BIN)/python -m pytest tests/unit --cov --cov-report=term:skip-covered --cov-fail-under=90

# Real PostgreSQL 14 to 18, a real DynamoDB API, real Lambda runtimes, real signals.
test-real: .venv/installed-dev .engines/postgresql
	$(BIN)/python -m pytest tests examples --ignore=tests/unit -n 2 --dist loadgroup

# The lease's contract, and the storms, on Amazon's own DynamoDB Local (needs Java).
test-dynamodb-local: .venv/installed-dev
	$(BIN)/python -m lambda_migrate.local.dynamodb install
	LAMBDA_MIGRATE_TEST_DYNAMODB=dynamodb-local $(BIN)/python -m pytest tests/contract tests/integration/flow

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed-local: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[local]'
	@touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ .venv/installed-local

# Servers of every supported major version, with TLS; the one in the wheel is built without.
.engines/postgresql: .venv/installed-dev
	$(BIN)/python -m lambda_migrate.local.postgresql install $(MAJORS)
	@touch $@

clean:
	rm -rf .venv .engines .mypy_cache .ruff_cache .pytest_cache .coverage demo-report
