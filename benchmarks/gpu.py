"""The paper's 7B setup on one GPU, with random weights: python benchmarks/gpu.py.

Measures the GPU's matrix multiplication rate and memory bandwidth; training, recognition and explanation, next to the
same work with Hugging Face's Llava and peft; and training with 4-bit weights in 24 GB. Compares `fsdp2` with `ddp`.
Weights are created on the device. The floating-point operations of a training step and of the prefill for recognition
are counted, recomputation included. With ``--size tiny --device cpu`` the script runs in seconds on a CPU; its numbers
are then meaningless.
"""

import argparse
import gc
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from host import environment
from peer import llava_settings
from peft import get_peft_model
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForCausalLM, LlavaForConditionalGeneration

from explllm import ExpLLM
from explllm.conversation.messages import explanation, recognition
from explllm.models.build import ARCHITECTURES, NetworkSettings, build, build_config, build_on_meta
from explllm.models.lora import LoraSettings
from explllm.models.loss import LossSettings

SMALL_GPU = 24e9
"""Memory limit for training with 4-bit weights, in bytes."""


@dataclass(frozen=True)
class Size:
    """Sizes of the model and of the jobs."""

    vision: dict[str, Any]
    """Fields of the encoder's configuration."""
    language: dict[str, Any]
    """Fields of the language model's configuration."""
    matrix: int
    """Number of rows and columns of the matrices for measuring the matrix multiplication rate."""
    copied: int
    """Size in bytes of the tensor for measuring the bandwidth."""
    vocabulary: int = 32_000
    """Rows of the embedding table."""
    micro_batch: int = 4
    """Conversations in a micro-batch; configs/rafdb.yaml has 4."""
    text: int = 384
    """Text tokens of a conversation, as many as in a long CoT conversation."""
    supervised: int = 300
    """Supervised tokens, at the end of each conversation."""
    recognized: int = 64
    """Number of faces recognized together."""
    explained: int = 32
    """Number of faces explained together."""
    answer: int = 128
    """Tokens of an explanation."""
    repeats: int = 5
    """Runs of each job; the median is reported."""


SIZES = {
    "7b": Size(
        dict(ARCHITECTURES["facebook/dinov2-large"]), dict(ARCHITECTURES["lmsys/vicuna-7b-v1.5"]), 8192, 1 << 30
    ),
    "tiny": Size(
        {"model_type": "dinov2", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56},
        {
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
        },
        128,
        1 << 20,
        vocabulary=1200,
        micro_batch=2,
        text=16,
        supervised=8,
        recognized=2,
        explained=2,
        answer=4,
        repeats=1,
    ),
}


