"""Every shipped configuration parses, states what it claims, and is found by name."""

from pathlib import Path

import pytest

from explllm.core.errors import MissingPathError
from explllm.training.lightning_cli import find_config, parse, shipped_configs

CONFIGS = sorted(str(path.relative_to(shipped_configs())) for path in shipped_configs().rglob("*.yaml"))


def test_there_are_configs():
    assert {"demo.yaml", "demo_align.yaml", "faces.yaml", "rafdb.yaml", "align_cc3m.yaml"} <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_parses(name):
    config = parse("fit", ["--config", name])
    assert config.run_dir == f"runs/{Path(name).stem}"


def test_the_papers_second_stage():
    config = parse("fit", ["--config", "rafdb.yaml"])
    model, data = config.model.init_args, config.data.init_args
    assert (config.trainer.max_epochs, data.batch_size, data.fer_share) == (60, 128, 0.75)
    assert (model.optimization.learning_rate, model.optimization.weight_decay) == (5e-4, 0.05)
    assert model.optimization.warmup_steps == 20_000
    assert (model.network.language_lora.r, model.network.language_lora.alpha) == (8, 16)


def test_the_papers_first_stage():
    config = parse("fit", ["--config", "align_cc3m.yaml"])
    model, data = config.model.init_args, config.data.init_args
    assert (config.trainer.max_epochs, data.batch_size) == (1, 256)
    assert (model.optimization.learning_rate, model.optimization.weight_decay) == (5e-3, 0.0)
    assert model.optimization.warmup_steps == 500
    assert (model.network.vision_train, model.network.language_train) == ("frozen", "frozen")


def test_configs_are_found_in_the_working_folder_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("demo.yaml") == shipped_configs() / "demo.yaml"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").write_text("{}")
    assert find_config("demo.yaml") == Path("configs/demo.yaml")
    (tmp_path / "demo.yaml").write_text("{}")
    assert find_config("demo.yaml") == Path("demo.yaml")
    with pytest.raises(MissingPathError, match=r"looked for none.yaml, configs/none.yaml, .*shipped: .*rafdb.yaml"):
        find_config("none.yaml")


@pytest.mark.slow
def test_a_wheel_brings_the_configs(repository, tmp_path):
    import subprocess
    import sys
    import zipfile

    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(repository)],
        check=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"explllm/configs/{name}" for name in CONFIGS} <= names
    assert "explllm/conversation/templates/vicuna.jinja" in names
    assert "explllm/report/templates/report.html.jinja" in names
