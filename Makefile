# Every target does its own set-up and is safe to repeat. PYTHON chooses the interpreter that makes the environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FAST := $(addprefix tests/,golden losses methods ops test_batch.py test_labels.py test_layers.py test_metrics.py test_words.py)
OLDEST := .venv-oldest

.PHONY: demo check test test-long test-oldest lint hostile faults supply bench bench-gpu backbones docs containers gpu gpu-day clean

demo: $(STAMP)  ## train BARM, fine-tuning and joint training on generated data; print and draw the comparison
	$(BIN)/barm demo

check: lint  ## before every commit: style, types and the fast tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow and not long' $(FAST)

test: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-long: $(STAMP)  ## what takes minutes each: documented results at full length
	$(BIN)/python -m pytest -n 2 -m long

test-oldest: $(OLDEST)/.installed  ## the suite on the oldest releases of constraints-oldest.txt, in an environment of its own
	$(OLDEST)/bin/python -m pytest -n 2 --dist worksteal --ignore tests/docs --ignore tests/app --ignore src/barm/app

hostile: $(STAMP)  ## 20 000 hostile files for every reader, in about 20 minutes; HOSTILE="--seed 2" tries others
	OMP_NUM_THREADS=1 $(BIN)/python tests/hostile/run.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/hostile/campaign.py $(HOSTILE)

supply: $(STAMP)  ## licences, known vulnerabilities and a list of parts of all that is installed; results in runs/supply
	$(BIN)/python benchmarks/supply.py $(SUPPLY)

lint: $(STAMP)  ## style, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)  ## time and memory against the plain way and the bare network, on this processor; results in runs/bench
	BARM=$(BIN)/barm DEVICE=cpu benchmarks/standard.sh

bench-gpu: $(STAMP)  ## the same on a GPU, with the batch of the published recipe; results in runs/bench-gpu
	BARM=$(BIN)/barm DEVICE=cuda BATCH=8 ROUNDS=20 OUT=runs/bench-gpu benchmarks/standard.sh

containers: $(STAMP)  ## check Dockerfile and environment.yml, and build them where docker, podman, mamba or conda is
	$(BIN)/python -m pytest -m 'long or not long' -rs tests/test_containers.py

backbones: $(STAMP)  ## backbones of all kinds trained, resumed and exported, in half an hour; the table of docs/backbones.md
	$(BIN)/python benchmarks/backbones.py $(BACKBONES)

faults: $(STAMP)  ## some 300 faults in every phase (kills, power cuts, full disks, flipped bits), in 20 minutes (full disks as root alone); results in runs/faults
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/run.py --out runs/faults $(FAULTS)

docs: $(STAMP)  ## the documentation as a site, to be opened at runs/site/index.html; broken links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir runs/site

gpu: $(STAMP)  ## the tests that need a CUDA device; two of them need two
	$(BIN)/python -m pytest -m gpu -rs

gpu-day: $(STAMP)  ## all that one GPU can show in nine minutes, in runs/gpu-day; DEVICE=cpu tries every part in small
	$(BIN)/python benchmarks/gpu_day.py $(if $(filter cpu,$(DEVICE)),--device cpu --small --seconds 900) $(GPU_DAY)

clean:  ## remove what was built and trained, keep the environment
	rm -rf build dist runs/demo .pytest_cache .mypy_cache .ruff_cache src/*.egg-info

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); it takes a minute or two"
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev]'
	touch $@

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	@echo "Installing into $(OLDEST); it takes a few minutes"
	$(OLDEST)/bin/python -m pip install --quiet --editable . --requirement constraints-oldest.txt
	touch $@
