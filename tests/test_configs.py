"""Every shipped configuration parses, states what it claims, and is found by name."""

from pathlib import Path

import pytest
import yaml

from explllm.commands.config_files import read_config_file
from explllm.commands.lightning_cli import find_config, parse, shipped_configs
from explllm.core.errors import InputError, MissingPathError

CONFIGS = sorted(str(path.relative_to(shipped_configs())) for path in shipped_configs().rglob("*.yaml"))


def test_there_are_configs():
    assert {"demo.yaml", "demo_align.yaml", "faces.yaml", "rafdb.yaml", "align_cc3m.yaml"} <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_parses(name):
    config = parse("fit", ["--config", name])
    assert config.run_dir == f"runs/{Path(name).stem}"


def state(name):
    """What the paper and the released scripts name a number for, by configuration."""
    config = parse("fit", ["--config", name])
    model, data = config.model.init_args, config.data.init_args
    return {
        "epochs": config.trainer.max_epochs,
        "batch": data.batch_size,
        "rate": model.optimization.learning_rate,
        "decay": model.optimization.weight_decay,
        "warmup": model.optimization.warmup_steps or model.optimization.warmup_ratio,
        "fer": data.fer_share,
        "train": (model.network.vision_train, model.network.projector_train, model.network.language_train),
        "lora": (model.network.vision_lora.r, model.network.language_lora.alpha, model.network.language_lora.dropout),
        "labels": model.network.labels,
        "from": model.init_from,
        "order": data.cot_order,
        "manifest": data.get("manifest"),
        "drop_path": model.network.vision_drop_path,
        "image": model.network.image_preset,
        "chat": model.network.chat_format,
    }


RAFDB = {
    "epochs": 60,  # Section IV-A, as all of these
    "batch": 128,
    "rate": 5e-4,
    "decay": 0.05,
    "warmup": 20_000,
    "fer": 0.75,
    "train": ("lora", "full", "lora"),
    "lora": (8, 16, 0.05),
    "labels": "rafdb",
    "from": "runs/align_cc3m/model",
    "order": "label_first",
    "manifest": "data/rafdb/manifest.parquet",
    "drop_path": 0.0,
    "image": None,
    "chat": None,
}
AFFECTNET8 = {"epochs": 40, "labels": "affectnet8", "manifest": "data/affectnet/manifest8.parquet"}
AFFECTNET7 = {**AFFECTNET8, "labels": "affectnet7", "manifest": "data/affectnet/manifest7.parquet"}
RELEASED = {
    "epochs": 20,
    "warmup": 0.03,
    "from": None,
    "order": "cot_first",
    "drop_path": 0.4,
    "image": "released",
    "chat": "expllm",
}
FROM_RAFDB = {"from": "runs/rafdb/model", "manifest": "data/expw/manifest.parquet"}


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("rafdb.yaml", {}),
        ("affectnet8.yaml", AFFECTNET8),
        ("affectnet7.yaml", AFFECTNET7),
        ("rafdb_released.yaml", RELEASED),
        ("affectnet_released.yaml", {**RELEASED, **AFFECTNET8, "epochs": 30, "order": "random"}),
        ("ablation/ratio_100_0.yaml", {"fer": 1, "epochs": 240}),
        ("ablation/ratio_80_20.yaml", {"fer": 0.8}),
        ("ablation/ratio_75_25.yaml", {}),
        ("ablation/ratio_67_33.yaml", {"fer": 0.67}),
        ("ablation/ratio_0_100.yaml", {"fer": 0, "epochs": 240}),
        ("ablation/no_alignment.yaml", {"from": None}),
        ("ablation/no_vision_lora.yaml", {"train": ("frozen", "full", "lora")}),
        ("ablation/no_language_lora.yaml", {"train": ("lora", "full", "frozen")}),
        ("ablation/no_cot.yaml", {"fer": 1, "epochs": 240}),
        ("cross_expw.yaml", FROM_RAFDB),
        ("cross_affectnet7.yaml", {**FROM_RAFDB, "manifest": "data/affectnet/manifest7.parquet"}),
    ],
)
def test_the_papers_numbers(name, differs):
    assert state(name) == {**RAFDB, **differs}


def test_the_papers_first_stage():
    wanted = {
        "epochs": 1,
        "batch": 256,
        "rate": 5e-3,
        "decay": 0.0,
        "warmup": 500,
        "train": ("frozen", "full", "frozen"),
    }
    assert {key: state("align_cc3m.yaml")[key] for key in wanted} == wanted


