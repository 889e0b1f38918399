"""The Exp-CoT Score during training: texts are generated in the loop and judged in the background."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import Callback, Trainer

from explllm.core.errors import ConfigError
from explllm.core.files import METRICS_FILE, update_json
from explllm.core.manifest import face_key
from explllm.llm.client import ChatClient
from explllm.llm.ledger import Ledger
from explllm.llm.settings import ChatSettings
from explllm.metrics.exp_cot_score import Judgment, exp_cot_score
from explllm.metrics.judges import Judge, find_judge
from explllm.metrics.judges.chat import ChatJudge
from explllm.report.explained import ExplainedFace
from explllm.training.sample import explain_sample
from explllm.training.task import ExpLLMTask

T = TypeVar("T")

OFFLINE = "offline"
_CLOSING_SECONDS = 2.0


@dataclass
class _Round:
    """The judgments requested after one validation, keyed by row because an image may contain several faces."""

    step: int
    """Number of completed optimizer steps."""
    logger_step: int
    """Step number to pass to the loggers."""
    faces: dict[int, ExplainedFace]
    pending: dict[int, "Future[Judgment]"]
    judgments: dict[int, Judgment] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)

    def face_id(self, row: int) -> dict[str, Any]:
        """Return the fields that identify a face in ``judge.jsonl``."""
        face = self.faces[row]
        return {"image": str(face.image)} | ({} if face.box is None else {"box": list(face.box)})


class AsyncJudge(Callback):
    """Judges the chains of thought of a fixed sample after each validation, without waiting for the judge.

    Training pauses only while the model generates the texts, in one batch of `faces` faces. A background thread sends
    them to the judge. As soon as all scores of a step have arrived, their means are logged under that step. If the
    judge fails, the callback warns once and training continues. At the end of training, the callback waits at most
    `drain_seconds` for pending scores.
    """

    def __init__(
        self,
        judge: str = OFFLINE,
        faces: int = 8,
        drain_seconds: float = 60.0,
        chat: ChatSettings | None = None,
    ) -> None:
        """Configure the judge.

        Args:
            judge: Name of a language model on an OpenAI-compatible server, or of a registered judge, such as
                ``offline`` for the rule-based one.
            faces: Number of validation faces in the sample, which is the same after every validation and contains only
                faces with a reference chain of thought.
            drain_seconds: Maximum wait for pending scores at the end of training, in seconds.
            chat: The language model's server, budget and rate limits.

        Raises:
            ConfigError: If a number is out of range, or a required price or API key is missing.
        """
        if faces < 1 or drain_seconds < 0:
            raise ConfigError(
                f"`faces` must be at least 1 and `drain_seconds` at least 0, got {faces} and {drain_seconds}",
                remedy="Change them.",
            )
        self.faces, self.drain_seconds = faces, drain_seconds
        self.settings = None
        self._configured, self._registered = judge, find_judge(judge)
        if self._registered is None:
            self.settings = replace(chat or ChatSettings(timeout=60.0, max_retries=2), model=judge)
            # Fail now rather than at the first validation.
            self.settings.price()
            self.settings.api_key()
        self.rounds: list[_Round] = []
        self._run_dir = Path()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._judge: Future[Judge] | None = None
        self._resources = AsyncExitStack()
        self._tasks: set[asyncio.Task[Any] | None] = set()
        self._warned = False

    def on_fit_start(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # pyrefly: ignore[bad-override]
        """Start the background thread on rank 0."""
        if not trainer.is_global_zero:
            return
        self._run_dir = Path(trainer.default_root_dir)
        self._loop = asyncio.new_event_loop()
        # A daemon thread: a judge that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()
        self._judge = self._submit(self._open())

    def on_validation_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # pyrefly: ignore[bad-override]
        """Generate the sample's chains of thought and request judgments."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        frame = trainer.datamodule.frame("val")  # pyrefly: ignore[missing-attribute]
        # Run on every rank: under FSDP2, all ranks must take part in every forward pass.
        faces = explain_sample(trainer, pl_module, self.faces, require="cot") if "cot" in frame else {}
        if self._loop is None:
            return
        self._collect(trainer)
        pending = {}
        for row, face in faces.items():
            scope = f"step {trainer.global_step}: {face_key(str(face.image), face.box)}"
            pending[row] = self._submit(self._judge_text(face.cot.text, frame["cot"][row], scope))
        if pending:
            # Use the number under which Lightning logs this validation's metrics: the last step, counted from 0.
            logger_step = trainer.fit_loop.epoch_loop._batches_that_stepped
            self.rounds.append(_Round(trainer.global_step, logger_step, faces, pending))
        else:
            self._warn("no validation face has a reference chain of thought")

    def on_train_batch_end(  # pyrefly: ignore[bad-override]
        self, trainer: Trainer, pl_module: ExpLLMTask, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the judgments that have arrived, and log the scores of complete steps."""
        self._collect(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # pyrefly: ignore[bad-override]
        """Wait a limited time for pending scores; report missing ones and write the last scores to the metrics."""
        if self._loop is None:
            return
        end = time.monotonic() + self.drain_seconds
        while any(judged.pending for judged in self.rounds) and time.monotonic() < end:
            self._collect(trainer)
            time.sleep(0.05)
        self._collect(trainer)
        judge_name = self._judge_name()
        self._close()
        missing = sum(len(judged.pending) + len(judged.errors) for judged in self.rounds)
        if missing:
            total = missing + sum(len(judged.judgments) for judged in self.rounds)
            sys.stderr.write(
                f"warning: {missing} of {total} judgments are missing; see {self._run_dir / 'judge.jsonl'}\n"
            )
        for judged in self.rounds:
            reason = "no answer before the end of training"
            self._write_lines(judged.step, [{**judged.face_id(row), "missing": reason} for row in judged.pending])
            if judged.pending and judged.judgments:
                self._log(trainer, judged)
        scored = [judged for judged in self.rounds if judged.judgments]
        if scored:
            means = exp_cot_score(scored[-1].judgments.values())
            metrics: dict[str, Any] = {f"judge/{name}": value for name, value in means.items()}
            update_json(
                self._run_dir / METRICS_FILE, {**metrics, "judge/step": scored[-1].step, "judge/name": judge_name}
            )

    # pyrefly: ignore[bad-override]
    def on_exception(self, trainer: Trainer, pl_module: ExpLLMTask, exception: BaseException) -> None:
        """Stop the background thread."""
        self._close()

    async def _open(self) -> Judge:
        """Create the judge with its client and ledger; call this in the background thread, which must own them."""
        if self._registered is not None:
            return self._registered
        if self.settings is None:
            raise RuntimeError("no judge is configured")
        self._run_dir.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            ledger = stack.enter_context(Ledger(self._run_dir / "judge.sqlite"))
            client = await stack.enter_async_context(ChatClient(self.settings, ledger))
            await client.check()
            self._resources = stack.pop_all()
        return ChatJudge(client, self.settings.model)

    async def _judge_text(self, generated: str, reference: str, scope: str) -> Judgment:
        if self._judge is None:
            raise RuntimeError("call on_fit_start() first")
        judge = await asyncio.wrap_future(self._judge)
        return await judge.judge(generated, reference, scope)

    def _submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        if self._loop is None:
            raise RuntimeError("call on_fit_start() first")

        async def tracked() -> T:
            task = asyncio.current_task()
            self._tasks.add(task)
            try:
                return await work
            finally:
                self._tasks.discard(task)

        return asyncio.run_coroutine_threadsafe(tracked(), self._loop)

    def _collect(self, trainer: Trainer) -> None:
        """Write the judgments that have arrived, and log the scores of each step that is complete."""
        for judged in self.rounds:
            done = [row for row, future in judged.pending.items() if future.done()]
            if not done:
                continue
            lines: list[dict[str, Any]] = []
            for row in done:
                future = judged.pending.pop(row)
                error = None if future.cancelled() else future.exception()
                if error is None and not future.cancelled():
                    judged.judgments[row] = judgment = future.result()
                    scores = {**vars(judgment), "score": judgment.score, "judge": self._judge_name()}
                    lines.append({**judged.face_id(row), **scores})
                else:
                    judged.errors[row] = str(error) or type(error).__name__
                    lines.append({**judged.face_id(row), "missing": judged.errors[row]})
                    self._warn(judged.errors[row])
            self._write_lines(judged.step, lines)
            if not judged.pending and judged.judgments:
                self._log(trainer, judged)

    def _log(self, trainer: Trainer, judged: _Round) -> None:
        metrics = {f"judge/{name}": float(value) for name, value in exp_cot_score(judged.judgments.values()).items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=judged.logger_step)

    def _write_lines(self, step: int, lines: list[dict[str, Any]]) -> None:
        if lines:
            self._run_dir.mkdir(parents=True, exist_ok=True)
            with (self._run_dir / "judge.jsonl").open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps({"step": step, **line}) + "\n" for line in lines)

    def _judge_name(self) -> str:
        if self._judge is None or not self._judge.done() or self._judge.exception() is not None:
            return self._configured
        return self._judge.result().name

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            sys.stderr.write(f"warning: the judge gave no score: {reason}; training continues\n")

    def _close(self) -> None:
        """Stop the thread and close the client and ledger; a hanging request is abandoned with the thread."""
        loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        closing = asyncio.run_coroutine_threadsafe(self._cancel_and_close(), loop)
        try:
            closing.result(timeout=_CLOSING_SECONDS)
        except Exception:
            closing.cancel()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(_CLOSING_SECONDS)
        if not self._thread.is_alive():
            loop.close()

    async def _cancel_and_close(self) -> None:
        tasks = [task for task in self._tasks if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._resources.aclose()
