"""The HTTP server: OpenAI-compatible chat completions, batch recognition, health and metrics.

A picture is kept in memory only until the model's input is prepared. It is never written to disk or to a log.

LitServe was tried first (0.2.19). Its OpenAI specification decodes pictures inside the batch, so one damaged picture
fails the whole batch; error messages are lost; every route needs a process with its own model; and an answer is
computed to the end even after the client has disconnected. FastAPI and `Explainer` have none of these limitations.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from starlette.exceptions import HTTPException

from explllm import __version__
from explllm.app.errors import RequestError, as_request_error, error_response
from explllm.app.explainer import Answer, Busy, Cancelled, Explainer, Job
from explllm.app.guard import Connection, Guard, Limits
from explllm.app.photographs import MAX_PIXELS, Photograph, open_photograph, preprocess
from explllm.app.protocol import (
    ChatRequest,
    ErrorBody,
    RecognizeRequest,
    answer_schema,
    finish_reason,
    heading,
    picture_url,
    requested_fields,
)
from explllm.app.remote import fetch
from explllm.conversation.messages import recognition as recognition_prompt
from explllm.core.errors import InputError
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.faces.detector import FaceDetector
from explllm.models.generation import Recognition
from explllm.report.json_lines import face_record
from explllm.report.picture import PicturedFace

_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII)
_FETCHES = 16
"""Maximum number of pictures from addresses in memory, for all requests together; each may have `max_megabytes`."""
_UNSUPPORTED = ("tools", "functions", "stop", "logprobs", "audio")


@dataclass(frozen=True)
class ServerSettings:
    """The model's name, and the server's limits and permissions."""

    name: str
    """The model's name, as clients see it."""
    key: str | None = None
    """The API key; None for no key."""
    max_megabytes: int = 20
    """Maximum size of a request's body, and of a picture fetched from an address."""
    max_pixels: int = MAX_PIXELS
    """Maximum number of pixels of a picture."""
    max_faces: int = 64
    """Maximum number of pictures in a request to ``/recognize``."""
    per_minute: int | None = None
    """Requests per minute per client, plus an initial burst of up to the same number; None for no limit."""
    timeout: float = 120
    """Maximum seconds to wait for an answer; ``/recognize`` waits for its pictures' answers one after the other."""
    read_seconds: float = 30
    """Maximum seconds to receive the headers of a request; the same limit applies to its body."""
    allow_urls: bool = False
    """Fetch pictures from public http and https addresses."""


def create_server(explainer: Explainer, settings: ServerSettings, detector: FaceDetector | None = None) -> FastAPI:
    """Create the application.

    Args:
        explainer: Recognizes and explains the faces. The caller closes it.
        settings: The settings.
        detector: Finds the largest face in a picture; without a detector, each picture is treated as a cropped face.

    Returns:
        An ASGI application, to be run in one process.
    """
    return _Server(explainer, settings, detector).app


def uvicorn_options(settings: ServerSettings) -> dict[str, Any]:
    """Return the uvicorn options for an application that `create_server` created."""
    connection = type("TimedConnection", (Connection,), {"seconds": settings.read_seconds})
    # The request log would contain the clients' addresses.
    return {"http": connection, "access_log": False}


