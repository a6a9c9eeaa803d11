# make lab    opens the course, in my-course/, a copy that is yours and is never overwritten
# make fresh  puts another copy beside it
# make run    trains the laptop preset in the terminal
# make test   runs all tests            make bench  measures speed and learning beside what it is compared with
# make torture  hours of what a run may meet: kills, odd arguments, broken invariants, an hour of training
# make test-gpu  runs what only a GPU can prove
# make bench-gpu  the same, then ten minutes each of paper and evening on a stand-in for enwik8; not yet run anywhere
# make html   the course as pages without Python, in which the widgets work, in build/html; runs it, some minutes
# make notebooks  runs the notebooks again and stores their outputs
# make clean  removes what was built, keeps your runs and your course
#
# Options: PRESET=paper DATA=enwik8 MINUTES=10 OUT=folder SEED=1, PYTHON=python3.12,
# PIP_ARGS="..." for the first installation (see README), LAB_ARGS="..." for JupyterLab.

PYTHON ?= python3
PRESET ?= laptop
DATA ?= enwik6
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal
TORTURE := endurance killed arguments properties mutations run download corpus dashboard
RUN_ARGS := $(if $(MINUTES),--minutes $(MINUTES)) $(if $(OUT),--out $(OUT)) $(if $(SEED),--seed $(SEED))

.PHONY: lab fresh run test torture test-gpu bench-gpu bench html notebooks clean

lab: .venv/ready
	$(BIN)/python -m shalab.course lab $(LAB_ARGS)

fresh: .venv/ready
	$(BIN)/python -m shalab.course copy --fresh

run: .venv/ready
	$(BIN)/shalab train --preset $(PRESET) --data $(DATA) $(RUN_ARGS)

test: .venv/ready
	$(PYTEST)

torture: .venv/ready
	HYPOTHESIS_PROFILE=torture $(PYTEST) $(addprefix tests/test_,$(addsuffix .py,$(TORTURE)))

test-gpu: .venv/ready
	$(BIN)/python -m pytest -rs -s -m gpu tests/test_gpu.py

bench-gpu: test-gpu runs/enwik8-standin
	for preset in paper evening; do \
	  $(BIN)/shalab train --preset $$preset --data runs/enwik8-standin --minutes 10 --out runs/gpu-$$preset || exit 1; \
	done

runs/enwik8-standin: | .venv/ready
	mkdir -p runs
	$(BIN)/python -m shalab.laboratory.standin $@

bench: .venv/ready
	$(BIN)/python -m shalab.laboratory.bench

html: .venv/ready
	$(BIN)/python -m shalab.course html build/html

notebooks: .venv/ready
	$(BIN)/python -m shalab.course execute

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache build dist *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

# The lock is installed first, exactly; the project itself then needs nothing more.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "shalab needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_ARGS) -r requirements.lock
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	touch $@
