"""Two models of the same size: ours, and the one that a user would choose instead.

The peer is `LlavaForConditionalGeneration` with a DINOv2 tower and peft's LoRA. Both have the same layers, widths,
vocabulary, LoRA and tokens per conversation; all weights are random.
"""

from collections.abc import Callable
from random import Random
from time import perf_counter
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import Dinov2Config, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PretrainedConfig

from explllm import ExpLLM, Expression
from explllm.conversation.encoder import Encoded
from explllm.conversation.messages import explanation, recognition
from explllm.explanations.rule_writer import RuleWriter
from explllm.models.build import NetworkSettings, build
from explllm.models.drafts import Drafts
from explllm.models.loss import LossSettings

VISION = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 224, "patch_size": 14}
LANGUAGE = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
VOCABULARY = 32_000
IMAGE_TOKEN_ID = VOCABULARY - 1


def our_model() -> ExpLLM:
    """Return an ExpLLM with LoRA in both parts."""
    torch.manual_seed(0)
    model = build(
        NetworkSettings(
            preset="tiny",
            vision={"model_type": "dinov2", **VISION},
            vision_train="lora",
            language={"model_type": "llama", **LANGUAGE},
            language_train="lora",
            image_preset="dinov2",
            image_size=224,
            chat_format="vicuna",
            vocabulary=2000,
            labels="rafdb",
        )
    )
    model.language.resize_token_embeddings(VOCABULARY)
    return model


def train(model: ExpLLM, steps: int) -> None:
    """Train all language model weights on label and chain of thought, to get texts like those of a trained model.

    Args:
        model: A new model. It also receives the n-grams of the texts.
        steps: Optimizer steps of 8 conversations.
    """
    rows = conversations(model, "cot", 8 * steps)
    weights = list(model.language.parameters())
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights, lr=2e-3)
    for start in range(0, len(rows), 8):
        inputs = batch(model, rows[start : start + 8])
        model(**inputs, training_loss=LossSettings()).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.drafts = Drafts.of_texts(model.conversations.after_image(row.input_ids) for row in rows)


def llava_settings(
    vision: PretrainedConfig, language: PretrainedConfig, image_token_id: int, image_tokens: int
) -> tuple[LlavaConfig, LoraConfig]:
    """Return the configurations of a Llava with a trainable projector, and of LoRA in both parts' attention layers."""
    config = LlavaConfig(
        vision_config=vision,
        text_config=language,
        image_token_index=image_token_id,
        image_seq_length=image_tokens,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    lora = LoraConfig(
        r=8,
        lora_alpha=16,
        lora_dropout=0.05,
        target_modules=r".*\.(q_proj|v_proj|query|value)$",
        modules_to_save=["multi_modal_projector"],
    )
    return config, lora


def peer_model() -> torch.nn.Module:
    """Return a Llava model with LoRA in both parts and a trainable projector."""
    torch.manual_seed(0)
    language = LlamaConfig(**LANGUAGE, vocab_size=VOCABULARY)
    config, lora = llava_settings(Dinov2Config(**VISION), language, IMAGE_TOKEN_ID, 256)
    return get_peft_model(LlavaForConditionalGeneration(config), lora).eval()


def conversations(model: ExpLLM, kind: str, count: int) -> list[Encoded]:
    """Return encoded conversations of a kind (``fer`` or ``cot``) with texts of realistic length."""
    writer, labels = RuleWriter(), list(model.labels)
    rows = []
    for number in range(count):
        label: Expression = labels[number % len(labels)]
        if kind == "fer":
            messages = recognition(str(label))
        else:
            units = [0.1 * ((number + unit) % 9) for unit in range(24)]
            messages = explanation(str(label), writer.write(units, label, seed=number).text)
        rows.append(model.conversations.encode(messages))
    return rows


def batch(model: ExpLLM, rows: list[Encoded], for_peer: bool = False) -> dict[str, torch.Tensor]:
    """Return a padded batch with random images; `for_peer` replaces our image token with the peer's."""
    tokens = model.conversations.batch(rows, side="right")
    ids = tokens.input_ids
    if for_peer:
        ids = ids.masked_fill(ids == model.config.image_token_id, IMAGE_TOKEN_ID)
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values": torch.randn(len(rows), 3, 224, 224, generator=generator),
        "input_ids": ids,
        "attention_mask": tokens.attention_mask,
        "labels": tokens.labels,
    }


def interleaved(jobs: dict[str, Callable[[], Any]], repeats: int, items: int = 1) -> dict[str, list[float]]:
    """Run jobs in turn, after one warm-up each, and return their milliseconds per item.

    Each round is in random order: a short job is slower after one that has displaced its data from the caches.
    """
    for run in jobs.values():
        run()
    milliseconds: dict[str, list[float]] = {name: [] for name in jobs}
    order, generator = list(jobs), Random(0)
    for _ in range(repeats):
        generator.shuffle(order)
        for name in order:
            start = perf_counter()
            jobs[name]()
            milliseconds[name].append(1000 * (perf_counter() - start) / items)
    return milliseconds
