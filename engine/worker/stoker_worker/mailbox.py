"""Carries messages from the reader's thread to the event loop."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from .messages import Message


class Mailbox:
    """Carries messages from the reader's thread to the event loop; keeps them until the loop is ready for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[Message] = []
        self._hand: Callable[[list[Message]], Any] | None = None

    @property
    def is_open(self) -> bool:
        """Whether messages reach the event loop."""
        return self._hand is not None

    def put(self, messages: list[Message]) -> None:
        """Hand messages over, in order. From any thread."""
        with self._lock:
            if self._hand is None:
                self._kept.extend(messages)
            elif messages:
                self._hand(messages)

    def open(self, loop: asyncio.AbstractEventLoop, receive: Callable[[list[Message]], None]) -> None:
        """From now on call receive, on the loop, with what arrives, and first with what was kept."""
        with self._lock:
            self._hand = lambda messages: loop.call_soon_threadsafe(receive, messages)
            if self._kept:
                self._hand(self._kept)
                self._kept = []
