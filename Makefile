# Everything a clone needs: `make demo` to see it, `make test` to trust it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt
BASE   := $(VENV)/.ready-base
READY  := $(VENV)/.ready
DOCS   := $(VENV)/.ready-docs
BOOKS  := $(VENV)/.ready-notebooks

# Where `convgraph compile` puts the CPU's fused kernels, and where everything here finds them.
export CONVGRAPH_CACHE ?= $(CURDIR)/.cache/convgraph

# Libraries of published networks. Some of them pin a torch of their own, so none brings what it
# asks for: that is the extra `zoo`.
PUBLISHED := torchvision timm segmentation-models-pytorch pytorchcv facenet-pytorch transformers monai \
             diffusers

# A worker a core; a file's tests stay together, for some count what the others did. In their order:
# the doctests come last, and are so short that no worker waits long for another.
SPREAD := -n auto --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo quick test test-ci test-published check bench bench-proof bench-networks bench-large gpu classes house faults fuzz oldest zoo zoo-page notebooks \
        lab lessons slides docs docs-browser news dist clean
.DELETE_ON_ERROR:

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## create .venv and install convgraph with its tools

demo: $(BASE) ## train on digits, filter a photograph, prove every layer; writes demo/
	$(BIN)/convgraph demo

quick: $(READY) ## run what tests the files that you changed, in at most two minutes
	$(BIN)/python -m tests.quick

test: $(READY) ## run the tests and the doctests; ALL=1 for CI's share in the same run
	$(BIN)/python -m pytest $(SPREAD) -m "not published$(if $(ALL),, and not ci)"

test-ci: $(READY) ## run CI's share: the whole demo, every pair, what dies on a cluster
	$(BIN)/python -m pytest $(SPREAD) -m ci tests

test-published: $(READY) ## ask published networks whole: on masks, by tiles, on ranks, of the judge
	$(BIN)/python -m pytest $(SPREAD) -m published tests

check: $(READY) ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## time layers beside dense convolutions and other libraries, about 5 minutes
	$(BIN)/python benchmarks/run.py $(BENCH)
	$(BIN)/python benchmarks/build_edges.py
	$(BIN)/python benchmarks/scale.py $(if $(findstring cuda,$(BENCH)),--device cuda)

gpu: ## on a bare machine with a GPU: right, tested, fast? no set-up, at most 8 minutes
	PYTHONPATH="$(CURDIR)" $(PYTHON) benchmarks/gpu.py $(GPU)

house: $(READY) ## write the files, each with its one idea, and the backends into docs/design/
	$(BIN)/python -m tests.house

fuzz: $(READY) ## attack it with random input, two and a half minutes; FUZZ="--seconds 600 --seed 5" for more
	$(BIN)/python -m tests.fuzz $(FUZZ)

faults: $(READY) ## refute every planted fault and write the table into docs/faults.md
	$(BIN)/python -m tests.proof.faults.table
	$(BIN)/python -m tests.proof.faults.table docs/faults.md

oldest: ## run what leans most on torch with the oldest torch and PyG of the stated range
	.ci/oldest

bench-proof: $(READY) ## time certificates of three layers, and their memory beside the layer's own
	$(BIN)/python benchmarks/certificates.py

zoo: $(READY) ## convert hundreds of published networks, about half an hour; goes on where it was cut off
	$(BIN)/python -m tests.convert.zoo $(ZOO)

zoo-page: $(READY) ## write what the zoo found into docs/supported-models.md
	$(BIN)/python -m tests.convert.zoo --table docs/supported-models.md

classes: $(READY) ## which of torch's kernels are exact on integers; writes docs/vendor-classes.md
	$(BIN)/python benchmarks/vendor_classes.py --page docs/vendor-classes.md $(BENCH)

bench-networks: $(READY) ## time converted networks beside dense ones; asks for torchvision and timm
	$(BIN)/python benchmarks/networks.py
	$(BIN)/python benchmarks/pretraining.py
	$(BIN)/python benchmarks/prove_networks.py

bench-large: $(READY) ## peak memory of large images by tiles, and what their halos cost
	$(BIN)/python benchmarks/large_images.py 4096 8192 16384 --work --workers --tissue 16384

notebooks: $(BOOKS) ## execute the lessons, compare what they print; a check that does not hold fails
	$(BIN)/python notebooks/kernels.py \
	    $(BIN)/python -m pytest -o addopts= -p no:cacheprovider --nbval --nbval-cell-timeout=300 \
	    --nbval-sanitize-with notebooks/nbval.cfg notebooks/*.ipynb

lab: $(BOOKS) ## open copies of the lessons in Jupyter, without outputs; they lie in lab/ (as root: LAB=--allow-root)
	$(BIN)/python notebooks/editions.py lab lab
	cd lab && ../$(BIN)/jupyter lab $(LAB) 01_*.ipynb

lessons: $(BOOKS) ## write the notebooks anew from their text, executed; LESSON=03 for one
	$(BIN)/python notebooks/editions.py execute $(LESSON)

slides: $(BOOKS) ## slides of the lessons to teach from, into slides/
	$(BIN)/python notebooks/editions.py slides slides

news: ## move the fragments of news/ into CHANGELOG.md; VERSION=0.1.0
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt towncrier
	$(BIN)/towncrier build --yes --version $(VERSION)

dist: $(READY) ## build sdist and wheel, check both, and try each elsewhere; uploads nothing
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt build twine
	PYTHON=$(BIN)/python .ci/release

docs: $(DOCS) ## build the documentation into site/; INTO=folder puts it there too, beside other versions
	$(BIN)/python -m tests.docs.build $(INTO)

docs-browser: docs ## try every page of the documentation in a browser, and its switches: three widths, light and dark
	CONVGRAPH_SITE="$(CURDIR)/site" $(BIN)/python -m pytest -q -p no:cacheprovider \
	    tests/docs/test_site.py tests/docs/test_switches.py

clean: ## remove .venv and everything that was built
	rm -rf $(VENV) build dist site demo slides .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The interpreter is checked before anything is downloaded. The pip that comes with it may be years
# old, and reads an index four times as slowly. torch comes first and alone: with it in place nothing
# that follows can ask the index for another build of it.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "convgraph needs Python 3.11 or newer; say which: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt --upgrade pip

# Each runs once, and again when what is installed may have changed. Who looks or learns needs no more
# than the base; published networks and other tools are for who tests.
$(BASE): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) torch
	$(PIP) -e ".[viz,proof,cpp,scale]"
	@$(BIN)/convgraph compile >/dev/null || echo "going on without the CPU's fused kernels: masks will be slower"
	@touch $@

$(READY): $(BASE)
	$(PIP) -e ".[dev,zoo]"
	$(PIP) --no-deps $(PUBLISHED)
	@touch $@

$(DOCS): $(READY)
	$(PIP) -e ".[dev,docs,notebooks]"
	@touch $@

# What builds the documentation brings them.
$(BOOKS): $(BASE)
	@test $(DOCS) -nt $(BASE) || $(PIP) -e ".[viz,proof,cpp,scale,notebooks]"
	@touch $@