class _Server:
    """The routes."""

    def __init__(self, explainer: Explainer, settings: ServerSettings, detector: FaceDetector | None) -> None:
        self.explainer, self.settings, self.detector = explainer, settings, detector
        self.model = explainer.model
        self.prompt_tokens = len(self.model.conversations.encode_prompt(recognition_prompt()))
        self.started = int(time.time())
        self.decoding = anyio.CapacityLimiter(4)
        self.fetching = asyncio.Semaphore(_FETCHES)
        self.registry = CollectorRegistry()
        self._add_gauges()
        self.app = FastAPI(
            title="explllm",
            version=__version__,
            description="Explained facial expression recognition. `/v1/chat/completions` follows OpenAI's API.",
            # Otherwise FastAPI documents its own format of validation errors.
            responses={
                "4XX": {"model": ErrorBody, "description": "The request is rejected."},
                "5XX": {"model": ErrorBody, "description": "The server failed, is busy, or is shutting down."},
            },
            # The documentation pages would load scripts from other servers.
            docs_url=None,
            redoc_url=None,
        )
        self.app.post("/v1/chat/completions", response_model=None)(self.chat)
        self.app.post("/recognize")(self.recognize)
        self.app.get("/v1/models")(self.models)
        self.app.get("/v1/models/{name:path}")(self.describe_model)
        self.app.get("/health")(self.health)
        self.app.get("/metrics", response_class=Response)(self.metrics)
        self.app.get("/schema")(self.schema)
        for kind in (RequestError, InputError, RequestValidationError, HTTPException, Exception):
            self.app.add_exception_handler(kind, error_response)
        limits = Limits(settings.max_megabytes * 2**20, settings.read_seconds, settings.per_minute)
        paths = frozenset(self.app.openapi()["paths"]) | {"/openapi.json"}
        self.app.add_middleware(Guard, limits=limits, key=settings.key, paths=paths, registry=self.registry)

    def _add_gauges(self) -> None:
        load = self.explainer.load
        for name, text in (
            ("waiting", "Faces waiting to start."),
            ("active", "Faces whose text is being generated."),
            ("faces", "Faces answered since startup."),
            ("tokens", "Tokens generated since startup."),
            ("batches", "Batches since startup."),
        ):
            gauge = Gauge(f"explllm_{name}", text, registry=self.registry)
            gauge.set_function(partial(getattr, load, name))

    # Routes ----------------------------------------------------------------------------------------------------------

    async def health(self) -> JSONResponse:
        """Return whether the model's thread is running."""
        alive = self.explainer.alive
        content = {"status": "ok" if alive else "the model's thread has stopped", "model": self.settings.name}
        return JSONResponse(content, 200 if alive else 503)

    async def metrics(self) -> Response:
        """Return metrics in Prometheus' text format."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    async def models(self) -> dict[str, Any]:
        """List the model."""
        return {"object": "list", "data": [await self.describe_model(self.settings.name)]}

    async def describe_model(self, name: str) -> dict[str, Any]:
        """Describe the model."""
        if name != self.settings.name:
            message = f"The model {name[:100]!r} does not exist. This server has {self.settings.name!r}."
            raise RequestError(404, message, "model_not_found")
        return {"id": name, "object": "model", "created": self.started, "owned_by": "explllm"}

    async def schema(self) -> dict[str, Any]:
        """Return the schema of JSON answers."""
        return answer_schema()

    async def recognize(self, body: RecognizeRequest, request: Request) -> dict[str, Any]:
        """Recognize the expressions in several pictures. The result of an unusable picture is an ``error``."""
        if len(body.images) > self.settings.max_faces:
            message = f"The request has {len(body.images)} images, more than {self.settings.max_faces}."
            raise RequestError(413, message, "too_many_images")
        results: list[dict[str, Any]] = [{} for _ in body.images]
        jobs: dict[int, tuple[Photograph, Job]] = {}

        async def read(place: int, url: str) -> None:
            try:
                jobs[place] = await self._open(url if url.startswith(("data:", "http")) else f"{_PLAIN}{url}", 0)
            except (InputError, RequestError) as error:
                results[place] = {"error": str(error)}

        await asyncio.gather(*(read(place, url) for place, url in enumerate(body.images)))
        self._submit(*(job for _, job in jobs.values()))
        for place, (photograph, job) in jobs.items():
            answer = await self._wait(job, request, list(jobs.values()))
            results[place] = self._record(photograph, answer)
        return {"model": self.settings.name, "results": results}

    async def chat(self, body: ChatRequest, request: Request) -> dict[str, Any] | StreamingResponse:
        """Recognize the expression of the picture in the messages, and explain it."""
        await self.describe_model(body.model)
        if refused := [name for name in _UNSUPPORTED if (body.model_extra or {}).get(name)]:
            raise RequestError(400, f"{refused[0]} is not supported.", "unsupported_parameter")
        fields = requested_fields(body.response_format, self.explainer.model.labels or ())
        limit = min(body.max_completion_tokens or body.max_tokens or 10**9, self.explainer.max_new_tokens)
        photograph, job = await self._open(picture_url(body.messages), limit)
        identity = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.settings.name}
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            pieces: asyncio.Queue[str | Recognition | None] = asyncio.Queue()
            put = _from_thread(asyncio.get_running_loop(), pieces.put_nowait)
            if fields is None:
                job.on_recognized, job.on_text = put, put
            job.result.add_done_callback(lambda _: put(None))
            self._submit(job)
            events = self._events(identity, photograph, job, pieces, fields, usage)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._submit(job)
        answer = await self._wait(job, request, [(photograph, job)])
        content = self._content(photograph, answer, fields)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": content, "refusal": None},
            "logprobs": None,
            "finish_reason": finish_reason(answer),
        }
        return {**identity, "object": "chat.completion", "choices": [choice], "usage": self._usage(answer)}

    async def _events(
        self,
        identity: dict[str, Any],
        photograph: Photograph,
        job: Job,
        pieces: asyncio.Queue[str | Recognition | None],
        fields: list[str] | None,
        include_usage: bool,
    ) -> AsyncIterator[str]:
        def event(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> str:
            choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
            chunk = {**identity, "object": "chat.completion.chunk", "choices": choices, **more}
            return f"data: {json.dumps(chunk)}\n\n"

        try:
            yield event({"role": "assistant", "content": ""})
            async with asyncio.timeout(self.settings.timeout):
                while (piece := await pieces.get()) is not None:
                    yield event({"content": heading(piece) if isinstance(piece, Recognition) else piece})
            answer = job.result.result()
            if fields is not None:
                yield event({"content": self._content(photograph, answer, fields)})
            yield event({}, finish_reason(answer))
            if include_usage:
                yield event(None, usage=self._usage(answer))
            yield "data: [DONE]\n\n"
        except Exception as error:
            yield f"data: {json.dumps(as_request_error(error).body)}\n\n"
        finally:
            job.cancel()

    # Parts of a request ----------------------------------------------------------------------------------------------

    async def _open(self, url: str, max_new_tokens: int) -> tuple[Photograph, Job]:
        """Return the picture at a URL, without its pixels, and the job for its largest face."""
        if url.startswith(("http://", "https://")):
            if not self.settings.allow_urls:
                raise RequestError(400, "This server does not fetch URLs. Send a data URL.", "urls_not_allowed")
            async with self.fetching:
                return await self._read(await fetch(url, self.settings.max_megabytes * 2**20), max_new_tokens)
        if match := _DATA_URL.match(url):
            return await self._read(_decoded(url[match.end() :]), max_new_tokens)
        raise RequestError(400, "The picture is not a data URL of an image in base64.", "invalid_image")

    async def _read(self, content: bytes, max_new_tokens: int) -> tuple[Photograph, Job]:
        """Read a picture in a worker thread; return it, without its pixels, and the job for its largest face."""

        def read() -> tuple[Photograph, Job]:
            photograph = open_photograph(content, self.detector, "largest", self.settings.max_pixels)
            job = Job(preprocess(self.model, photograph, 0), max_new_tokens)
            # The answer needs only the box and the warnings, and the pixels of a request's pictures can take gigabytes.
            return replace(photograph, image=Image.new("RGB", (1, 1))), job

        return await anyio.to_thread.run_sync(read, limiter=self.decoding)

    def _submit(self, *jobs: Job) -> None:
        try:
            self.explainer.submit(*jobs)
        except Busy as error:
            raise RequestError(503, str(error), "overloaded", {"Retry-After": "5"}) from error

    async def _wait(self, job: Job, request: Request, jobs: list[tuple[Photograph, Job]]) -> Answer:
        """Return the answer; on a disconnect or a timeout, cancel all jobs of the request and raise an error."""
        answer: asyncio.Future[Any] = asyncio.wrap_future(job.result)
        gone: asyncio.Future[Any] = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({answer, gone}, timeout=self.settings.timeout, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                result: Answer = answer.result()
                return result
            for _, other in jobs:
                other.cancel()
            if gone.done():
                raise RequestError(499, "The client has closed the connection.", "closed")
            raise TimeoutError
        except (TimeoutError, Cancelled) as error:
            raise as_request_error(error) from error
        finally:
            gone.cancel()
            answer.cancel()

    def _content(self, photograph: Photograph, answer: Answer, fields: list[str] | None) -> str:
        if fields is None:
            return heading(answer.recognition) + answer.text
        record = self._record(photograph, answer)
        return json.dumps({name: record[name] for name in fields} if fields else record)

    def _record(self, photograph: Photograph, answer: Answer) -> dict[str, Any]:
        cot = ChainOfThought.parse(answer.text) if answer.tokens else None
        face = PicturedFace(
            photograph.image, photograph.boxes[0], answer.recognition, cot, warnings=photograph.warnings
        )
        record = face_record("", face, None, self.model.config.training_data_note)
        del record["image"]
        return record

    def _usage(self, answer: Answer) -> dict[str, int]:
        prompt, completion = self.prompt_tokens, answer.tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


_PLAIN = "data:image/unknown;base64,"


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)  # some tools break base64 into lines
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, "The picture's base64 is invalid.", "invalid_image") from error


def _from_thread(loop: asyncio.AbstractEventLoop, put: Callable[[Any], None]) -> Callable[[Any], None]:
    def call(item: Any) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(put, item)

    return call


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