@dataclass
class Bench:
    """The device, the sizes, and the results that several measurements share."""

    device: torch.device
    size: Size
    folder: Path
    matrix_rate: float = 0.0
    """Floating-point operations per second of large bfloat16 matrix products."""
    bandwidth: float = 0.0
    """Bytes per second that the device reads and writes in a copy."""
    training_flops: float | None = None
    """Floating-point operations of a training step of our model."""
    failures: int = 0
    pixels: int = field(init=False)

    def __post_init__(self) -> None:
        """Limit the image size to that of the encoder."""
        self.pixels = min(224, self.size.vision["image_size"])

    def row(self, name: str, value: str, share: str = "") -> None:
        """Print a row of the table."""
        print(f"| {name} | {value} | {share} |", flush=True)

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Free the memory before and after a measurement; report an error as a row."""
        self.free()
        try:
            yield
        except Exception as error:  # one failed measurement must not stop the others
            self.failures += 1
            self.row(name, f"failed: {type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}")
        self.free()

    def free(self) -> None:
        """Free memory and reset the recorded peak."""
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> str:
        """Return the peak memory since `free`."""
        return f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if self.device.type == "cuda" else "not measured"

    def seconds(self, job: Callable[[], Any]) -> float:
        """Return the median time of a job, after one warm-up run."""
        times = []
        for _ in range(self.size.repeats + 1):
            self.synchronize()
            start = perf_counter()
            job()
            self.synchronize()
            times.append(perf_counter() - start)
        return median(times[1:])

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def settings(self, **changes: Any) -> NetworkSettings:
        """Return the paper's settings at this size."""
        parts = {"vision": self.size.vision, "language": self.size.language, "image_size": self.pixels}
        return NetworkSettings(
            **{**parts, "labels": "rafdb", "chat_format": "vicuna", "image_preset": "dinov2", **changes}
        )

    def language(self, config: Any) -> Any:
        """Create the language model on the device."""
        with self.device:
            return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()

    def our_model(self) -> ExpLLM:
        """Create an ExpLLM on the device: frozen weights in bfloat16, LoRA and projector in float32."""
        torch.manual_seed(0)
        config, tokenizer = build_config(self.settings())
        config.text_config.vocab_size = self.size.vocabulary
        with self.device:
            vision = AutoModel.from_config(config.vision_config, dtype=torch.bfloat16)
            return ExpLLM(config, tokenizer, vision, self.language(config.text_config))

    def peer_model(self, config: Any) -> nn.Module:
        """Create a Llava of the same size, with peft, on the device."""
        torch.manual_seed(0)
        llava, lora = llava_settings(
            config.vision_config, config.text_config, config.image_token_id, config.image_tokens
        )
        with self.device:
            model = LlavaForConditionalGeneration._from_config(llava, dtype=torch.bfloat16)
            return get_peft_model(model, lora).eval()

    def images(self, count: int) -> torch.Tensor:
        """Return random images."""
        return torch.randn(count, 3, self.pixels, self.pixels, device=self.device)

    def conversations(self, config: Any) -> dict[str, torch.Tensor]:
        """Return a micro-batch of random conversations, for our model and the peer."""
        rows, text = self.size.micro_batch, self.size.text
        image = torch.full((rows, config.image_tokens), config.image_token_id)
        ids = torch.cat([image, torch.randint(5, config.image_token_id, (rows, text))], dim=1)
        labels = ids.clone()
        labels[:, : -self.size.supervised] = -100
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        return {**{name: value.to(self.device) for name, value in batch.items()}, "pixel_values": self.images(rows)}

    def flops(self, job: Callable[[], Any]) -> float:
        """Count the floating-point operations of a job."""
        with FlopCounterMode(display=False) as counter:
            job()
        return counter.get_total_flops()

    def share(self, flops: float, seconds: float) -> str:
        """Return the share of the matrix multiplication rate that a job reaches."""
        return f"{flops / seconds / self.matrix_rate:.0%} of the matrix rate"


