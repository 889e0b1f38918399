# Everything here works on a fresh machine: it makes .venv, installs with plain pip, and runs.
PYTHON ?= python3
BIN := .venv/bin
# One thread per test process: the suite runs two. A file stays in one process, which computes its fixtures once.
# Python may write bytecode: without it, each process that a test starts compiles the libraries for 10 s.
PYTEST := env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: install demo model test suite smoke lint docs bench clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	# Skip compiling 20,000 modules: a run imports only a quarter of them.
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[dev]"
	# insightface and mediapipe install OpenCV builds that need libGL, into the same folder as the headless one.
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps opencv-python-headless
	touch $@

# Both stages on drawn faces, then a test on unseen identities. The second stage starts from the first one's model.
demo: install
	$(BIN)/explllm fit --config demo_align.yaml
	$(BIN)/explllm fit --config demo.yaml --model.init_from runs/demo_align/model
	$(BIN)/explllm test --config demo.yaml

# The model in the package, from FACES, a folder of class subfolders, and MediaPipe's face_landmarker.task. About three
# hours on two cores; run the same command again to resume.
model: install
	mkdir -p runs
	test -f runs/pocket_faces.parquet || $(BIN)/explllm data folder $(FACES) -o runs/pocket_faces.parquet
	test -f runs/pocket_aus.parquet || $(BIN)/explllm aus runs/pocket_faces.parquet -o runs/pocket_aus.parquet --landmarker $(LANDMARKER) --workers 2
	for stage in pocket_encoder pocket; do $(BIN)/explllm fit --config $$stage.yaml --data.root $(FACES) $$(test -f runs/$$stage/checkpoints/last.ckpt && echo --ckpt_path last) || exit 1; done
	rm -rf runs/pocket_half
	$(BIN)/explllm convert half runs/pocket/model runs/pocket_half
	mkdir -p explllm/pretrained/pocket
	cp runs/pocket_half/* explllm/pretrained/pocket

# Run the linters in parallel with the tests.
test: install
	$(MAKE) --jobs=2 lint suite

# The fast and the slow tests in one run.
suite: install
	$(PYTEST) -m "slow or not slow"

# A quick check of an installation.
smoke: install
	$(BIN)/pytest tests/test_cli.py tests/test_imports.py tests/core

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/mkdocs.yml

# On an idle machine. Writes benchmarks/results/*.json and the benchmark page of the documentation.
bench: install
	for name in train_step train_memory recognize explain startup data_loading; do $(BIN)/python benchmarks/$$name.py || exit 1; done
	$(BIN)/python benchmarks/results.py

clean:
	rm -rf .venv build runs data
