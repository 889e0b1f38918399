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

from lightning.pytorch import Callback


class Terminate(Callback):
    """A scheduler that ends the job: rank 0 receives a signal during an optimizer step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.is_global_zero and trainer.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGTERM)


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
