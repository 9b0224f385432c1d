# The first target that runs creates .venv; later ones reuse it until requirements.txt or pyproject.toml change.
PYTHON ?= python3
# Where torch comes from; `make venv TORCH_INDEX=https://download.pytorch.org/whl/cpu` spares the CUDA libraries.
TORCH_INDEX ?=
# Where there is a ComfyUI, what it requires is installed too, so that the host tests run; without torch, which is ours.
# The newest torchaudio may be built for an older torch: its compiled half, of no use to pictures, then goes.
HOST := $(or $(COMFYUI_PATH),$(HOME)/comfy/ComfyUI)
PY := .venv/bin/python
STAMP := .venv/.installed
# transformers 4 and what goes with it: hosts have either generation, so what reads pretrained models is tested on both.
OLDER := .venv/older

.PHONY: venv demo test lint train eval ablations bench
.DELETE_ON_ERROR:

venv: $(STAMP)

# torch and torchvision in one step: a torchvision that a later package pulls in alone may want another torch.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is %s; run make PYTHON=python3.11" % sys.version.split()[0])'
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --upgrade pip
	$(PY) -m pip install torch torchvision $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PY) -m pip install -r requirements.txt -e '.[test,eval,lint]'
	@if test -f "$(HOST)/requirements.txt"; then \
		grep -Ev '^(torch|torchvision|torchaudio)\b' "$(HOST)/requirements.txt" > .venv/host-requirements.txt; \
		echo "installing what ComfyUI at $(HOST) requires"; \
		$(PY) -m pip install -r .venv/host-requirements.txt || echo "not all of it could be installed: host tests will skip"; \
		$(PY) -m pip install --no-deps torchaudio $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)); \
		$(PY) -c 'import torchaudio' 2>/dev/null || rm -f .venv/lib/python*/site-packages/torchaudio/lib/*torchaudio*.so; \
	fi
	touch $@

demo: $(STAMP)
	$(PY) -m retouch_core demo -o demo

$(OLDER)/.installed: $(STAMP)
	rm -rf $(OLDER)
	$(PY) -m pip install --quiet --no-deps --target $(OLDER) \
		'transformers>=4.57,<5' 'tokenizers>=0.22,<0.23' 'huggingface_hub>=0.34,<1' 'diffusers>=0.35,<0.36'
	touch $@

# Two files at a time, on one thread each: more threads than cores wait for each other in OpenMP's loops.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

test: $(STAMP) $(OLDER)/.installed
	$(PYTEST)
	PYTHONPATH=$(OLDER) $(PYTEST) tests/pretrained

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

train: $(STAMP)
	$(PY) -m training.train

eval: $(STAMP)
	$(PY) -m training.evaluate

# FULL=1 takes the published steps and samples, on 20 scenes.
ablations: $(STAMP)
	$(PY) -m training.ablations --jobs 2 $(if $(FULL),--full)
	$(PY) -m training.ablations.comparison $(if $(FULL),--full -o docs/recipes/comparison_full.md)

bench: $(STAMP)
	$(PY) -m benchmarks $(if $(LONG),--long)
