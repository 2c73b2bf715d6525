"""Reads the log of the engine's processes while it passes by.

vLLM loads in processes of its own, and the main one hears nothing from them until they are ready or have failed; even then
it is told only to look at their log. So for the time in which they are started, their standard output and error lead through
a pipe, whose reader copies every byte to the worker's own standard error, tells the phases of loading, and remembers the last
lines. Those processes keep the pipe; the worker itself gets its own descriptors back, so that its last words, should it
crash, depend on nothing.
"""

import contextlib
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from .pipes import READ_SIZE, write_all

REMEMBERED_LINES = 400  # a traceback of each process, with room to spare
MAX_LINE = 1 << 16  # bytes of an unfinished line that are kept

LINE_END = re.compile(rb"[\r\n]+")  # progress bars end in \r


@dataclass(frozen=True, slots=True)
class Mark:
    """Words in vLLM's log that tell a phase of loading. The detail is a template for the match's groups."""

    pattern: re.Pattern[str]
    phase: str
    detail: str


MARKS = (
    Mark(re.compile(r"Resolved architecture: (\S+)"), "loading", r"architecture \1"),
    Mark(re.compile(r"Initializing a V1 LLM engine"), "loading", "engine process started"),
    Mark(re.compile(r"Starting to load model"), "loading", "weights"),
    Mark(re.compile(r"Loading [\w ]*checkpoint shards:\s+(\d+)%"), "loading", r"weights \1 %"),
    Mark(re.compile(r"(?:Loading weights|Model loading) took"), "loading", "weights loaded"),
    Mark(
        re.compile(r"Using cache directory|Dynamo bytecode transform|Compiling a graph|Warming up model for the compilation"),
        "compiling",
        "model",
    ),
    Mark(re.compile(r"torch\.compile (?:took|takes)|Directly load the compiled graph"), "compiling", "compiled"),
    Mark(re.compile(r"Capturing CUDA graphs?[^:]*:\s+(\d+)%"), "warming", r"CUDA graphs \1 %"),
    Mark(re.compile(r"KV cache size: ([\d,]+) tokens"), "warming", r"KV cache of \1 tokens"),
    Mark(re.compile(r"init engine \(.*\) took"), "warming", "engine ready"),
)


class LogTap:
    """A context in which started processes write their log through the tap. on_phase is called from the tap's thread."""

    def __init__(self, on_phase: Callable[[str, str], None]) -> None:
        self._on_phase = on_phase
        self._lines: deque[str] = deque(maxlen=REMEMBERED_LINES)
        self._last: tuple[str, str] | None = None

    def __enter__(self) -> Self:
        self._own = [os.dup(fd) for fd in (1, 2)]
        source, sink = os.pipe()
        for fd in (1, 2):
            os.dup2(sink, fd)
        os.close(sink)
        self._thread = threading.Thread(target=self._pump, args=(source, os.dup(self._own[1])), name="stoker-log", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, own in zip((1, 2), self._own, strict=True):
            os.dup2(own, fd)
            os.close(own)

    def lines(self, wait: float) -> list[str]:
        """The last lines, after wait seconds in which those on their way may arrive."""
        self._thread.join(wait)
        return list(self._lines)

    def forget(self) -> None:
        """Forget the lines so far: what went well explains no later end."""
        self._lines.clear()

    def _pump(self, source: int, log: int) -> None:
        rest = b""
        while chunk := os.read(source, READ_SIZE):
            with contextlib.suppress(OSError):  # without a reader of the log the engine still must not block on it
                write_all(log, chunk)
            *complete, rest = LINE_END.split(rest[-MAX_LINE:] + chunk)
            for line in complete:
                self._see(line.decode(errors="replace"))

    def _see(self, line: str) -> None:
        if not line:
            return
        self._lines.append(line)
        if (told := phase_of(line)) and told != self._last:
            self._last = told
            self._on_phase(*told)


def phase_of(line: str) -> tuple[str, str] | None:
    """The phase and its detail that a line of vLLM's log tells; None if it tells none."""
    for mark in MARKS:
        if match := mark.pattern.search(line):
            return mark.phase, match.expand(mark.detail)
    return None
