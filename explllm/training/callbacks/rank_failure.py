"""What the first process of a machine does when another one fails."""

import time
from subprocess import TimeoutExpired

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from explllm.training.strategies import is_rank_failure

PATIENCE = 10.0
"""Seconds in which the other processes can print their errors before they are killed."""


class RankFailure(Callback):
    """Lets the process that started the others end by itself, with its own error, after one of them failed.

    Otherwise, Lightning kills it up to 5 s after another process has ended with an error, perhaps before it says how to
    resume the run. This callback takes over Lightning's other duty: after a failure, no process waits for a dead one.
    """

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop Lightning's observation; if another rank failed, wait for the other processes, and kill those left."""
        launcher = trainer.strategy.launcher
        if not isinstance(launcher, _SubprocessScriptLauncher) or isinstance(exception, KeyboardInterrupt):
            return  # after Ctrl-C, Lightning needs the list of processes
        processes = launcher.procs[:]
        launcher.procs.clear()  # the observer shares this list, and ends when it is empty
        if not is_rank_failure(exception):
            return
        deadline = time.monotonic() + PATIENCE
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except TimeoutExpired:
                process.kill()