def test_the_released_batch():
    data = parse("fit", ["--config", "rafdb_released.yaml"]).data.init_args
    assert data.batch_size == 1 * 16 * 8
    assert data.micro_batch_size == 1
    assert data.augment.class_path.endswith("ReleasedAugment")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_variant_states_only_what_differs(name):
    own = yaml.safe_load((shipped_configs() / name).read_text())
    base = own.pop("base", None)
    if base is None:
        return
    inherited = read_config_file((shipped_configs() / name).parent / base)

    def repeated(own, base, path=()):
        for key, value in own.items():
            if isinstance(value, dict) and isinstance(base.get(key), dict):
                yield from repeated(value, base[key], (*path, key))
            elif key in base and base[key] == value and value is not None:
                yield ".".join((*path, key))

    allowed = ["data.init_args.fer_share"] if name == "ablation/ratio_75_25.yaml" else []
    assert list(repeated(own, inherited)) == allowed


def test_inheritance(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.yaml").write_text("a: {b: 1, c: [1, 2]}\nd: {class_path: X, init_args: {e: 1}}\nrun_dir: runs/one")
    (tmp_path / "two.yaml").write_text("base: one.yaml\na: {c: [3]}\nd: {init_args: {f: 2}}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "three.yaml").write_text(
        "base: ../two.yaml\nd: {class_path: Y, init_args: null}\nrun_dir: mine"
    )
    assert read_config_file(tmp_path / "two.yaml") == {
        "a": {"b": 1, "c": [3]},
        "d": {"class_path": "X", "init_args": {"e": 1, "f": 2}},
        "run_dir": "runs/two",
    }
    three = read_config_file(tmp_path / "folder" / "three.yaml")
    assert (three["d"], three["run_dir"]) == ({"class_path": "Y", "init_args": {}}, "mine")
    (tmp_path / "four.yaml").write_text("base: demo.yaml")
    assert read_config_file(tmp_path / "four.yaml")["trainer"]["gradient_clip_val"] == 5.0


def test_a_base_with_another_class(small_settings, tmp_path, capsys):
    """What the new class accepts is inherited, the rest is listed, and nothing is guessed."""
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(small_settings))
    changes = {"root": "faces", "batch_size": 8}
    own = {"base": "base.yaml", "data": {"class_path": "FolderFaces", "init_args": changes}}
    (tmp_path / "folder.yaml").write_text(yaml.safe_dump(own))
    data = read_config_file(tmp_path / "folder.yaml")["data"]
    assert data == {
        "class_path": "FolderFaces",
        "init_args": {"micro_batch_size": 16, "augment": {"class_path": "Augment"}, "root": "faces", "batch_size": 8},
    }
    assert "FolderFaces, which does not accept the inherited folder, size, test, train, val" in capsys.readouterr().err
    own["data"] = {"class_path": "mine.Unknown"}
    (tmp_path / "unknown.yaml").write_text(yaml.safe_dump(own))
    with pytest.raises(InputError, match=r"data changes from DrawnFaces to mine.Unknown, and it is unknown which"):
        read_config_file(tmp_path / "unknown.yaml")
    own["data"]["init_args"] = None
    (tmp_path / "unknown.yaml").write_text(yaml.safe_dump(own))
    assert read_config_file(tmp_path / "unknown.yaml")["data"] == {"class_path": "mine.Unknown", "init_args": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: nowhere.yaml", "there is no configuration nowhere.yaml"),
        ("base: mine.yaml", "inherits from itself through mine.yaml"),
        ("base: [a]", r"base is \['a'\]"),
    ],
)
def test_wrong_bases(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        parse("fit", ["--config", "mine.yaml"])


def test_a_run_of_a_variant_runs_again(explllm, small_config, tmp_path):
    (tmp_path / "variant.yaml").write_text(f"base: {small_config}\ndata: {{init_args: {{fer_share: 1}}}}")
    once = ("--trainer.max_steps", 1)
    assert explllm("fit", "--config", "variant.yaml", *once).status == 0
    config = yaml.safe_load((tmp_path / "runs/variant/config.yaml").read_text())
    assert config["data"]["init_args"]["fer_share"] == 1
    assert explllm("fit", "--config", "runs/variant/config.yaml", *once, "--run_dir", "again").status == 0
    assert "unknown key data.walk" in explllm("fit", "--config", "variant.yaml", "--data.walk", "3").error


def test_configs_are_found_in_the_working_folder_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("demo.yaml") == shipped_configs() / "demo.yaml"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").write_text("{}")
    assert find_config("demo.yaml") == Path("configs/demo.yaml")
    (tmp_path / "demo.yaml").write_text("{}")
    assert find_config("demo.yaml") == Path("demo.yaml")
    with pytest.raises(
        MissingPathError, match=r"searched none.yaml, configs/none.yaml, .*shipped configuration: .*rafdb.yaml"
    ):
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
