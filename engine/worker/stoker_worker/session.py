"""Serves requests while the engine lives: one task a request, statistics each second, an eye on the engine."""

import asyncio
import contextlib
from typing import Any

from .answers import Answerer, EngineDead
from .engine import Engine
from .messages import Message
from .pipes import Writer
from .protocol import encode, encode_answer

STATS_SECONDS = 1.0
WATCH_SECONDS = 0.1  # how soon the death of an idle engine is seen


class Session:
    """All methods belong to the event loop's thread."""

    def __init__(self, engine: Engine, answerer: Answerer, writer: Writer) -> None:
        self._engine = engine
        self._answerer = answerer
        self._writer = writer
        self._defaults: dict[str, dict[str, Any]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._over = asyncio.Event()
        self._died = False  # a request saw it before the engine's client did

    async def run(self) -> None:
        """Serve until `stop`. Raises Fatal when the engine dies."""
        statistics = asyncio.create_task(self._tell_statistics())
        try:
            await self._watch()
        finally:
            statistics.cancel()
            self._cancel(list(self._tasks))

    def receive(self, messages: list[Message]) -> None:
        """Take messages from the daemon, in their order."""
        for message in messages:
            match message.type:
                case "request":
                    self._tasks[message.key] = asyncio.create_task(self._answer(message))
                case "defaults":
                    self._defaults[message.id] = message.params or {}
                case "cancel":
                    self._cancel(message.keys or [])
                case "stop":
                    self._over.set()

    async def _answer(self, message: Message) -> None:
        """Answer a request. A cancelled one gets no reply, whatever vLLM's handler makes of the cancellation."""
        task = asyncio.current_task()
        try:
            status, body = await self._answerer.answer(message, self._defaults.get(message.defaults or "", {}))
        except EngineDead:
            self._died = True
            return  # no reply: the daemon sends the request again to the next engine
        finally:
            wanted = self._tasks.get(message.key) is task
            if wanted:
                del self._tasks[message.key]
        if wanted and not self._over.is_set():
            self._writer.send(encode_answer(message.key, status, body))

    def _cancel(self, keys: list[int]) -> None:
        for key in keys:
            if task := self._tasks.pop(key, None):
                task.cancel()

    async def _watch(self) -> None:
        while not self._over.is_set():
            if self._died or self._engine.is_dead:
                self._over.set()  # no reply after this
                raise self._engine.death()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), WATCH_SECONDS)

    async def _tell_statistics(self) -> None:
        while True:
            await asyncio.sleep(STATS_SECONDS)
            self._writer.send(encode("stats", **self._engine.counters.members()))
