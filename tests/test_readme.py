"""What the README shows is run: its commands on small real data, its Python as it stands."""

import re
import shlex
import shutil

import pytest

from explllm.cli import main
from explllm.core.manifest import Manifest


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def test_every_config_is_in_the_table_and_every_name_exists(readme, repository):
    shipped = {path.name for path in (repository / "configs").glob("*.yaml")}
    assert shipped == set(re.findall(r"`(\w+\.yaml)`", readme)) - {"config.yaml"}
    assert "`ablation/*.yaml`" in readme


def test_make_targets_exist(readme, repository):
    targets = re.findall(r"^(\w+):", (repository / "Makefile").read_text(), flags=re.M)
    named = {target for block in blocks(readme, "bash") for target in re.findall(r"^make (\w+)", block, flags=re.M)}
    assert named and named <= set(targets)


def test_layout_is_the_real_one(readme, repository):
    shown = re.search(r"explllm/\n(.*?)```", readme, flags=re.S).group(1)
    folders = {path.name for path in (repository / "explllm").iterdir() if (path / "__init__.py").is_file()}
    assert set(re.findall(r"^  (\w+)/", shown, flags=re.M)) == folders


@pytest.mark.slow
def test_commands_and_python_run(readme, drawn_faces, tmp_path, monkeypatch):
    """The commands of "Use" in order, then the Python beside them, with a folder of drawn faces for FOLDER."""
    manifest = Manifest.read(drawn_faces / "manifest.parquet")
    for row in manifest.frame.itertuples():
        place = tmp_path / "faces" / row.split / row.expression
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(drawn_faces / row.image, place)
    shutil.copy(next((tmp_path / "faces").rglob("*.png")), tmp_path / "face.jpg")
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks(readme, "bash") for line in block.splitlines() if line.startswith("explllm")]
    assert [command.split()[1] for command in commands] == ["fit", "test", "explain", "describe"]
    small = "--trainer.max_epochs 1 --data.batch_size 16 --data.fer_share 1"
    for command in commands:
        words = shlex.split(command.replace("FOLDER", "faces"))[1:]
        assert main([*words, *(shlex.split(small) if words[0] in ("fit", "test") else [])]) == 0
    shutil.copytree("runs/faces", "runs/demo")
    [code] = blocks(readme, "python")
    exec(compile(code, "README.md", "exec"), {})
