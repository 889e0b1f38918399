"""Memory of two ranks that load the same base model: python benchmarks/loading.py.

A language model of about 1 GB, in float16 like Vicuna's files, is sharded by `fsdp2` over two processes on the CPU
and converted to bfloat16. The script samples the sum of both processes' proportional set sizes (PSS), in which pages
mapped by both count once, and reports its peak, next to that of the resident set sizes (RSS). The memory before loading
(interpreter, libraries) is subtracted.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import IO

import peft  # noqa: F401  (the libraries count as memory before loading)
import torch
from host import environment
from lightning.pytorch import Callback, Trainer
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.initialization import no_init_weights

from explllm.models.build import NetworkSettings, small_tokenizer
from explllm.training.task import ExpLLMTask

WIDTH, VOCABULARY = 1024, 2000


def write_base(folder: Path, megabytes: int) -> int:
    """Write a base model of about this size, with arbitrary weights; return its size in bytes."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=2816, num_attention_heads=8, num_hidden_layers=1
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    block = sum(weight.nbytes // 2 for weight in model.model.layers.parameters())
    config.num_hidden_layers = max(megabytes * 1_000_000 // block, 1)
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    model.save_pretrained(folder)
    small_tokenizer(1000, "vicuna").save_pretrained(folder)
    return sum(weight.nbytes for weight in model.parameters())


class Announce(Callback):
    """Prints "ready" and waits for a line of input, before and after the model is built."""

    def setup(self, *_: object, **__: object) -> None:
        """Announce that loading begins."""
        self._wait()

    def on_fit_start(self, *_: object) -> None:
        """Announce that loading has ended."""
        self._wait()

    def _wait(self) -> None:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()


def load(base: str, strategy: str) -> None:
    """Build the model as one of the ranks of a run without training steps."""
    vision = {"model_type": "dinov2", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    network = NetworkSettings(vision=vision, language=base, chat_format="vicuna", labels="rafdb")
    trainer = Trainer(
        strategy=strategy,
        accelerator="cpu",
        devices=2,
        max_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Announce()],
    )
    trainer.fit(ExpLLMTask(network), train_dataloaders=[None])


def memory(process: int, kind: str = "Pss") -> int:
    """Return the memory of a process in bytes: ``Pss``, ``Rss`` or another field of Linux's smaps_rollup."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


def wait(output: IO[str]) -> None:
    """Wait until a rank is ready."""
    if not any(line == "ready\n" for line in output):
        raise SystemExit("a rank failed")


def measure(base: Path, strategy: str, port: int) -> dict[str, int]:
    """Return the peak memory that both ranks together add while they load the model, in bytes by kind."""
    ranks = []
    for rank in range(2):
        variables = {"LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks.append(
            subprocess.Popen(
                [sys.executable, __file__, "--load", str(base), "--strategy", strategy],
                env={**os.environ, **{name: str(value) for name, value in variables.items()}},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    pipes = [(rank.stdin, rank.stdout) for rank in ranks]
    try:
        for _, output in pipes:
            wait(output)
        before = {kind: sum(memory(rank.pid, kind) for rank in ranks) for kind in ("Pss", "Rss")}
        peak = dict.fromkeys(before, 0)
        for commands, _ in pipes:
            commands.write("\n")
            commands.flush()
        with ThreadPoolExecutor() as threads:
            loading = [threads.submit(wait, output) for _, output in pipes]
            while not all(rank.done() for rank in loading):
                for kind in before:
                    peak[kind] = max(peak[kind], sum(memory(rank.pid, kind) for rank in ranks) - before[kind])
                sleep(0.005)
            for rank in loading:
                rank.result()
        return peak
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the base (default: 1000)")
    parser.add_argument("--strategy", default="fsdp2", help="fsdp2 or ddp (default: fsdp2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load(options.load, options.strategy)
        return
    with TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        size = write_base(Path(folder), options.megabytes)
        port = free.getsockname()[1]
        free.close()
        peak = measure(Path(folder), options.strategy, port)
    if options.json:
        sys.stdout.write(json.dumps({"base": size, **peak}) + "\n")
        return
    print(f"{environment()}\n")
    print("| base, GB | strategy | PSS of both ranks, GB | of the base | RSS of both ranks, GB |")
    print("|---|---|---|---|---|")
    print(
        f"| {size / 1e9:.2f} | {options.strategy} | {peak['Pss'] / 1e9:.2f} | {peak['Pss'] / size:.2f} "
        f"| {peak['Rss'] / 1e9:.2f} |"
    )


if __name__ == "__main__":
    main()
