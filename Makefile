# Everything here works on a fresh machine: it makes .venv, installs with plain pip, and runs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	# insightface and mediapipe bring OpenCV builds that need a screen's libraries, into the folder of this one.
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps opencv-python-headless
	touch $@

# Both stages on drawn faces, then a test on unseen identities. The second stage starts from the first one's model.
demo: install
	$(BIN)/explllm fit --config demo_align.yaml
	$(BIN)/explllm fit --config demo.yaml --model.init_from runs/demo_align/model
	$(BIN)/explllm test --config demo.yaml

test: install lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv runs data
