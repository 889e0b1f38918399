import json
import pickle

import pytest
import torch

from explllm.conversation.encoder import IGNORED, ConversationEncoder
from explllm.conversation.messages import (
    EXPLAIN,
    IMAGE_TOKEN,
    RECOGNIZE,
    TEMPLATES,
    caption,
    chat_template,
    conversation,
    explanation,
    recognition,
)
from explllm.conversation.tokenizer import load_tokenizer, train_tokenizer
from explllm.core.errors import ConfigError

COT = "**Key Observations:** The left brow is lowered.\n\n**Conclusion:** This is anger."


@pytest.fixture(scope="module")
def llama(reference_data):
    return reference_data / "tokenizer" / "llama2_tokenizer.model"


@pytest.fixture(scope="module")
def small():
    texts = [f"The left brow is slightly lowered {number}. {COT}" for number in range(50)]
    return train_tokenizer(texts, ["Anger", "Happiness"], 600, "plain")


@pytest.mark.parametrize("kind", ["emo", "des", "des_emo_first"])
def test_ids_and_labels_equal_the_released_code(golden, kind):
    records = {record["file_name"]: record for record in json.loads((golden / "records.json").read_text())}
    items = torch.load(golden / "golden.pt", weights_only=True)["items"][kind]
    encoder = ConversationEncoder(load_tokenizer(golden / "checkpoint", "expllm"), 256)
    for item in items:
        record = records[item["file_name"]]
        messages = {
            "emo": recognition(record["emo"]),
            "des": conversation([(EXPLAIN, record["description"]), (RECOGNIZE, record["emo"])]),
            "des_emo_first": explanation(record["emo"], record["description"]),
        }[kind]
        encoded = encoder.encode(messages)
        assert list(encoded.input_ids) == item["input_ids"].tolist()
        assert list(encoded.labels) == item["labels"].tolist()


@pytest.mark.parametrize(("kind", "name"), [("emo", "emo"), ("des", "des")])
def test_test_prompts_equal_the_released_code(golden, kind, name):
    held = torch.load(golden / "golden.pt", weights_only=True)["eval"][name]
    records = json.loads((golden / "records.json").read_text())
    encoder = ConversationEncoder(load_tokenizer(golden / "checkpoint", "expllm"), 256)
    ours = {tuple(encoder.encode_prompt(recognition()))}
    if kind == "des":
        ours = {tuple(encoder.encode_prompt(explanation(record["emo"]))) for record in records}
    for ids, mask in zip(held["input_ids"], held["attention_mask"], strict=True):
        assert tuple(ids[mask.bool()].tolist()) in ours


@pytest.mark.parametrize("chat_format", TEMPLATES)
def test_every_answer_token_and_its_end_are_supervised_and_nothing_else(llama, chat_format):
    encoder = ConversationEncoder(load_tokenizer(llama, chat_format), 16)
    rounds = [(RECOGNIZE, "Happiness"), (EXPLAIN, COT), (RECOGNIZE, "Anger")]
    for count in (1, 2, 3):
        encoded = encoder.encode(conversation(rounds[:count]))
        supervised = [token for token in encoded.labels if token != IGNORED]
        answers = encoder.tokenizer.decode(supervised, skip_special_tokens=False)
        expected = "".join(f"{answer}</s>" for _, answer in rounds[:count])
        assert answers.replace(" ", "") == expected.replace(" ", "")
        assert supervised.count(encoder.tokenizer.eos_token_id) == count
        assert all(label in (IGNORED, token) for token, label in zip(*encoded, strict=True))
        assert encoded.input_ids.count(encoder.image_token_id) == 16


@pytest.mark.parametrize("chat_format", TEMPLATES)
def test_one_tokenization_of_the_whole_text(llama, chat_format):
    tokenizer = load_tokenizer(llama, chat_format)
    encoder, messages = ConversationEncoder(tokenizer, 4), explanation("Fear", COT)
    text = tokenizer.apply_chat_template(messages, image_tokens=4, tokenize=False)
    assert text.count(IMAGE_TOKEN) == 4
    assert list(encoder.encode(messages).input_ids) == tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("chat_format", TEMPLATES)
def test_prompt_and_answer_make_the_conversation(small, llama, chat_format):
    for tokenizer in (load_tokenizer(llama, chat_format), small):
        encoder = ConversationEncoder(tokenizer, 4)
        whole = encoder.encode(recognition("Happiness"))
        answer = encoder.encode_answer(recognition(), "Happiness")
        assert encoder.encode_prompt(recognition()) + answer == whole.input_ids
        assert answer[-1] == tokenizer.eos_token_id


def test_template_is_saved_with_the_tokenizer(small, tmp_path):
    from transformers import AutoTokenizer

    small.save_pretrained(tmp_path)
    again = ConversationEncoder(AutoTokenizer.from_pretrained(tmp_path), 4)
    first = ConversationEncoder(small, 4)
    for messages in (recognition("Anger"), explanation("Anger", COT), caption("A face.")):
        assert again.encode(messages) == first.encode(messages)


def test_pickled_encoder(small):
    encoder = ConversationEncoder(small, 4)
    again = pickle.loads(pickle.dumps(encoder))
    assert again.encode(recognition("Anger")) == encoder.encode(recognition("Anger"))


def test_padding_sides(small):
    encoder = ConversationEncoder(small, 2)
    rows = [encoder.encode(recognition("Anger")), encoder.encode(explanation("Anger", COT))]
    for side in ("left", "right"):
        batch = encoder.batch(rows, side)
        for row, ids, mask, labels in zip(rows, batch.input_ids, batch.attention_mask, batch.labels, strict=True):
            assert tuple(ids[mask.bool()].tolist()) == row.input_ids
            assert tuple(labels[mask.bool()].tolist()) == row.labels
            assert (labels[~mask.bool()] == IGNORED).all()
        assert bool(batch.attention_mask[0, 0]) == (side == "right")


def test_small_tokenizer_is_deterministic_and_takes_any_text(small):
    texts = [f"The left brow is slightly lowered {number}. {COT}" for number in range(50)]
    again = train_tokenizer(texts, ["Anger", "Happiness"], 600, "plain")
    assert again.get_vocab() == small.get_vocab()
    for text in ("naïve 😀 ünïcode", "tabs\tand\nlines", COT):
        assert small.decode(small(text)["input_ids"]) == text
    assert len(small(" Happiness")["input_ids"]) == 1


def test_errors(small):
    with pytest.raises(ConfigError, match=r"unknown chat format 'chatml'.*vicuna"):
        chat_template("chatml")
    with pytest.raises(ConfigError, match="too small"):
        train_tokenizer(["a"], [], 100, "plain")
    encoder = ConversationEncoder(small, 2)
    with pytest.raises(ConfigError, match="placeholder"):
        encoder.encode(recognition(f"a {IMAGE_TOKEN} b"))
    twice = pickle.loads(pickle.dumps(small))
    twice.chat_template = small.chat_template.replace("image_tokens", "image_tokens * 2")
    with pytest.raises(ConfigError, match="writes 4 image placeholders, but the model expects 2"):
        ConversationEncoder(twice, 2).encode(recognition("Anger"))
    with pytest.raises(ConfigError, match="cannot load a tokenizer"):
        load_tokenizer("/nowhere/at/all", "vicuna")
