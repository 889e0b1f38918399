"""The README and the documentation: pages build, every command is valid, and the commands and the Python run."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass

import pytest

from explllm.cli import main

HOWTO = ("train", "clusters", "chains_of_thought", "evaluate", "feallm", "python", "app", "serve")
PAGES = ["README.md", *(f"docs/pages/howto/{name}.md" for name in HOWTO)]
NOT_RUN = "<!-- not run:"


@dataclass
class Block:
    """A fenced block of code."""

    language: str
    code: str
    runs: bool
    """False below a comment that says why it cannot run here."""

    @property
    def commands(self):
        """The arguments of each `explllm` command in the block."""
        lines = [line.partition("  #")[0] for line in self.code.splitlines()]
        return [shlex.split(line)[1:] for line in lines if line.startswith("explllm ")]


def blocks(repository, page):
    text = (repository / page).read_text(encoding="utf-8")
    pattern = rf"({re.escape(NOT_RUN)}[^\n]*-->\n)?```(\w+)\n(.*?)```"
    return [Block(language, code, not note) for note, language, code in re.findall(pattern, text, flags=re.S)]


def test_every_configuration_is_in_the_readme_and_every_name_exists(repository):
    shipped = {path.name for path in (repository / "configs").glob("*.yaml")}
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert shipped == set(re.findall(r"`(\w+\.yaml)`", readme))
    assert "`ablation/*.yaml`" in readme


def test_make_targets_exist(repository):
    targets = re.findall(r"^(\w+):", (repository / "Makefile").read_text(), flags=re.M)
    named = {
        target
        for page in ("README.md", "CONTRIBUTING.md")
        for target in re.findall(r"^make (\w+)|`make (\w+)`", (repository / page).read_text(), flags=re.M)
    }
    assert named and {one or other for one, other in named} <= set(targets)


def test_layout_in_the_readme_is_the_real_one(repository):
    readme = (repository / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"explllm/\n(.*?)```", readme, flags=re.S).group(1)
    folders = {path.name for path in (repository / "explllm").iterdir() if (path / "__init__.py").is_file()}
    assert set(re.findall(r"^  (\w+)/", shown, flags=re.M)) == folders


def test_pages_build_without_warnings(repository, tmp_path):
    pytest.importorskip("mkdocs", reason='no mkdocs: pip install "explllm[docs]"')
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/mkdocs.yml", "-d", tmp_path / "site"],
        cwd=repository,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    overview = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "architecture.svg" in overview
    assert "explllm.models.explllm.ExpLLM" in (tmp_path / "site" / "reference" / "models.html").read_text(
        encoding="utf-8"
    )


def test_paper_map_names_files_that_exist(repository):
    page = (repository / "docs/pages/paper.md").read_text(encoding="utf-8")
    table = page.partition("## Published numbers")[0]
    for name in re.findall(r"`([\w/*]+(?:\.py|\.yaml|/))`", table):
        folder = "configs" if name.endswith(".yaml") else "explllm"
        assert list(repository.glob(f"{folder}/{name.removeprefix('configs/')}")), name


@pytest.fixture(scope="module")
def docs_folder(reference_data, tmp_path_factory):
    """What the pages assume: a folder of faces by class with action units, one picture, a detector, a landmarker."""
    for package in ("insightface", "mediapipe"):
        pytest.importorskip(package, reason='the pages need pip install "explllm[faces,aus]"')
    folder = tmp_path_factory.mktemp("docs")
    source = reference_data / "faces"
    with (source / "action_units.csv").open() as stream:
        rows = {row["file"]: row for row in csv.DictReader(stream)}
    kept = []
    for split, count in (("train", 6), ("test", 3)):
        for place in sorted((source / split).iterdir()):
            names = (f"{split}/{place.name}/{file.name}" for file in sorted(place.iterdir()))
            for name in [name for name in names if name in rows][:count]:
                (folder / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / name, folder / "faces" / name)
                kept.append(rows[name])
    with (folder / "faces" / "action_units.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, kept[0])
        table.writeheader()
        table.writerows(kept)
    shutil.copy(folder / "faces" / kept[0]["file"], folder / "face.jpg")
    shutil.copy(reference_data / "detector" / "scrfd_500m_bnkps.onnx", folder / "scrfd.onnx")
    shutil.copy(reference_data / "landmarker" / "face_landmarker.task", folder)
    return folder


@pytest.mark.slow
def test_commands_and_python_of_every_page_run(repository, docs_folder, engine_server, monkeypatch):
    """All pages in order, in one folder; a server on loopback plays the language model."""
    monkeypatch.chdir(docs_folder)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-key-for-the-loopback-server")
    ran = 0
    for page in PAGES:
        names: dict = {}  # the blocks of a page build on each other
        for block in blocks(repository, page):
            if not block.runs:
                continue
            if block.language == "bash":
                for words in block.commands:
                    words = [engine_server.url if word.startswith("http://localhost") else word for word in words]
                    words = [{"FOLDER": "faces", "my-model": "scripted"}.get(word, word) for word in words]
                    # 20 steps: fewer leave texts empty, which `score` refuses.
                    quick = ["--trainer.max_epochs", "1", "--data.batch_size", "4", "--data.micro_batch_size", "4"]
                    quick = quick if words[0] == "fit" else []
                    assert main([*words, *quick]) == 0, (page, words)
                    ran += 1
                    if words[0] == "test" and not os.path.exists("runs/other"):
                        shutil.copytree("runs/faces", "runs/other")
            elif block.language == "python":
                exec(compile(block.code, page, "exec"), names)
                ran += 1
    assert ran >= 15
