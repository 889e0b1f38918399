"""Run commands of ``explllm`` on one of several ranks: python ranks.py '[["fit", "--config", ...], ...]'.

Each rank imports the libraries once, which takes longer than a tiny run. Prints one JSON line per command: its exit
code, and what it wrote to stdout and stderr.
"""

import contextlib
import io
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback


class Terminate(Callback):
    """A scheduler that ends the job: rank 0 receives a signal during an optimizer step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.is_global_zero and trainer.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGTERM)


class KillRank(Callback):
    """Kills one rank at the start of a step."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class KillDuringSave(Callback):
    """Kills the process when it has written half of the checkpoint of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_start(self, trainer, *_):
        save = torch.save

        def killed(checkpoint, stream):
            if trainer.global_step == self.step:
                content = io.BytesIO()
                save(checkpoint, content)
                stream.write(content.getvalue()[: content.tell() // 2])
                stream.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            save(checkpoint, stream)

        torch.save = killed


class Memory(Callback):
    """Records a rank's own memory (without pages mapped from files) while it builds the model: pairs of time and MB."""

    def __init__(self, folder: str) -> None:
        self.folder, self.samples, self.done = folder, [], False

    def setup(self, trainer, pl_module, stage):
        self.start = anonymous_memory()
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while not self.done:
            # The clock is the same for all processes of a machine.
            self.samples.append((time.monotonic(), anonymous_memory() - self.start))
            time.sleep(0.001)

    def on_fit_start(self, trainer, *_):
        self.done = True
        Path(self.folder, f"memory-{trainer.global_rank}").write_text(json.dumps(self.samples))


def anonymous_memory() -> float:
    """Return the process's anonymous resident memory in MB."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1000


if __name__ == "__main__":
    from explllm.cli import main

    for command in json.loads(sys.argv[1]):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(command)
            except SystemExit as stop:
                status = stop.code
        print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
