"""A process that forks ranks, which run commands of ``explllm``: python ranks.py. It also defines their callbacks.

Importing the libraries takes longer than a tiny run, so this process imports them once. It reads jobs from stdin, one
JSON line each, and answers with a line when all ranks of the job have ended.
"""

import contextlib
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback

import torch
from lightning.pytorch import Callback
from lightning_utilities.core.rank_zero import rank_zero_only


class Terminate(Callback):
    """A scheduler that ends the job: rank 0, and its data workers, receive a signal during an optimizer step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.is_global_zero and trainer.global_step == self.step - 1:
            workers = [str(worker.pid) for worker in multiprocessing.active_children()]
            subprocess.run(["kill", "-TERM", *workers, str(os.getpid())], check=True)


class KillRank(Callback):
    """Kills one rank at the start of a step. Then the others take longer than Lightning's observer waits."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_exception(self, *_):
        time.sleep(6)


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


def run_rank(rank, folder, environment, commands):
    """Run commands and write ``rank<number>.json``, one line per command: exit code, stdout and stderr."""
    from explllm.cli import main

    os.chdir(folder)
    os.environ |= {**environment, "LOCAL_RANK": str(rank)}
    rank_zero_only.rank = rank  # Lightning sets it when it is imported
    signal.alarm(3000)  # a deadlock ends
    with open(f"rank{rank}.err", "wb") as stderr:
        for stream in (1, 2):
            os.dup2(stderr.fileno(), stream)
    with open(f"rank{rank}.json", "w") as results:
        for command in commands:
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    status = main(command)
                except SystemExit as stop:
                    status = stop.code
            print(json.dumps([status, out.getvalue(), err.getvalue()]), file=results, flush=True)


def serve():
    """Fork the ranks of each job."""
    import peft  # noqa: F401

    from explllm.commands import lightning_cli  # noqa: F401
    from explllm.training import au_task, task  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        ranks = []
        for rank in range(job.pop("count")):
            ranks.append(os.fork())
            if not ranks[-1]:
                try:
                    run_rank(rank, **job)
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(0)
        for process in ranks:
            os.waitpid(process, 0)
        print("done", flush=True)


if __name__ == "__main__":
    serve()
