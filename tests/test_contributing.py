"""The four worked examples of CONTRIBUTING.md run as written, in a copy of the package."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from explllm.core.manifest import Manifest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def text(repository):
    return (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def package(repository, text, tmp_path_factory):
    """A copy of the package with every file and line that the examples add."""
    root = tmp_path_factory.mktemp("copy")
    for folder in ("explllm", "configs"):
        shutil.copytree(repository / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    whole = 0
    for place, code in re.findall(r"```python\n# (\S+\.py(?:, [^\n]*)?)\n(.*?)```", text, flags=re.S):
        path, _, note = place.partition(", ")
        if not note:
            (root / path).write_text(code, encoding="utf-8")
            whole += 1
            continue
        source = (root / path).read_text(encoding="utf-8")
        if "READERS" in note:
            anchor = "        for name, module, summary in (\n"
            assert anchor in source
            source = source.replace(anchor, anchor + code)
        else:
            anchor = re.search(r"^from explllm.models import conv_encoder.*\n", source, flags=re.M)
            source = source[: anchor.end()] + code + source[anchor.end() :]
        (root / path).write_text(source, encoding="utf-8")
    assert whole == 4
    return root


@pytest.fixture
def run(package, text, tmp_path):
    """Runs the command of an example, in a folder of its own."""

    def run(start, *more, **replaced):
        [line] = [line for line in text.splitlines() if line.startswith(start)]
        words = [replaced.get(word, word) for word in shlex.split(line)[1:]]
        command = [sys.executable, "-m", "explllm", *words, *more]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(package)}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def test_data_set(run, drawn_faces, tmp_path):
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame.head(6)
    (tmp_path / "set" / "images").mkdir(parents=True)
    lines = []
    for image, label in zip(frame["image"], frame["expression"], strict=True):
        name = image.replace("/", "_")
        shutil.copy(drawn_faces / image, tmp_path / "set" / "images" / name)
        lines.append(f"{name} {str(label).lower()}\n")
    (tmp_path / "set" / "labels.txt").write_text("".join(lines))
    run("explllm data mugshots", FOLDER="set")
    read = Manifest.read(tmp_path / "mugshots.parquet").frame
    assert list(read["expression"]) == list(frame["expression"]) and set(read["split"]) == {"test"}


def test_vision_encoder(run, drawn_faces, tmp_path):
    quick = [f"--data.folder={drawn_faces}", "--data.train=56", "--data.val=14", "--data.test=27", "--data.size=64"]
    run(
        "explllm fit --config demo.yaml --model.network.vision", *quick, "--trainer.max_steps=1", "--data.batch_size=32"
    )
    config = json.loads((tmp_path / "runs" / "demo" / "model" / "config.json").read_text())
    assert config["vision_config"]["model_type"] == "patch_encoder" and config["vision_width"] == 32


def test_judge(run, drawn_faces, tmp_path):
    manifest = Manifest.read(drawn_faces / "manifest.parquet")
    for name in ("generated", "reference"):
        manifest.write(tmp_path / f"{name}.parquet")
    assert "overlap (shared words)" in run("explllm score")


def test_action_unit_estimator(run, drawn_faces, tmp_path):
    (tmp_path / "unit.txt").write_text("3")
    manifest = Manifest.read(drawn_faces / "manifest.parquet")
    frame = manifest.frame[["image", "expression", "split"]]
    Manifest(frame.head(4).reset_index(drop=True), manifest.root).write(tmp_path / "faces.parquet")
    run("explllm aus", "--root", str(drawn_faces))
    units = Manifest.read(tmp_path / "units.parquet").frame
    assert all(0 < row[3] < 1 for row in units["action_units"])
    assert all("Left Eye Close" in str(missing) for missing in units["action_units_missing"])
