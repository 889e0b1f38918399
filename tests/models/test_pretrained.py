"""Base weights: every file format of the hub, from folders and by the hub's client."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

from explllm.core.errors import CheckpointError, ConfigError
from explllm.models.build import NetworkSettings, build
from explllm.models.pretrained import load_language, load_vision
from explllm.models.storage import upload

INDEX = "pytorch_model.bin.index.json"


def write_dino(folder):
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    size = {"height": 56, "width": 56}
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": size, "image_mean": [0.1, 0.2, 0.3]}))


def write_vicuna(folder, golden):
    """Write the files of ``lmsys/vicuna-7b-v1.5`` at a small size: two ``.bin`` shards, a SentencePiece tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    language = LlamaForCausalLM(config).half()
    language.config.save_pretrained(folder)
    weights = language.state_dict()
    names, weight_map = list(weights), {}
    for number in range(2):
        shard = f"pytorch_model-{number + 1:05}-of-00002.bin"
        torch.save({name: weights[name] for name in names[number::2]}, folder / shard)
        weight_map |= dict.fromkeys(names[number::2], shard)
    size = sum(value.numel() * 2 for value in weights.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}))
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        shutil.copyfile(golden / "checkpoint" / name, folder / name)
    generation = json.loads((folder / "generation_config.json").read_text())
    # Without `do_sample`, as in the released file.
    (folder / "generation_config.json").write_text(json.dumps({**generation, "temperature": 0.9, "top_p": 0.6}))
    return weights


@pytest.fixture
def hub(golden, tmp_path):
    """A folder with the repositories ``test/dino`` and ``test/vicuna``."""
    write_dino(tmp_path / "hub/test/dino")
    (tmp_path / "hub/test/vicuna").mkdir()
    write_vicuna(tmp_path / "hub/test/vicuna", golden)
    return tmp_path / "hub"


def test_sharded_bin_files_with_a_sentencepiece_tokenizer(hub):
    folder = hub / "test/vicuna"
    language = load_language(str(folder), None, None)
    assert language.dtype == torch.float16
    shards = [torch.load(folder / f"pytorch_model-0000{number}-of-00002.bin") for number in (1, 2)]
    for name, value in {**shards[0], **shards[1]}.items():
        assert torch.equal(language.state_dict()[name], value), name
    model = build(NetworkSettings(vision=str(hub / "test/dino"), language=str(folder), **SETTINGS))
    assert (model.image.size, model.image.mean) == (56, (0.1, 0.2, 0.3))
    assert model.conversations.tokenizer.convert_ids_to_tokens(319) == "▁A"  # Llama's vocabulary
    assert {weight.dtype for weight in model.language.parameters()} == {torch.bfloat16, torch.float32}


def test_vicunas_generation_settings_are_saved(hub, tmp_path):
    model = build(NetworkSettings(vision=str(hub / "test/dino"), language=str(hub / "test/vicuna"), **SETTINGS))
    model.save_pretrained(tmp_path / "own", include_base=True)
    saved = json.loads((tmp_path / "own/language/generation_config.json").read_text())
    # transformers before 5.23 writes a temperature only with `do_sample`.
    assert (saved["temperature"], saved["top_p"], saved["do_sample"]) == (0.9, 0.6, True)


