# The two commands: `make demo` and `make test`. Both set up their own environment in .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Tests of training need torch; TORCH=0 leaves it (and them) out.
TORCH ?= 1
EXTRAS_0 := embedded,report,test
EXTRAS_1 := $(EXTRAS_0),train,vision
NATIVE := $(wildcard sparse_split_ros/native/*.?pp sparse_split_ros/native/kernels/*.?pp)

.PHONY: help demo test lint bench clean

help:
	@echo 'make demo    the whole system on this machine: drive, head, tail, report/index.html'
	@echo 'make test    the tests        (TORCH=0: without those that need torch)'
	@echo 'make lint    ruff and mypy'
	@echo 'make bench   those benchmarks behind benchmarks/RESULTS.md that need no data'

demo: $(VENV)/.run
	$(BIN)/python -m sparse_split_ros.cli demo --drive build/drive $(ARGS)

test: $(VENV)/.test$(TORCH)
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.test$(TORCH)
	$(PIP) ruff mypy types-PyYAML
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy sparse_split_ros

bench: $(VENV)/.test$(TORCH)
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/outage.py
	$(BIN)/python benchmarks/soak.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/guard.py
	$(BIN)/python benchmarks/engine.py networks
	for part in inference wire memory link; do $(BIN)/python benchmarks/rivals.py $$part; done

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

ifeq ($(origin PYTHON),command line)
ifneq ($(wildcard $(BIN)/python),)
ifneq ($(shell $(PYTHON) -V 2>&1),$(shell $(BIN)/python -V 2>&1))
$(error $(VENV) is of $(shell $(BIN)/python -V 2>&1): "make clean" first, or another VENV)
endif
endif
endif

$(VENV)/.run: setup.py constraints.txt $(NATIVE) | $(VENV)/bin/python
	@echo 'Setting up $(VENV) (once, about a minute) ...'
	$(PIP) -e '.[embedded,report]'
	@$(BIN)/python -c 'import sparse_split_ros.native._native' 2>/dev/null || \
	  echo 'Without the native engine, which needs g++ and python3-dev: ONNX Runtime does the work.'
	@touch $@

$(VENV)/.test$(TORCH): $(VENV)/.run
	@if [ '$(TORCH)' = 1 ]; then echo 'Installing torch ...'; fi
	$(PIP) -e '.[$(EXTRAS_$(TORCH))]'
	@touch $@

clean:
	rm -rf $(VENV) build install log report *.egg-info sparse_split_ros/native/_native*.so
