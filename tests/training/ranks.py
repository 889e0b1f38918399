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


class ShortMemory(Callback):
    """The last rank has memory for two faces at a time."""

    def on_test_start(self, trainer, pl_module):
        if trainer.global_rank == trainer.world_size - 1:
            pl_module.explllm.language.register_forward_pre_hook(self.limit, with_kwargs=True)

    def limit(self, _module, _inputs, options):
        rows = options.get("inputs_embeds", options.get("input_ids"))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("out of memory")


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