def test_repositories_that_are_not_complete(hub, monkeypatch):
    folder = hub / "test/vicuna"
    settings = NetworkSettings(vision=str(hub / "test/dino"), language=str(folder), **SETTINGS)
    # A padding token without an embedding, as in some Llama repositories.
    (folder / "added_tokens.json").write_text('{"<pad>": 32000}')
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    known = {str(number): {"content": name, "special": True} for number, name in enumerate(("<unk>", "<s>", "</s>"))}
    tokenizer |= {"pad_token": "<pad>", "added_tokens_decoder": {**known, "32000": {"content": "<pad>"}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert build(settings).conversations.pad_token_id < 32000
    (folder / "tokenizer.model").unlink()
    with pytest.raises(ConfigError, match=r"the tokenizer has no vocabulary.*test/vicuna"):
        build(settings)
    # Code of a repository never runs, whatever the user answers.
    monkeypatch.setattr("builtins.input", lambda _: "y")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "unknown", "auto_map": {"AutoConfig": "configuration.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration.py").write_text("import os\nos.mkdir('trap')")
    monkeypatch.chdir(hub)
    with pytest.raises(CheckpointError, match="custom code"):
        build(settings)
    assert not (hub / "trap").exists()


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trap",)


def test_damaged_bin_files(hub, monkeypatch):
    monkeypatch.chdir(hub)
    folder = hub / "test/vicuna"
    shard = folder / "pytorch_model-00001-of-00002.bin"
    weights = torch.load(shard)
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="the base model cannot be loaded"):
        load_language(str(folder), None, None)
    torch.save({**weights, "lm_head.weight": Trap()}, shard)
    with pytest.raises(CheckpointError, match="contain objects other than tensors"):
        load_language(str(folder), None, None)
    assert not (hub / "trap").exists()
    weights.pop("model.embed_tokens.weight")
    torch.save(weights, shard)
    with pytest.raises(CheckpointError, match="lack 1 weights, first model.embed_tokens.weight"):
        load_language(str(folder), None, None)


def test_weights_that_an_encoder_may_lack(tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)  # as many repositories have it
    load_vision(str(tmp_path), None, None)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("layernorm.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="first layernorm.weight"):
        load_vision(str(tmp_path), None, None)


SETTINGS = {"labels": "rafdb", "chat_format": "vicuna"}
SCRIPT = """
import json, torch
from pathlib import Path
from explllm import ExpLLM
from explllm.core.errors import MissingPathError
from explllm.models.build import NetworkSettings, build, build_config

def total(model):
    return float(sum(weight.double().abs().sum() for weight in model.parameters()))

torch.manual_seed(0)
model = build(NetworkSettings(vision="test/dino", language="test/vicuna", **SETTINGS))
model.save_pretrained("small", push_to_hub=True, repo_id="test/small")
print(model.config.text_revision, model.config.vision_revision)
try:
    ExpLLM.from_pretrained("test/small", cache_dir="cache", local_files_only=True)
except MissingPathError:
    print("not downloaded yet")
downloaded = ExpLLM.from_pretrained("test/small", cache_dir="cache", token="secret")
again = ExpLLM.from_pretrained("test/small", cache_dir="cache", local_files_only=True)
config = Path("small/config.json")
config.write_text(json.dumps({**json.loads(config.read_text()), "vision_revision": "v1"}))
build_config(NetworkSettings(vision="test/dino", language="test/vicuna", **SETTINGS), init_from="small")
print(json.dumps([total(model), total(downloaded), total(again)]))
"""
RESETS = """
from explllm import ExpLLM
from explllm.core.errors import InputError
from explllm.models.pretrained import image_preset, load_language

loads = (
    lambda: image_preset("test/dino", None),
    lambda: load_language("test/vicuna", None, None),
    lambda: ExpLLM.from_pretrained("test/small", cache_dir="another"),
)
for load in loads:
    try:
        load()
    except InputError as error:
        print(error)
"""


def test_download_from_a_hub(hub, hub_server, tmp_path):
    server = hub_server(hub, token="secret")
    variables = {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "secret",
    }
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}

    def printed(script):
        command, options = [sys.executable, "-c", script], {"capture_output": True, "text": True, "cwd": tmp_path}
        run = subprocess.run(command, env=environment | variables, **options)
        assert run.returncode == 0, run.stderr
        return run.stdout.splitlines()

    revisions, missing, totals = printed(f"SETTINGS = {SETTINGS}\n{SCRIPT}")[-3:]
    # The saved configuration names the commit that was downloaded, not the branch.
    assert revisions == f"{server.commit} {server.commit}"
    # A model that starts from another one uses the same revisions of the base models.
    assert ("GET", "/api/models/test/dino/revision/v1") in server.requests
    torch.manual_seed(0)
    local = build(NetworkSettings(vision=str(hub / "test/dino"), language=str(hub / "test/vicuna"), **SETTINGS))
    total = float(sum(weight.double().abs().sum() for weight in local.parameters()))
    assert json.loads(totals) == pytest.approx([total] * 3, rel=1e-9)
    assert missing == "not downloaded yet"
    # No conversion by the service on the hub is requested.
    assert not [path for _, path in server.requests if "safetensors/convert" in path or "discussions" in path]
    local.save_pretrained(tmp_path / "local")
    with pytest.raises(CheckpointError, match="in a folder on this machine"):
        upload(tmp_path / "local", "test/local")
    for name in ("preprocessor_config.json", "pytorch_model-*.bin"):
        for file in (tmp_path / "home").rglob(name):
            file.resolve().unlink()
    server.break_after, server.resets = [30] * 9, True
    for line, name in zip(printed(RESETS), ("dino", "vicuna", "small"), strict=True):
        assert f"Connection reset by peer [test/{name}]" in line
