# One environment, .venv, for every target. It is installed again only when the versions change.

PYTHON ?= python3
BIN := .venv/bin
ENVIRONMENT := .venv/.installed
PEERS := build/bench-env/.installed
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check

.PHONY: demo test test-slicer lint bench-drr bench-backend bench-panel bench-synthesis bench-superres sample-data views-picture superres-picture evaluate train-demo train-superres train-baselines clean

demo: $(ENVIRONMENT)
	$(BIN)/svdrr demo demo

test: lint
	$(BIN)/python -m pytest

# The modules' self-tests inside a real 3D Slicer: make test-slicer SLICER=/path/to/Slicer
test-slicer: $(ENVIRONMENT)
	$(BIN)/python Testing/slicer/run.py $(SLICER)

lint: $(ENVIRONMENT)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Flags go in BENCH_DRR, such as: make bench-drr BENCH_DRR='--quick --json FILE'
bench-drr: $(ENVIRONMENT) $(PEERS)
	$(BIN)/python Testing/benchmarks/bench_drr.py $(BENCH_DRR)

# Flags go in BENCH_BACKEND, such as: make bench-backend BENCH_BACKEND='--quick --json FILE'
bench-backend: $(ENVIRONMENT)
	$(BIN)/python Testing/benchmarks/bench_backend.py $(BENCH_BACKEND)

# Flags go in BENCH_PANEL, such as: make bench-panel BENCH_PANEL='--quick --json FILE'
bench-panel: $(ENVIRONMENT)
	$(BIN)/python Testing/benchmarks/bench_panel.py $(BENCH_PANEL)

# Flags go in BENCH_SYNTHESIS, such as: make bench-synthesis BENCH_SYNTHESIS='--phantoms 2 --json FILE'
bench-synthesis: $(ENVIRONMENT)
	$(BIN)/python Testing/benchmarks/bench_synthesis.py $(BENCH_SYNTHESIS)

# Flags go in BENCH_SUPERRES, such as: make bench-superres BENCH_SUPERRES='--phantoms 1 --views 2 --json FILE'
bench-superres: $(ENVIRONMENT)
	$(BIN)/python Testing/benchmarks/bench_superres.py $(BENCH_SUPERRES)

sample-data: $(ENVIRONMENT)
	$(BIN)/python Testing/support/sample_data.py

views-picture: $(ENVIRONMENT)
	$(BIN)/python Testing/support/chest_views.py Resources/Screenshots/chest-views.png

superres-picture: $(ENVIRONMENT)
	$(BIN)/python Testing/support/superres_crops.py Docs/images/super-resolution-crops.png

# Another model, or fewer phantoms: make evaluate EVALUATE='demo-256 phantoms:4'
EVALUATE := demo-256 phantoms:16

evaluate: $(ENVIRONMENT)
	mkdir -p build
	$(BIN)/svdrr evaluate $(EVALUATE) build/evaluation --views simple --views hemisphere:300

train-demo: $(ENVIRONMENT)
	$(BIN)/python -m svdrr.synthesis.training .data/demo-256

# What models are measured against and by, after train-demo. VIEWS: the phantom views that it has rendered.
VIEWS := .data/demo-256/views

train-superres: $(ENVIRONMENT)
	$(BIN)/python -m svdrr.superres.training .data/superres

train-baselines: $(ENVIRONMENT)
	$(BIN)/python -m svdrr.evaluation.training.feature_distance $(VIEWS)
	$(BIN)/python -m svdrr.evaluation.training.mean_thorax Resources/Models/baselines/mean_thorax.safetensors
	cp .data/demo-256/lifting/lifting.safetensors Resources/Models/baselines/

# torch comes first, so that no other requirement picks its build. diffdrr brings torchvision, whose default
# wheel does not load beside a CPU build of torch and then breaks every package that imports it where it finds it.
$(ENVIRONMENT): pyproject.toml constraints.txt
	@.ci/system-libraries $(PYTHON)
	@echo "Installing SVDRR into .venv; this takes a few minutes."
	@$(PYTHON) -m venv .venv
	@$(PIP) install -c constraints.txt torch
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@$(BIN)/python -c 'import torchvision' 2>/dev/null || $(PIP) uninstall --yes torchvision
	@touch $@

# The benchmark goes on without the renderers of other projects that cannot be installed, and says so.
$(PEERS): Testing/benchmarks/requirements-peers.txt
	@echo "Installing plastimatch and RTK for comparison into build/bench-env."
	@$(PYTHON) -m venv build/bench-env
	@build/bench-env/bin/python -m pip --quiet --quiet --disable-pip-version-check install -r $< && touch $@ || true

# Trained weights and their data in .data stay: they cost hours.
clean:
	rm -rf .venv build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find SVDRRExtension Testing \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +
