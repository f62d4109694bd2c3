# make demo | test | test-all | lint | bench | findings     The first call of any of them creates .venv (6 GB, about a minute).
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench findings lock
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
PY := .venv/bin/python
UV_VERSION := 0.13.8
READY := .venv/ready

help:
	@echo "make demo      build a small synthetic data set, train on it, evaluate, write runs/demo/report.html (5 minutes on 2 cores)"
	echo "make test      all tests except slow and GPU ones             make test-all  slow tests too, with coverage"
	echo "make lint      format, lint and type checks                   make bench     the benchmarks of tests/bench"
	echo "make findings  a longer training run (under 30 minutes)       make lock      pin all packages anew"

$(READY): requirements.lock pyproject.toml
	@say() { echo "setup: $$1" >&2; exit 1; }
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	    || say "needs Python 3.11 or newer, '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true); name another with make PYTHON=/path/to/python3.11"
	free_mb=$$(df -Pm . | awk 'NR==2 {print $$4}')
	[ -f .venv/bin/python ] || [ "$$free_mb" -ge 8000 ] || say "needs 8000 MB of free disk space in $$PWD, $$free_mb MB are free"
	.venv/bin/python -c '' 2>/dev/null || { rm -rf .venv; $(PYTHON) -m venv .venv >/dev/null || say "python3 cannot make virtual environments; on Debian: apt-get install python3-venv"; }
	log=.venv/setup.log
	echo "setup: installing the packages of requirements.lock into .venv (6 GB once, about a minute)"
	.venv/bin/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION) >$$log 2>&1 \
	    || say "could not fetch the installer uv (no network?); run make again when it is back; details in $$log"
	.venv/bin/uv pip sync --quiet --python .venv/bin/python --compile-bytecode --require-hashes requirements.lock >$$log 2>&1 \
	    || say "could not install the packages: $$(grep -iE 'no space|failed|error|dns' $$log | head -n 1); run make again to continue; details in $$log"
	.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --editable . >$$log 2>&1 \
	    || say "could not install this project into .venv; details in $$log"
	touch $@

define TOY_SHARDS
$(PY) -m pipelines.toy_world out=data/toy
for split in train eval; do
    $(PY) -m pipelines.build config=configs/build/toy.yaml source.kind=audioset source.root=data/toy/audioset source.split=$$split out=data/toy/shards/audioset_$$split
done
for split in train val; do
    $(PY) -m pipelines.build config=configs/build/toy.yaml source.kind=places_audio source.root=data/toy/places_audio source.split=$$split out=data/toy/shards/places_audio_$$split
done
$(PY) -m pipelines.build config=configs/build/toy.yaml source.kind=vggsound source.root=data/toy/vggsound source.split=test out=data/toy/shards/vggsound_test
endef
# Two threads everywhere: another summation order changes the results after some hundred steps.
# `accelerate launch` as a module: the `accelerate` script imports all of its commands, which takes 4 s.
LAUNCH := OMP_NUM_THREADS=2 $(PY) -m accelerate.commands.launch --quiet --config_file configs/accelerate/cpu.yaml train.py

# Requirements of the longer run, instead of the demo's.
FINDINGS := {metric: ade20k_speech/basic/map, min: 0.80}, {metric: ade20k_sound/basic/map, min: 0.80}, {metric: disentanglement/heads/pred_dis, min: 0.95}

demo: $(READY)
	@$(TOY_SHARDS)
	$(LAUNCH) config=configs/train/toy.yaml name=demo
	$(PY) -m eval.run config=configs/eval/toy.yaml checkpoint=runs/demo out=runs/demo

findings: $(READY)
	@$(TOY_SHARDS)
	$(LAUNCH) config=configs/train/toy.yaml name=findings steps=2700 loss.disentangle=5
	$(PY) -m eval.run config=configs/eval/toy.yaml checkpoint=runs/findings out=runs/findings "requirements=[$(FINDINGS)]"

test: $(READY)
	@$(PY) -m pytest -n auto --dist worksteal -m "not slow and not gpu" tests

test-all: $(READY)
	@$(PY) -m pytest -n auto --dist worksteal -m "not gpu" --cov --cov-report=term:skip-covered tests

lint: $(READY)
	@.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

bench: $(READY)
	@for bench in tests/bench/bench_*.py; do $(PY) $$bench; done

lock: $(READY)
	@compile=".venv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --upgrade --quiet"
	$$compile --extra train --extra dev --extra farm --extra cloud --extra download --extra search --extra app --extra workspace -o requirements.lock
	# The same versions as above: build nodes and training nodes must give the same bytes.
	$$compile --extra cloud --constraint requirements.lock -o requirements-build.lock
