"""The Exp-CoT Score while training goes on: texts are made in the loop, judged in the background."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import Callback, Trainer

from explllm.core.errors import ConfigError
from explllm.core.files import METRICS_FILE, update_json
from explllm.core.manifest import face_key
from explllm.llm.client import ChatClient
from explllm.llm.ledger import Ledger
from explllm.llm.settings import ChatSettings, Structured
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
class _Asked:
    """What was handed to the judge after one validation; everything by the face's row, as an image may hold several."""

    step: int
    """Steps done."""
    logged: int
    """The step's number in the loggers."""
    faces: dict[int, ExplainedFace]
    waiting: dict[int, "Future[Judgment]"]
    found: dict[int, Judgment] = dataclass_field(default_factory=dict)
    lost: dict[int, str] = dataclass_field(default_factory=dict)

    def named(self, row: int) -> dict[str, Any]:
        """Return what tells a face in a line of ``judge.jsonl``."""
        face = self.faces[row]
        return {"image": str(face.image)} | ({} if face.box is None else {"box": list(face.box)})


class AsyncJudge(Callback):
    """Judges the chains of thought of a fixed sample after each validation, without waiting for the judge.

    The model writes the texts in the loop, on the first process: that takes the time of one short generation of
    `faces` texts at once, and is no work in the background. A thread of its own then hands them to the judge. Each
    score is logged under the step that produced it, when it arrives. A judge that is dead, wrong or slow is warned of
    once, and training goes on; at the end there is a limited time to wait for what is still out.
    """

    def __init__(
        self,
        judge: str = OFFLINE,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        faces: int = 8,
        drain_seconds: float = 60.0,
        timeout: float = 60.0,
        max_cost: float | None = None,
        price_in: float | None = None,
        price_out: float | None = None,
        concurrency: int = 16,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_retries: int = 2,
        structured: Structured = "auto",
    ) -> None:
        """Set who judges what.

        Args:
            judge: Name of a language model on an OpenAI-compatible server, or ``offline`` for the judge by rules.
            base_url: The server's address; by default OpenAI's.
            api_key_env: Environment variable that holds the key.
            faces: Validation faces in the sample, the same after every validation.
            drain_seconds: Longest wait for outstanding scores at the end of training, in seconds.
            timeout: Longest time for one answer, in seconds.
            max_cost: USD that judging may cost in all; no limit if null. Another server than OpenAI's needs the prices.
            price_in: USD for a million tokens sent.
            price_out: USD for a million tokens written.
            concurrency: Requests at a time.
            requests_per_minute: The server's limit, if it has one.
            tokens_per_minute: The server's limit, if it has one.
            max_retries: Times that a request is sent again after a failure that may pass.
            structured: Whether the server is made to keep to a JSON schema: ``auto``, ``always`` or ``never``.

        Raises:
            ConfigError: If a number makes no sense, or the judge's price or key is needed and not known.
        """
        if faces < 1 or drain_seconds < 0:
            raise ConfigError(f"{faces} faces, {drain_seconds} s to drain", remedy="Give at least 1 face and 0 s.")
        self.faces, self.drain_seconds = faces, drain_seconds
        self.settings = None
        self._configured, self._registered = judge, find_judge(judge)
        if self._registered is None:
            self.settings = ChatSettings(
                model=judge,
                base_url=base_url,
                api_key_env=api_key_env,
                concurrency=concurrency,
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
                max_cost=max_cost,
                price_in=price_in,
                price_out=price_out,
                timeout=timeout,
                max_retries=max_retries,
                structured=structured,
            )
            # Before a night of training rather than at its first validation.
            self.settings.price()
            self.settings.api_key()
        self.asked: list[_Asked] = []
        self._run_dir = Path()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._judge: Future[Judge] | None = None
        self._held = AsyncExitStack()
        self._tasks: set[asyncio.Task[Any] | None] = set()
        self._warned = False

    def on_fit_start(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Start the thread, on the first process."""
        if not trainer.is_global_zero:
            return
        self._run_dir = Path(trainer.default_root_dir)
        self._loop = asyncio.new_event_loop()
        # A daemon: a judge that hangs for ever must not keep the process alive.
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()
        self._judge = self._submit(self._open())

    def on_validation_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Write the sample's chains of thought, and hand them over."""
        if self._loop is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._collect(trainer)
        frame = trainer.datamodule.frame("val")  # type: ignore[attr-defined]
        faces = explain_sample(trainer, pl_module, self.faces, having="cot") if "cot" in frame else {}
        waiting = {}
        for row, face in faces.items():
            scope = f"step {trainer.global_step}: {face_key(str(face.image), face.box)}"
            waiting[row] = self._submit(self._ask(face.cot.text, frame["cot"][row], scope))
        if waiting:
            # Where Lightning logs this validation's own figures: under the number of the last step, counted from 0.
            logged = trainer.fit_loop.epoch_loop._batches_that_stepped
            self.asked.append(_Asked(trainer.global_step, logged, faces, waiting))
        else:
            self._warn("no validation face has a chain of thought to judge by")

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: ExpLLMTask, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what has arrived."""
        self._collect(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Wait for what is still out, but not for long, and say what is missing."""
        if self._loop is None:
            return
        end = time.monotonic() + self.drain_seconds
        while any(asked.waiting for asked in self.asked) and time.monotonic() < end:
            self._collect(trainer)
            time.sleep(0.05)
        self._collect(trainer)
        name = self._name()
        self._close()
        missing = sum(len(asked.waiting) + len(asked.lost) for asked in self.asked)
        if missing:
            total = missing + sum(len(asked.found) for asked in self.asked)
            sys.stderr.write(
                f"warning: {missing} of {total} judgments are missing; see {self._run_dir / 'judge.jsonl'}\n"
            )
        for asked in self.asked:
            reason = "no answer before the end of training"
            self._note(asked.step, [{**asked.named(row), "missing": reason} for row in asked.waiting])
            if asked.waiting and asked.found:
                self._log(trainer, asked)
        scored = [asked for asked in self.asked if asked.found]
        if scored:
            means = exp_cot_score(scored[-1].found.values())
            figures = {f"judge/{name}": value for name, value in means.items()}
            update_json(self._run_dir / METRICS_FILE, {**figures, "judge/step": scored[-1].step, "judge/name": name})

    def on_exception(self, trainer: Trainer, pl_module: ExpLLMTask, exception: BaseException) -> None:  # type: ignore[override]
        """Leave nothing running."""
        self._close()

    async def _open(self) -> Judge:
        """Make the judge, in its own thread, where its client and ledger live."""
        if self._registered is not None:
            return self._registered
        if self.settings is None:
            raise RuntimeError("no judge is configured")
        self._run_dir.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            ledger = stack.enter_context(Ledger(self._run_dir / "judge.sqlite"))
            client = await stack.enter_async_context(ChatClient(self.settings, ledger))
            await client.check()
            self._held = stack.pop_all()
        return ChatJudge(client, self.settings.model)

    async def _ask(self, generated: str, reference: str, scope: str) -> Judgment:
        if self._judge is None:
            raise RuntimeError("on_fit_start() comes first")
        judge = await asyncio.wrap_future(self._judge)
        return await judge.judge(generated, reference, scope)

    def _submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        if self._loop is None:
            raise RuntimeError("on_fit_start() comes first")

        async def kept() -> T:
            task = asyncio.current_task()
            self._tasks.add(task)
            try:
                return await work
            finally:
                self._tasks.discard(task)

        return asyncio.run_coroutine_threadsafe(kept(), self._loop)

    def _collect(self, trainer: Trainer) -> None:
        """Take what has arrived, and log the scores of a step whose judgments are all in."""
        for asked in self.asked:
            done = [row for row, future in asked.waiting.items() if future.done()]
            if not done:
                continue
            lines: list[dict[str, Any]] = []
            for row in done:
                future = asked.waiting.pop(row)
                error = None if future.cancelled() else future.exception()
                if error is None and not future.cancelled():
                    asked.found[row] = found = future.result()
                    lines.append({**asked.named(row), **vars(found), "score": found.score, "judge": self._name()})
                else:
                    asked.lost[row] = str(error) or type(error).__name__
                    lines.append({**asked.named(row), "missing": asked.lost[row]})
                    self._warn(asked.lost[row])
            self._note(asked.step, lines)
            if not asked.waiting and asked.found:
                self._log(trainer, asked)

    def _log(self, trainer: Trainer, asked: _Asked) -> None:
        figures = {f"judge/{name}": float(value) for name, value in exp_cot_score(asked.found.values()).items()}
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=asked.logged)

    def _note(self, step: int, lines: list[dict[str, Any]]) -> None:
        if lines:
            self._run_dir.mkdir(parents=True, exist_ok=True)
            with (self._run_dir / "judge.jsonl").open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps({"step": step, **line}) + "\n" for line in lines)

    def _name(self) -> str:
        if self._judge is None or not self._judge.done() or self._judge.exception() is not None:
            return self._configured
        return self._judge.result().name

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            sys.stderr.write(f"warning: the judge gives no score: {reason}; training goes on\n")

    def _close(self) -> None:
        """End the thread, with client and ledger; what hangs is left behind with it."""
        loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        closing = asyncio.run_coroutine_threadsafe(self._end(), loop)
        try:
            closing.result(timeout=_CLOSING_SECONDS)
        except Exception:
            closing.cancel()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(_CLOSING_SECONDS)
        if not self._thread.is_alive():
            loop.close()

    async def _end(self) -> None:
        tasks = [task for task in self._tasks if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._held.aclose()
