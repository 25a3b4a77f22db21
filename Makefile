# Everything runs in .venv, made on first use; nothing but Python 3.11+ and make is needed.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
INSTALL = -m pip install --quiet --disable-pip-version-check
INSTALLED = $(VENV)/.installed

PEERS = .venv-peers
TIMM = .venv-timm
GCS = .venv-gcs
TPU = .venv-tpu

.PHONY: train test test-programs docs-check soak test-peers test-timm test-gcs test-tpu lint format environments python clean

train: $(INSTALLED)
	$(RUN) train.py

test: $(INSTALLED)
	$(RUN) -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder

# Runs from beginning to end: stopped, resumed, by several processes, by notebooks.
test-programs: $(INSTALLED)
	$(RUN) -m pytest -q -m programs -n 2 --dist loadscope --no-loadscope-reorder

# The commands and the Python of all documents, as they are written.
docs-check: $(INSTALLED)
	$(RUN) -m pytest -q -m docs -n 2

# Longer loops: runs stopped a hundred times, on disk and in a bucket, sixty image sizes, dropout on different numbers
# of devices, and damaged images and weight files, for a quarter of an hour each (FUZZ_SECONDS, FUZZ_SEED).
soak: $(INSTALLED) $(GCS)/.installed
	$(RUN) -m pytest -q -s -m "soak and not gcs"
	$(GCS)/bin/python -m pytest -q -s -m "soak and gcs"

# Parity with programs that nobody here wrote, each in an environment of its own.
test-peers: $(INSTALLED) $(PEERS)/.installed
	PEERS_PYTHON=$(PEERS)/bin/python $(RUN) -m pytest -q -s -m peers

test-timm: $(INSTALLED) $(TIMM)/.installed
	TIMM_PYTHON=$(TIMM)/bin/python $(RUN) -m pytest -q -s -m timm

# Runs and models in Cloud Storage, on a server of this machine.
test-gcs: $(GCS)/.installed
	$(GCS)/bin/python -m pytest -q -m gcs -n 2 tests/gcs

# What the compiler for TPUs says, on this machine's processor.
test-tpu: $(TPU)/.installed
	$(TPU)/bin/python -m pytest -q -m tpu -n 2 tests/tpu

# .pre-commit-config.yaml has the same commands.
lint: $(INSTALLED)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

format: $(INSTALLED)
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

python:
	@$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), f'Python 3.11 or newer is needed, this is {sys.version}'"

# All that CI needs; with -j, at the same time.
environments: $(INSTALLED) $(PEERS)/.installed $(GCS)/.installed $(TPU)/.installed

# Reinstalls only when what is to be installed changes.
$(INSTALLED): pyproject.toml constraints.txt | python
	$(PYTHON) -m venv $(VENV)
	$(RUN) $(INSTALL) -c constraints.txt -e ".[dev]"
	touch $@

$(PEERS)/.installed: tests/peers/requirements.txt | python
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python $(INSTALL) -r $<
	$(PEERS)/bin/python $(INSTALL) --no-deps gcvit==1.1.6
	touch $@

# torch first: the others would ask for its newest build.
$(TIMM)/.installed: tests/peers/requirements-timm.txt | python
	$(PYTHON) -m venv $(TIMM)
	$(TIMM)/bin/python $(INSTALL) "$$(grep ^torch== $<)"
	$(TIMM)/bin/python $(INSTALL) -r $<
	touch $@

$(GCS)/.installed: pyproject.toml constraints.txt tests/gcs/requirements.txt | python
	$(PYTHON) -m venv $(GCS)
	$(GCS)/bin/python $(INSTALL) -c constraints.txt -r tests/gcs/requirements.txt
	touch $@

$(TPU)/.installed: pyproject.toml constraints.txt tests/tpu/requirements.txt | python
	$(PYTHON) -m venv $(TPU)
	$(TPU)/bin/python $(INSTALL) -c constraints.txt -r tests/tpu/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(TIMM) $(GCS) $(TPU)