def measure_device(bench: Bench) -> None:
    """Measure the matrix multiplication rate and the memory bandwidth."""
    rows = bench.size.matrix
    left, right = (torch.randn(rows, rows, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    bench.matrix_rate = 2 * rows**3 / bench.seconds(lambda: left @ right)
    bench.row("matrix product, bfloat16", f"{bench.matrix_rate / 1e12:.1f} TFLOP/s")
    source = torch.empty(bench.size.copied, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    bench.bandwidth = 2 * source.nbytes / bench.seconds(lambda: target.copy_(source))
    bench.row("memory bandwidth", f"{bench.bandwidth / 1e9:.0f} GB/s")


def measure_training(
    bench: Bench, name: str, model: nn.Module, batch: dict[str, Any], flops: float | None = None, **options: Any
) -> float:
    """Measure training steps with gradient checkpointing; return the operations of one step, counted unless given."""
    model.train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)

    def step() -> None:
        model(**batch, **options).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    flops, seconds = flops or bench.flops(step), bench.seconds(step)
    tokens = batch["input_ids"].numel()
    bench.row(
        f"training, {name}", f"{tokens / seconds:,.0f} tokens/s, peak {bench.peak()}", bench.share(flops, seconds)
    )
    model.eval()
    return flops


def measure_ours(bench: Bench) -> Any:
    """Measure our model; return its configuration and its conversation encoder."""
    model = bench.our_model()
    model.gradient_checkpointing_enable()
    options = {"training_loss": LossSettings()}
    bench.training_flops = measure_training(bench, "explllm", model, bench.conversations(model.config), **options)
    with bench.section("memory of training, computed by describe"):
        compute_memory(bench)

    faces, prompt = bench.images(bench.size.recognized), model.conversations.encode_prompt(recognition())
    ids = torch.tensor(prompt, device=bench.device).expand(len(faces), -1)

    @torch.inference_mode()
    def prefill() -> None:
        embeds = model.embed(ids, model.encode_image(faces))
        model.language(inputs_embeds=embeds, use_cache=False, logits_to_keep=1)

    flops = bench.flops(prefill)
    bench.free()
    seconds = bench.seconds(lambda: model.recognize_pixels(faces))
    value = f"{len(faces) / seconds:,.1f} faces/s, peak {bench.peak()}"
    bench.row(f"recognition, explllm, batch {len(faces)}", value, f"bare prefill: {bench.share(flops, seconds)}")
    faces, label = bench.images(bench.size.explained), model.labels[0]
    bench.free()
    # Repeated runs would draft the first run's texts, but the bound below assumes one read of the weights per token.
    model.speculate = False
    seconds = bench.seconds(lambda: model.explain_pixels(faces, [label] * len(faces), bench.size.answer))
    explanation_row(bench, "explllm", model.language, seconds)
    return model.config, model.conversations


def compute_memory(bench: Bench) -> None:
    """Print the training memory that `explllm describe` computes, for comparison with the measured value."""
    # Imported here: a missing training library then affects only this row.
    from explllm.training.activations import activation_bytes
    from explllm.training.footprint import estimate_memory

    meta = build_on_meta(bench.settings())
    activations = activation_bytes(meta, torch.bfloat16, bench.size.text, checkpointing=True)
    memory = estimate_memory(meta, bench.settings().resolved(), "ddp", 1, bench.size.micro_batch, activations)
    bench.row("memory of training, computed by describe", f"{memory.total - memory.other:.2f} GB and the framework's")


def explanation_row(bench: Bench, name: str, language: nn.Module, seconds: float) -> None:
    """Print the rate of explanations, and its ratio to the bound at which the weights are read once per token."""
    embedding = language.get_input_embeddings().weight.nbytes
    step = (sum(weight.nbytes for weight in language.parameters()) - embedding) / bench.bandwidth
    share = f"{step * bench.size.answer / seconds:.0%} of reading the weights once per token"
    tokens = bench.size.explained * bench.size.answer
    value = f"{tokens / seconds:,.0f} tokens/s, peak {bench.peak()}"
    bench.row(f"explanation, {name}, batch {bench.size.explained}, {bench.size.answer} tokens", value, share)


def measure_peer(bench: Bench, config: Any, conversations: Any) -> None:
    """Measure the same jobs with the peer."""
    model = bench.peer_model(config)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    measure_training(bench, "Hugging Face Llava and peft", model, bench.conversations(config))
    model.gradient_checkpointing_disable()
    for name, messages, count, tokens in (
        ("recognition", recognition(), bench.size.recognized, 4),
        ("explanation", explanation("Happiness"), bench.size.explained, bench.size.answer),
    ):
        ids = torch.tensor(conversations.encode_prompt(messages), device=bench.device).expand(count, -1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs["pixel_values"] = bench.images(count).to(torch.bfloat16)
        bench.free()

        def generate(inputs: dict[str, Any] = inputs, tokens: int = tokens) -> None:
            model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)

        seconds = bench.seconds(generate)
        if name == "recognition":
            value = f"{count / seconds:,.1f} faces/s, peak {bench.peak()}"
            bench.row(f"recognition, Hugging Face generate of {tokens} tokens, batch {count}", value)
        else:
            explanation_row(bench, "Hugging Face generate", model.get_base_model().model.language_model, seconds)


def save_base(bench: Bench, folder: Path) -> None:
    """Create a language model with random weights on the device, and save it in Hugging Face's format."""
    config, tokenizer = build_config(bench.settings())
    config.text_config.vocab_size = bench.size.vocabulary
    torch.manual_seed(0)
    bench.language(config.text_config).save_pretrained(folder, max_shard_size="2GB")
    tokenizer.save_pretrained(folder)


def measure_four_bit(bench: Bench) -> None:
    """Train with 4-bit base weights within the memory of a 24 GB GPU."""
    if importlib.util.find_spec("bitsandbytes") is None:
        bench.row("training, explllm, 4-bit base weights", "not measured: bitsandbytes is not installed")
        return
    save_base(bench, bench.folder / "language")
    bench.free()
    limited = bench.device.type == "cuda"
    if limited:
        total = torch.cuda.get_device_properties(bench.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, SMALL_GPU / total))
    try:
        with bench.device:
            model = build(bench.settings(language=str(bench.folder / "language"), load_in_4bit=True))
        for weight in model.vision.parameters():  # the type in which pretrained weights are loaded
            if not weight.requires_grad:
                weight.data = weight.data.to(torch.bfloat16)
        model.gradient_checkpointing_enable()
        name = "explllm, 4-bit base weights" + (f", limited to {SMALL_GPU / 1e9:.0f} GB" if limited else "")
        # Matrix products of bitsandbytes are not counted; the step has as many operations as the bfloat16 step.
        options = {"flops": bench.training_flops, "training_loss": LossSettings()}
        measure_training(bench, name, model, bench.conversations(model.config), **options)
    finally:
        if limited:
            torch.cuda.set_per_process_memory_fraction(1.0)


def compare_strategies(bench: Bench, steps: int = 5) -> None:
    """Train a tiny model with a frozen bfloat16 base under `ddp` and under `fsdp2`, and compare the losses."""
    from lightning.pytorch import Callback, Trainer, seed_everything

    from explllm.training.task import ExpLLMTask

    class Losses(Callback):
        def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *_: Any) -> None:
            losses[strategy].append(float(outputs["loss"]))

    tiny = Bench(bench.device, SIZES["tiny"], bench.folder)
    save_base(tiny, bench.folder / "tiny")
    losses: dict[str, list[float]] = {"ddp": [], "fsdp2": []}
    for strategy in losses:
        seed_everything(0, verbose=False)
        lora = LoraSettings(dropout=0.0)
        settings = tiny.settings(language=str(bench.folder / "tiny"), vision_lora=lora, language_lora=lora)
        task = ExpLLMTask(settings, gradient_checkpointing=True)
        batches = [tiny.conversations(task.config) for _ in range(steps)]
        rows = torch.arange(tiny.size.micro_batch)
        metadata = {"rows": rows, "readable": rows >= 0, "unreadable": [], "expressions": rows}
        trainer = Trainer(
            strategy=strategy,
            accelerator="gpu" if bench.device.type == "cuda" else "cpu",
            devices=1 if bench.device.index is None else [bench.device.index],
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Losses()],
            gradient_clip_val=1.0,
        )
        # On a GPU, Lightning would build the model under a different default device, and so with different random
        # weights.
        task.configure_model()
        trainer.fit(task, DataLoader([{**batch, **metadata} for batch in batches], batch_size=None))
        torch.distributed.destroy_process_group()
    difference = max(abs(one - two) for one, two in zip(*losses.values(), strict=True))
    if len(losses["ddp"]) != steps or not difference <= 1e-3:
        raise ArithmeticError(f"losses differ: {losses}")
    bench.row(f"fsdp2 beside ddp on one device, {steps} steps", f"maximum difference of losses {difference:.1e}")


def main() -> None:
    """Measure and print a table. Exit with status 1 if a measurement failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="7b", help="size of the model (default: 7b)")
    parser.add_argument("--device", default="cuda", help="device (default: cuda)")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; use --size tiny --device cpu to try the script")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{environment()}, {name}, size {options.size}\n")
    print("| measurement | value | share |\n|---|---|---|")
    with TemporaryDirectory() as folder:
        bench = Bench(device, SIZES[options.size], Path(folder))
        measure_device(bench)
        ours: Any = None
        with bench.section("explllm"):
            ours = measure_ours(bench)
        if ours is not None:
            with bench.section("Hugging Face Llava and peft"):
                measure_peer(bench, *ours)
        with bench.section("training, explllm, 4-bit base weights"):
            measure_four_bit(bench)
        with bench.section("fsdp2 beside ddp"):
            compare_strategies(bench)
    sys.exit(1 if bench.failures else 0)


if __name__ == "__main__":
    main()
