# Two commands do everything on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := src/supervit/complexity.py,src/supervit/config.py,src/supervit/layers.py,src/supervit/model.py,src/supervit/objective.py,src/supervit/macs.py,src/supervit/reducers/*,src/supervit/backbones/*

.PHONY: demo test lint types unit lock clean

demo: $(VENV)/installed  ## train one SuperViT on real handwritten digits, then table and plot of its operating points
	rm -rf runs/digits
	$(BIN)/supervit train digits --out runs/digits

test: lint types unit  ## what CI runs

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/installed
	$(BIN)/mypy

unit: $(VENV)/installed
	$(BIN)/pytest -n 2 --dist loadfile --cov=supervit --cov-report=
	$(BIN)/coverage report --include='$(CORE)' --fail-under=100
	$(BIN)/coverage report --skip-covered

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@

lock: $(VENV)/installed  ## write the installed versions back to constraints.txt, after changing pyproject.toml
	$(BIN)/pip freeze --exclude-editable | grep -v ' @ ' > constraints.txt

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .coverage build src/*.egg-info
