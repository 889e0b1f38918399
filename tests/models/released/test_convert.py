"""Conversion checks every file and every weight of a released folder, and writes nothing on an error."""

import json
import os
import pickle
import re
import shutil

import pytest
import torch

from explllm import ExpLLM
from explllm.core.errors import CheckpointError, InputError, MissingPathError
from explllm.models.released.checkpoint import INDEX, SHARD, read_released_weights
from explllm.models.released.convert import convert_released, interpolate_positions


@pytest.fixture
def released(golden, tmp_path):
    """A copy of the released folder that a test may change."""
    folder = tmp_path / "released"
    shutil.copytree(golden / "checkpoint", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    return folder


@pytest.fixture
def refused(released, tmp_path):
    """Run a conversion that fails, check that it leaves no files, and return the error message."""

    def convert(kind=CheckpointError, **options):
        with pytest.raises(kind) as caught:
            convert_released(released, tmp_path / "out", **options)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["released"]
        return str(caught.value)

    return convert


def change(released, edit):
    weights = torch.load(released / SHARD, weights_only=True)
    edit(weights)
    torch.save(weights, released / SHARD)


def set_config(released, **fields):
    path = released / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def split(released, shards=3):
    """Write the weights as shards with an index, as transformers does above 10 GB."""
    weights = torch.load(released / SHARD, weights_only=True)
    (released / SHARD).unlink()
    names, weight_map = list(weights), {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        torch.save({name: weights[name] for name in names[number::shards]}, released / file)
        weight_map |= dict.fromkeys(names[number::shards], file)
    (released / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("form", ["shards", "before PyTorch 1.6"])
def test_file_formats(released, converted, tmp_path, form):
    if form == "shards":
        split(released)
    else:
        weights = torch.load(released / SHARD, weights_only=True)
        torch.save(weights, released / SHARD, _use_new_zipfile_serialization=False)
    convert_released(released, tmp_path / "out")
    assert files(tmp_path / "out") == files(converted)


def test_dtypes_and_preprocessing(converted):
    model = ExpLLM.from_pretrained(converted)
    assert model.config.chat_format == "expllm"
    assert (model.image.square, model.image.fill, model.image.antialias) == ("pad", (123, 117, 104), False)
    for name, weight in model.named_parameters():
        frozen_language = name.startswith("language") and "lora_" not in name
        assert weight.dtype == (torch.bfloat16 if frozen_language else torch.float32), name
    assert model.recognize(torch.zeros(40, 30, 3, dtype=torch.uint8).numpy())[0].probabilities


def test_without_lora(released, tmp_path):
    def drop(weights):
        for name in [name for name in weights if "lora_" in name]:
            del weights[name]

    change(released, drop)
    set_config(released, lora_llm_enable=False, lora_vision_enable=False)
    convert_released(released, tmp_path / "out")
    model = ExpLLM.from_pretrained(tmp_path / "out")
    assert (model.config.vision_train, model.config.text_train) == ("frozen", "frozen")
    assert not any("lora_" in name for name in model.state_dict())


def test_other_sizes(released, tmp_path):
    """Three encoder blocks, a position embedding of the image's grid, grouped keys and values."""

    def enlarge(weights):
        for name in [name for name in weights if ".blocks.1." in name]:
            weights[name.replace(".blocks.1.", ".blocks.2.")] = weights[name].clone() * 0.5
        weights["vision_model.pos_embed"] = torch.randn(1, 257, 32)
        for layer in range(2):
            prefix = f"model.layers.{layer}.self_attn"
            for name in (f"{prefix}.k_proj.weight", f"{prefix}.v_proj.weight", f"{prefix}.v_proj.lora_B"):
                weights[name] = weights[name][:32].clone()

    change(released, enlarge)
    set_config(released, num_key_value_heads=2)
    sizes = convert_released(released, tmp_path / "out", vision_heads=4)
    assert (sizes.vision_depth, sizes.vision_heads, sizes.key_value_heads, sizes.positions) == (3, 4, 2, 256)
    model = ExpLLM.from_pretrained(tmp_path / "out")
    weights = torch.load(released / SHARD, weights_only=True)
    assert torch.equal(model.vision.embeddings.position_embeddings, weights["vision_model.pos_embed"])
    assert model.config.vision_config.num_attention_heads == 4


def test_positions_are_interpolated_by_a_scale_factor():
    embedding = torch.randn(1, 1 + 37 * 37, 8)
    interpolated = interpolate_positions(embedding, 16)
    patches = embedding[:, 1:].view(1, 37, 37, 8).permute(0, 3, 1, 2)
    to_size = torch.nn.functional.interpolate(patches, size=(16, 16), mode="bicubic").permute(0, 2, 3, 1)
    assert interpolated.shape == (1, 257, 8)
    assert torch.equal(interpolated[:, 0], embedding[:, 0])
    assert (interpolated[:, 1:] - to_size.reshape(1, 256, 8)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.pop("model.layers.1.mlp.up_proj.weight"), r"1 missing, first model.layers.1.mlp.up_proj.weight"),
        (lambda w: w.pop("vision_model.cls_token"), r"vision_model.cls_token is missing"),
        (lambda w: w.update(extra=torch.zeros(2)), r"1 unexpected, first extra"),
        (
            lambda w: w.update({"vision_model.norm.bias": torch.zeros(7)}),
            r"1 of the wrong shape, first vision_model.norm.bias \(7,\), not \(32,\)",
        ),
        (lambda w: w.update({"mm_projector.0.bias": torch.zeros(64, dtype=torch.int64)}), "mm_projector.0.bias"),
        (lambda w: w.update({"vision_model.pos_embed": torch.zeros(1, 1371, 32)}), "not a square"),
        (lambda w: w.update({"vision_model.patch_embed.proj.weight": torch.zeros(32, 3, 9, 9)}), "256 patches"),
    ],
)
def test_every_weight_is_checked(released, refused, edit, message):
    change(released, edit)
    assert re.search(message, refused())


def test_lora_that_does_not_match_the_configuration(released, refused):
    set_config(released, lora_llm_r=4)
    message = refused()
    assert "first model.layers.0.self_attn.q_proj.lora_A (8, 64), not (4, 64)" in message
    assert "lora_llm_r 4" in message
    set_config(released, lora_llm_r=8, lora_vision_enable=False)
    assert "unexpected, first vision_model.blocks.0.attn.lora_" in refused()


@pytest.mark.parametrize("size", [0, 100, 1_000_000])
def test_a_truncated_file(released, refused, size):
    (released / SHARD).write_bytes((released / SHARD).read_bytes()[:size])
    assert SHARD in refused()


def test_a_truncated_shard(released, refused):
    split(released)
    shard = released / "pytorch_model-00002-of-00003.bin"
    shard.write_bytes(shard.read_bytes()[:-1000])
    assert shard.name in refused()


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trap",)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_pickled_objects_are_not_loaded(released, refused, tmp_path, monkeypatch, form):
    monkeypatch.chdir(released)
    if form == "torch":
        torch.save({"model.norm.weight": Trap()}, released / SHARD)
    else:
        (released / SHARD).write_bytes(pickle.dumps({"model.norm.weight": Trap()}))
    message = refused()
    assert not (released / "trap").exists()
    assert "they were not loaded" in message


def test_pickled_training_arguments_are_ignored(released, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (released / "training_args.bin").write_bytes(pickle.dumps(Trap()))
    convert_released(released, tmp_path / "out")
    assert not (tmp_path / "trap").exists()
    assert not (tmp_path / "out" / "training_args.bin").exists()


def test_an_index_that_does_not_match(released, refused):
    split(released)
    index = json.loads((released / INDEX).read_text())
    (released / "pytorch_model-00003-of-00003.bin").rename(released / "elsewhere.bin")
    assert "a shard is missing" in refused(MissingPathError)
    (released / "elsewhere.bin").rename(released / "pytorch_model-00003-of-00003.bin")
    name, shard = next(iter(index["weight_map"].items()))
    for changed, message in (
        ({**index["weight_map"], "more": shard}, "lacks more"),
        ({k: v for k, v in index["weight_map"].items() if k != name}, f"also holds {name}"),
        ({**index["weight_map"], "more": "../other.bin"}, "names a shard outside the folder"),
        ([], "has no weight map"),
    ):
        (released / INDEX).write_text(json.dumps({"weight_map": changed}))
        with pytest.raises(CheckpointError, match=message):
            read_released_weights(released)


def test_other_folders(released, refused, tmp_path):
    set_config(released, model_type="llava")
    assert "a model of type 'llava', not 'locllm'" in refused()
    set_config(released, model_type="explllm")
    assert "needs no conversion" in refused()
    set_config(released, model_type="locllm", hidden_size=None)
    assert "hidden_size: None" in refused()
    (released / "config.json").write_text("{")
    assert "not valid JSON" in refused()
    (released / "config.json").unlink()
    assert "config.json" in refused(MissingPathError)
    with pytest.raises(MissingPathError, match="the folder does not exist"):
        convert_released(tmp_path / "nothing", tmp_path / "out")


def test_a_tokenizer_without_the_patch_token(released, refused):
    (released / "added_tokens.json").unlink()
    assert "lacks the token <im_patch>; config.json has im_patch_token: 32000" in refused()
    (released / "added_tokens.json").write_text(json.dumps({"<im_patch>": 32000}))
    set_config(released, im_patch_token=32003)
    assert "has <im_patch> as 32000" in refused()
    (released / "tokenizer.model").write_bytes(b"no tokenizer")
    assert "the tokenizer cannot be read" in refused()
    (released / "tokenizer.model").unlink()
    assert "the folder has no tokenizer" in refused(MissingPathError)


def test_without_weights(released, refused):
    (released / SHARD).unlink()
    assert "the folder has no weights" in refused(MissingPathError)


def test_an_existing_folder_is_not_replaced(released, converted):
    with pytest.raises(CheckpointError, match="already exists"):
        convert_released(released, converted)


def test_opening_the_released_folder_names_the_command(released):
    with pytest.raises(InputError, match=r"explllm convert released .*released OUT"):
        ExpLLM.from_pretrained(released)


def test_the_commands(released, explllm, tmp_path):
    done = explllm("convert", "released", released, "out")
    assert done.status == 0
    assert "width 32, 2 blocks, 2 heads, LoRA of rank 8" in done.out
    assert "2 attention heads in the vision encoder of width 32" in " ".join(done.err.split())
    assert explllm("convert", "merge", "out", "merged").status == 0
    assert explllm("convert", "released", released, "merged_at_once", "--merge").status == 0
    assert files(tmp_path / "merged") == files(tmp_path / "merged_at_once")
    from transformers import AutoModel, AutoModelForCausalLM

    assert type(AutoModel.from_pretrained("merged/vision")).__name__ == "Dinov2Model"
    assert type(AutoModelForCausalLM.from_pretrained("merged/language")).__name__ == "LlamaForCausalLM"
    assert "already exists" in explllm("convert", "merge", "out", "merged").error
    assert "needs a subcommand" in explllm("convert").error
    assert (
        "--vision_heads is 0. Use at least 1."
        in explllm("convert", "released", released, "x", "--vision_heads", 0).error
    )
    assert "do not divide" in explllm("convert", "released", released, "x", "--vision_heads", 5).error
    assert not (tmp_path / "x").exists()
