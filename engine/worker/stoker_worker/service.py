"""The worker between its first and last words: waits for `start`, loads, serves.

The main thread does all that. The reader's thread answers what must not wait for it.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import NoReturn

from .answers import Answerer
from .engine import load
from .family import EXIT_FAILURE, EXIT_SUCCESS, leave
from .fatal import Fatal
from .mailbox import Mailbox
from .messages import Message, decode
from .pipes import Reader, Writer
from .protocol import VERSION, encode
from .session import Session

SHUTDOWN_SECONDS = 3.0  # what vLLM gets to end its processes by itself
STOP_SECONDS = 5.0  # after `stop` the worker is gone by then, however vLLM fares


class Service:
    """One engine, from `start` to `stop`."""

    def __init__(self, requests: int, writer: Writer, give_up: Callable[[Fatal], NoReturn]) -> None:
        """Requests is a file descriptor; give_up ends the process with a `fatal`."""
        self._began = time.monotonic()
        self._writer = writer
        self._give_up = give_up
        self._reader = Reader(requests, self._receive, self._abandon)
        self._starts: SimpleQueue[Message] = SimpleQueue()
        self._mailbox = Mailbox()

    def run(self) -> None:
        """Serve until `stop`. Raises Fatal."""
        self._reader.start()
        start = self._starts.get()
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(self._serve(start))

    async def _serve(self, start: Message) -> None:
        if start.protocol != VERSION:
            raise Fatal("internal", f"the daemon speaks protocol {start.protocol}, this worker {VERSION}", permanent=True)
        engine = await load(start.model, start.args or {}, self._tell_phase)
        session = Session(engine, Answerer(engine, start.model, start.served_names or []), self._writer)
        seconds = round(time.monotonic() - self._began, 1)
        self._writer.send(encode("ready", **engine.limits(), load_seconds=seconds))
        self._mailbox.open(asyncio.get_running_loop(), session.receive)
        await session.run()
        engine.client.shutdown(timeout=SHUTDOWN_SECONDS)

    def _receive(self, lines: list[bytes]) -> None:
        """Sort what arrives. On the reader's thread, for the event loop is blocked while vLLM loads."""
        rest = []
        for message in map(decode, lines):
            match message.type:
                case "ping":
                    self._writer.send(encode("pong", seq=message.seq))
                case "start":
                    self._starts.put(message)
                case "stop":
                    self._hasten()
                    rest.append(message)
                case _:
                    rest.append(message)
        self._mailbox.put(rest)

    def _hasten(self) -> None:
        """See to it that the worker ends soon."""
        if not self._mailbox.is_open:
            leave(EXIT_SUCCESS)  # still loading: nothing to end in order
        timer = threading.Timer(STOP_SECONDS, leave, [EXIT_SUCCESS])
        timer.daemon = True
        timer.start()

    def _abandon(self, problem: Exception | None) -> None:
        """The daemon is gone, or says what this worker cannot read: nobody waits for a reply."""
        if problem is not None:
            self._give_up(Fatal("internal", f"read requests: {problem}"))
        leave(EXIT_FAILURE)

    def _tell_phase(self, phase: str, detail: str) -> None:
        self._writer.send(encode("phase", phase=phase, detail=detail))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop, which vLLM brings and its server uses; asyncio's own where it is missing."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
