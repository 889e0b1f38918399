"""The Exp-CoT Score while training goes on: texts are made in the loop, judged in the background."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from explllm.chat.client import ChatClient
from explllm.chat.ledger import Ledger
from explllm.chat.request import ChatSettings
from explllm.core.errors import ConfigError
from explllm.core.files import update_json
from explllm.metrics.exp_cot_score import Judgement, exp_cot_score
from explllm.metrics.judges import ChatJudge, Judge, OfflineJudge
from explllm.training.sample import explain_sample
from explllm.training.task import ExpLLMTask

OFFLINE = "offline"


@dataclass
class _Asked:
    """What was handed to the judge after one validation."""

    step: int
    waiting: dict[str, "Future[Judgement]"]
    found: dict[str, Judgement] = dataclass_field(default_factory=dict)
    lost: dict[str, str] = dataclass_field(default_factory=dict)


class AsyncJudge(Callback):
    """Judges the chains of thought of a fixed sample after each validation, without holding up training.

    The model writes the texts on the first process; a thread of its own hands them to the judge. Each score is logged
    under the step that produced it, when it arrives. A judge that is dead, wrong or slow is warned of once, and
    training goes on; at the end there is a limited time to wait for what is still out.
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
    ) -> None:
        """Set who judges what.

        Args:
            judge: Name of a language model on an OpenAI-compatible server, or ``offline`` for the judge by rules.
            base_url: The server's address; by default OpenAI's.
            api_key_env: Environment variable that holds the key.
            faces: Validation faces in the sample, the same after every validation.
            drain_seconds: Longest wait for outstanding scores at the end of training, in seconds.
            timeout: Longest time for one answer, in seconds.
            max_cost: USD that judging may cost in all; no limit if null.

        Raises:
            ConfigError: If a number makes no sense.
        """
        if faces < 1 or drain_seconds < 0:
            raise ConfigError(f"{faces} faces, {drain_seconds} s to drain", remedy="Give at least 1 face and 0 s.")
        self.faces, self.drain_seconds = faces, drain_seconds
        self.settings = None
        if judge != OFFLINE:
            self.settings = ChatSettings(
                model=judge,
                base_url=base_url,
                api_key_env=api_key_env,
                timeout=timeout,
                max_cost=max_cost,
                max_retries=2,
            )
        self.asked: list[_Asked] = []
        self._run_dir = Path()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._judge: Future[Judge] | None = None
        self._client: ChatClient | None = None
        self._warned = False

    def on_fit_start(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Start the thread, on the first process."""
        if not trainer.is_global_zero:
            return
        self._run_dir = Path(trainer.default_root_dir)
        self._loop = asyncio.new_event_loop()
        # A daemon: a judge that hangs for ever must not keep the process alive.
        threading.Thread(target=self._loop.run_forever, name="judge", daemon=True).start()
        self._judge = asyncio.run_coroutine_threadsafe(self._open(), self._loop)

    def on_validation_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Write the sample's chains of thought, and hand them over."""
        if self._loop is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._collect(trainer)
        references = trainer.datamodule.frame("val").reindex(columns=["cot"])["cot"]  # type: ignore[attr-defined]
        waiting = {}
        for row, face in explain_sample(trainer, pl_module, self.faces).items():
            reference = references.get(row)
            if isinstance(reference, str):
                scope = f"step {trainer.global_step}: {face.image}"
                waiting[str(face.image)] = self._submit(self._ask(face.cot.text, reference, scope))
        if waiting:
            self.asked.append(_Asked(trainer.global_step, waiting))
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
        self._close()
        missing = sum(len(asked.waiting) + len(asked.lost) for asked in self.asked)
        if missing:
            total = missing + sum(len(asked.found) for asked in self.asked)
            sys.stderr.write(
                f"warning: {missing} of {total} judgements are missing; see {self._run_dir / 'judge.jsonl'}\n"
            )
        for asked in self.asked:
            reasons = dict.fromkeys(asked.waiting, "no answer before the end of training")
            self._note(asked.step, [{"image": image, "missing": reason} for image, reason in reasons.items()])
            if asked.waiting and asked.found:
                self._log(trainer, asked)
        scored = [asked for asked in self.asked if asked.found]
        if scored:
            means = exp_cot_score(scored[-1].found.values())
            figures = {f"judge/{name}": value for name, value in means.items()}
            update_json(
                self._run_dir / "metrics.json",
                {**figures, "judge/step": scored[-1].step, "judge/name": self._name()},
            )

    def on_exception(self, trainer: Trainer, pl_module: ExpLLMTask, exception: BaseException) -> None:  # type: ignore[override]
        """Leave nothing running."""
        self._close()

    async def _open(self) -> Judge:
        """Make the judge, in its own thread, where its client and ledger live."""
        if self.settings is None:
            return OfflineJudge()
        folder = self._run_dir
        folder.mkdir(parents=True, exist_ok=True)
        self._client = ChatClient(self.settings, Ledger(folder / "judge.sqlite"))
        await self._client.__aenter__()
        await self._client.check()
        return ChatJudge(self._client, self.settings.model)

    async def _ask(self, generated: str, reference: str, scope: str) -> Judgement:
        if self._judge is None:
            raise RuntimeError("on_fit_start() comes first")
        judge = await asyncio.wrap_future(self._judge)
        return await judge.judge(generated, reference, scope)

    def _submit(self, work: Coroutine[Any, Any, Judgement]) -> "Future[Judgement]":
        if self._loop is None:
            raise RuntimeError("on_fit_start() comes first")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _collect(self, trainer: Trainer) -> None:
        """Take what has arrived, and log the scores of a step whose judgements are all in."""
        for asked in self.asked:
            done = [image for image, future in asked.waiting.items() if future.done()]
            if not done:
                continue
            rows: list[dict[str, Any]] = []
            for image in done:
                future = asked.waiting.pop(image)
                error = None if future.cancelled() else future.exception()
                if error is None and not future.cancelled():
                    asked.found[image] = found = future.result()
                    rows.append({"image": image, **vars(found), "score": found.score, "judge": self._name()})
                else:
                    asked.lost[image] = str(error) or type(error).__name__
                    rows.append({"image": image, "missing": asked.lost[image]})
                    self._warn(asked.lost[image])
            self._note(asked.step, rows)
            if not asked.waiting and asked.found:
                self._log(trainer, asked)

    def _log(self, trainer: Trainer, asked: _Asked) -> None:
        figures = {f"judge/{name}": float(value) for name, value in exp_cot_score(asked.found.values()).items()}
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=asked.step)

    def _note(self, step: int, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._run_dir.mkdir(parents=True, exist_ok=True)
            with (self._run_dir / "judge.jsonl").open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps({"step": step, **row}) + "\n" for row in rows)

    def _name(self) -> str:
        return self._judge.result().name if self._judge is not None and self._judge.done() else OFFLINE

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            sys.stderr.write(f"warning: the judge gives no score: {reason}; training goes on\n")

    def _close(self) -> None:
        loop, self._loop = self._loop, None
        if loop is None:
            return
        if self._client is not None:
            closing = asyncio.run_coroutine_threadsafe(self._client.__aexit__(None, None, None), loop)
            try:
                closing.result(timeout=2)
            except Exception:
                closing.cancel()  # what hangs is left behind with its thread
        loop.call_soon_threadsafe(loop.stop)
