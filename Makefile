# Two commands do everything on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE_FILES := $(addsuffix .py,complexity plan tokens config layers block slices network model trace objective macs) reducers/* backbones/*
empty :=
comma := ,
CORE := $(subst $(empty) $(empty),$(comma),$(addprefix src/supervit/,$(CORE_FILES)))

# What covers the core rooms. The tracer makes Python half as slow again, so the other tests run without it.
CORE_TESTS := $(addprefix tests/unit/test_,$(addsuffix .py,complexity config layers macs model objective)) \
	tests/property/test_complexity_properties.py $(addprefix tests/contract/test_,backbones.py reducers.py) \
	$(addprefix tests/integration/test_,checkpoints.py grey_images.py model_card.py precision.py timm_surface.py)

TWO := -n 2 --dist loadfile --no-loadscope-reorder  # two processes, a file each, in the order of their names: short ones come last

.PHONY: demo test lint types unit core rest coverage lock clean

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

unit: core rest

core: $(VENV)/installed  ## the tests of the core rooms, which must cover every line of theirs
	$(BIN)/pytest $(TWO) --cov=supervit --cov-report= $(CORE_TESTS)
	$(BIN)/coverage report --include='$(CORE)' --fail-under=100

rest: $(VENV)/installed
	$(BIN)/pytest $(TWO) $(addprefix --ignore=,$(CORE_TESTS))

coverage: $(VENV)/installed  ## of all rooms by all tests; takes half as long again as `make unit`
	$(BIN)/pytest $(TWO) --cov=supervit --cov-report=
	$(BIN)/coverage report --skip-covered

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@

lock: $(VENV)/installed  ## write the installed versions back to constraints.txt, after changing pyproject.toml
	$(BIN)/pip freeze --exclude-editable | grep -v ' @ ' > constraints.txt

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .coverage build src/*.egg-info
