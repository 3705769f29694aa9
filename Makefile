# Two commands matter: `make demo` and `make test`. Both do all their set-up.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
MAJORS := 14 15 16 17 18
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# Write bytecode even where the environment forbids it: without it, every process of every test
# compiles the library and its own test files again.
export PYTHONDONTWRITEBYTECODE :=

# How many chaos schedules, from which seed on, and whose migrations (sql, alembic or django):
# make chaos ROUNDS=1000 SEED=7 SOURCE=alembic
ROUNDS := 200
SEED :=
SOURCE := sql

# How many orders are in the tables of `make staging`: make staging ORDERS=50000
ORDERS := 1000000

# Of the Lambda runtime that a package is built for, as in template.yaml: make package PYTHON_VERSION=3.12
PYTHON_VERSION ?= 3.13
ARCHITECTURE ?= arm64
PACKAGE = $(or $(wildcard $(BIN)/python),$(PYTHON)) -m lambda_migrate.local.package \
	--python $(PYTHON_VERSION) --architecture $(ARCHITECTURE)

.PHONY: demo test lint docs test-unit test-real test-dynamodb-local storm staging bench profile simulate chaos mutants \
	audit format clean package build-OrdersFunction build-AdminFunction build-BeforeTrafficFunction

# 100 Lambda runtimes start at the same time against a real PostgreSQL; APP=alembic: with FastAPI and Alembic.
demo: .venv/installed-local $(if $(filter alembic,$(APP)),.venv/installed-fastapi-alembic)
	$(BIN)/lambda-migrate demo --app $(or $(APP),sql)

test: lint audit docs test-unit test-real

# Style, types, dead code, the layers of the packages, and the workflows of .github.
lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/vulture
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet --config .github/zizmor.yml .github/workflows

# The documentation site, into site/; a link or an anchor that leads nowhere is an error.
docs: .venv/installed-dev
	$(BIN)/python -m tests.site

# Line and branch coverage of the library and its command line, in less than 30 s.
test-unit: .venv/installed-dev .engines/installed
	$(BIN)/python -m pytest tests/unit tests/integration/postgresql -m quick -q -n 2 --dist worksteal \
		--cov --cov-report=term:skip-covered --cov-fail-under=90

# Real PostgreSQL 14 to 18, a DynamoDB API over HTTP, real Lambda runtimes, real signals; and the
# property-based tests with all their examples. Three workers for two cores: a third of the time they
# wait for leases and deadlines.
test-real: .venv/installed-dev .engines/installed .sam/installed .tools/installed
	$(BIN)/python -m pytest tests examples -m "not quick or hypothesis" -n 3 --dist loadgroup

# The lease's contract and the concurrent tests on Amazon's own DynamoDB Local (needs Java).
test-dynamodb-local: .venv/installed-dev .engines/installed
	$(BIN)/python -m lambda_migrate.local.servers.dynamodb install
	LAMBDA_MIGRATE_TEST_DYNAMODB=dynamodb-local $(BIN)/python -m pytest tests/contract \
		tests/integration/flow -k "lease or dynamodb or at_once or failing or roll"

# Cold-start storms with Locust; reports go to storm-report/.
storm: .venv/installed-load
	$(BIN)/python -m load.storm

# Deploy and roll back a release as in staging, with a million orders; staging-report/ says go or no-go.
staging: .venv/installed-load
	$(BIN)/python -m load.staging --orders $(ORDERS)

# Compare with other migration tools; the table goes to docs/reference/benchmarks.md.
bench: .venv/installed-bench
	$(BIN)/python -m load.bench

# Where the time and the memory of a cold start go; docs/reference/profile.md. Needs root, for CPU quotas.
profile: .venv/installed-bench
	$(BIN)/python -m load.profile

# Compare waiting policies by simulation.
simulate: .venv/installed-load
	$(BIN)/python -m load.simulate

# Random faults at random moments; repeatable by its seed.
chaos: .venv/installed-load
	$(BIN)/python -m load.chaos --source $(SOURCE) --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED))

# The function's zip and the layer, into dist/; their sizes go to docs/reference/template.md.
package: .venv/bin/python
	$(PACKAGE) --page docs/reference/template.md

# For `sam build`: one package, three handlers. Needs a Python with pip, and no environment.
build-OrdersFunction build-AdminFunction build-BeforeTrafficFunction:
	$(PACKAGE) --into "$(ARTIFACTS_DIR)"

# Remove one safeguard at a time; a test must fail for each.
mutants: .venv/installed-dev .engines/installed
	$(BIN)/python -m tests.mutants

# Known vulnerabilities of installed packages; reports when no advisory service can be reached.
audit: .venv/installed-dev
	$(BIN)/python -m tests.security.audit

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed-local: .venv/bin/python pyproject.toml
	$(PIP) --editable '.[local]'
	@touch $@

.venv/installed-fastapi-alembic: .venv/installed-local examples/fastapi-alembic/requirements.txt
	$(PIP) --requirement examples/fastapi-alembic/requirements.txt
	@touch $@

.venv/installed-load: .venv/bin/python pyproject.toml
	$(PIP) --editable '.[load]'
	@touch $@ .venv/installed-local

.venv/installed-bench: .venv/bin/python pyproject.toml
	$(PIP) --editable '.[bench]'
	@touch $@ .venv/installed-load .venv/installed-local

.venv/installed-dev: .venv/bin/python pyproject.toml
	$(PIP) --editable '.[dev]'
	@touch $@ .venv/installed-load .venv/installed-local

# AWS SAM's command line, in an environment of its own: its pinned dependencies conflict with ours.
.sam/installed:
	$(PYTHON) -m venv .sam
	.sam/bin/python -m pip install --quiet --disable-pip-version-check 'aws-sam-cli>=1.150'
	@touch $@

# Servers of every supported major version, with TLS; the one in the wheel is built without. And
# PgBouncer: the one on PATH, or Debian's package.
.engines/installed: .venv/installed-dev
	$(BIN)/python -m lambda_migrate.local.servers.postgresql install $(MAJORS)
	$(BIN)/python -m lambda_migrate.local.servers.pgbouncer install
	@touch $@

# The real tools whose databases `adopt` takes over in tests: npm's, and Sqitch from Debian's or Ubuntu's
# packages, which need root. And the oldest SQLAlchemy that the extra `alembic` allows.
.tools/installed: tests/integration/adopt/package.json .venv/installed-dev
	mkdir -p .tools && cp $< .tools/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade \
		--target .tools/sqlalchemy-1.4 'sqlalchemy<2' 'alembic==1.13.*'
	npm install --prefix .tools --ignore-scripts --no-package-lock --no-audit --no-fund --loglevel error
	{ command -v sqitch && command -v psql; } >/dev/null || { $(SUDO) apt-get update --quiet --quiet && \
		$(SUDO) DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes \
		--no-install-recommends sqitch libdbd-pg-perl postgresql-client; }
	@touch $@

clean:
	rm -rf .venv .engines .sam .tools .aws-sam dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage *-report site .cache
