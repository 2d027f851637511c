# Every target makes .venv itself when it is missing. `make help` lists them.
PYTHON ?= python3
BIN    := .venv/bin
READY  := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo lab test test-docs lint format types docs screenshots check lowest tensorboard bench peers simulate \
  faults golden rerun release clean FORCE

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

# Packages that torch does not load where there is no NVIDIA GPU, 1.4 GB, are left out there. GPU=1 or GPU=0 says which it is.
GPU ?= $(if $(wildcard /dev/nvidia0)$(shell command -v nvidia-smi),1,0)
ONLY_WITH_GPU := triton|cuda-bindings|cuda-pathfinder|cuda-toolkit|nvidia-(cuda-cccl|cusolver|nvjitlink|nvtx)
ifeq ($(origin GPU),command line)
$(READY): FORCE
endif
FORCE:

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 5) and "Python 3.11.5 or newer is needed; say make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	grep -vE '^($(if $(filter 0,$(GPU)),$(ONLY_WITH_GPU)))==' requirements.lock > .venv/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement .venv/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(READY)  ## Make .venv with the exact tested versions; with or without what a GPU needs: make setup GPU=1

demo: $(READY)  ## Train a U-Net on the synthetic chest images: about two minutes on two cores
	$(BIN)/python train.py model=unet loss=dice model.base=32

LAB = $(shell cd experiments && echo lab4/*.yaml | sed 's/\.yaml//g; s/ /,/g')
PHANTOMS := outputs/phantom_course
lab: $(READY)  ## Smoke-test the fourteen lab configs on phantoms, or on your images: make lab ROOT=<course root>
ifdef ROOT
	$(BIN)/python train.py -m experiment=$(LAB) scale=quick name=lab 'dataset.root="$(ROOT)"' $(ARGS)
else
	$(BIN)/python experiments/lab4/make_data.py $(PHANTOMS)
	RUNCARD_VGG16=random $(BIN)/python train.py -m experiment=$(LAB) scale=quick name=lab_phantoms \
	  dataset.root=$(PHANTOMS) $(ARGS)
endif

test: $(READY)  ## Run the tests, but for those that make test-docs runs
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-docs: $(READY)  ## Run every command of the documentation, and its notebook
	$(BIN)/python -m pytest -n auto --dist worksteal tests/test_documented_commands.py
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest --nbmake docs/tutorial/first_run.ipynb

lint: $(READY)  ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## Fix style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)  ## Check types
	$(BIN)/mypy

docs: $(READY)  ## Build the documentation's site into site/, or show it: make docs ARGS=serve
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build) --strict

screenshots: $(READY)  ## Make every picture of the documentation, with Chromium
	OMP_NUM_THREADS=1 $(BIN)/python docs/build/screenshots.py
	$(BIN)/python docs/build/check_pictures.py
	$(BIN)/python docs/build/statistics_pictures.py

check: lint types docs test  ## Lint, types, docs and tests; CI runs test-docs and lowest too

tensorboard: $(READY)  ## Browse outputs/ at http://localhost:6006
	$(BIN)/tensorboard --logdir outputs

# Without opencv-python, which grad-cam asks for: its cv2 would take the place of opencv-python-headless'.
.lowest/.ready: pyproject.toml
	$(PYTHON) -m venv --clear .lowest
	.lowest/bin/python -m pip install --quiet uv
	echo "opencv-python ; python_version < '0'" > .lowest/overrides.txt
	.lowest/bin/uv pip install --quiet --python .lowest/bin/python --resolution lowest-direct --overrides .lowest/overrides.txt \
	  --requirement pyproject.toml --extra explain --extra report --extra export --extra zoo --extra dev
	@touch $@

LOWEST := tests/test_journey.py tests/test_conf.py tests/losses tests/metrics tests/models tests/explain tests/inference
lowest: .lowest/.ready  ## Run some of the tests with the lowest versions that pyproject.toml allows
	PYTHONPATH="$(abspath src)" .lowest/bin/python -m pytest -n auto -W ignore $(LOWEST)

WHAT ?= epoch
bench: $(READY)  ## Measure our epoch against bare loops, or by name: make bench WHAT=growth ARGS=images
	$(BIN)/python benchmarks/$(WHAT).py $(ARGS)

.peers/.ready: $(READY) benchmarks/peers.txt
	$(PYTHON) -m venv .peers
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(.peers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/venv.pth"
	.peers/bin/python -m pip install --quiet --requirement benchmarks/peers.txt
	@touch $@

peers: .peers/.ready  ## Measure our training step against Lightning, MONAI and Keras
	$(BIN)/python benchmarks/peers.py

simulate: $(READY)  ## Measure how often verdicts, bounds, plans and images that stand out err, on data of known truth
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/noise.py
	$(BIN)/python benchmarks/disagreement.py
	$(BIN)/python benchmarks/adaptive.py
	$(BIN)/python benchmarks/published.py

faults: $(READY)  ## Inject thousands of faults into the real commands, and write their table into docs/explanation/reliability.md
	OMP_NUM_THREADS=1 NO_ALBUMENTATIONS_UPDATE=1 PYTHONPATH=tests:tests/faults $(BIN)/python -m campaign --jobs 2 \
	  --page docs/explanation/reliability.md $(ARGS)

golden: $(READY)  ## Write the golden loss trace anew, after a change that is meant to change numbers
	$(BIN)/python tests/golden/regenerate.py

RUN_FOLDER = $(patsubst %/,%,$(RUN))
AGAIN := -rerun-$(shell date +%Y-%m-%d_%H-%M-%S)
rerun: $(READY)  ## Repeat a saved config in a new folder: make rerun RUN=outputs/run/<stamp>
	@test -f "$(RUN_FOLDER)/.hydra/config.yaml" || { echo "RUN=$(RUN): not a run folder. Say make rerun RUN=outputs/<name>/<stamp>"; exit 2; }
	$(BIN)/python train.py -cp "$(abspath $(RUN_FOLDER))/.hydra" -cn config \
	  'run_dir="$(RUN_FOLDER)$(AGAIN)"' 'hydra.run.dir="$(RUN_FOLDER)$(AGAIN)"' hydra.output_subdir=null \
	  hydra/hydra_logging=disabled hydra/job_logging=disabled

.release/.ready:
	$(PYTHON) -m venv .release
	.release/bin/python -m pip install --quiet twine
	@touch $@

release: $(READY) .release/.ready  ## Build and check wheel and sdist, and date the changes; pushes nothing: make release VERSION=0.2.0
	$(BIN)/python .ci/release.py "$(VERSION)"

clean:  ## Remove .venv and caches; outputs/ stays
	rm -rf .venv .peers .lowest .release .mypy_cache .ruff_cache .pytest_cache src/*.egg-info
