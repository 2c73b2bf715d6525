"""The two pipes to the daemon, each with a thread of its own: vLLM blocks the event loop for minutes while it loads, and a
full pipe must never block the event loop."""

import os
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

READ_SIZE = 1 << 20  # bytes asked of the pipe at a time; Linux pipes hold 64 KiB unless enlarged
BATCH_LINES = 1024  # lines put into one write at most


class Writer:
    """Writes lines to a file descriptor, in order, from any thread, without ever blocking the caller."""

    def __init__(self, fd: int, on_broken: Callable[[], None]) -> None:
        """on_broken is called, from the writer's thread, when nobody reads any more."""
        own(fd)
        self._fd = fd
        self._on_broken = on_broken
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="stoker-replies", daemon=True)
        self._thread.start()

    def send(self, line: bytes) -> None:
        """Queue one line, which ends with its newline."""
        self._queue.put(line)

    def close(self, timeout: float) -> None:
        """Write what is queued, waiting at most timeout seconds."""
        self._queue.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        more = True
        while more:
            lines, more = self._take()
            try:
                write_all(self._fd, b"".join(lines))
            except OSError:
                self._on_broken()
                return

    def _take(self) -> tuple[list[bytes], bool]:
        """Wait for a line, then take what else is there. False: that was the last of it."""
        lines: list[bytes] = []
        item = self._queue.get()
        while item is not None:
            lines.append(item)
            if len(lines) >= BATCH_LINES:
                return lines, True
            try:
                item = self._queue.get_nowait()
            except Empty:
                return lines, True
        return lines, False


class Reader(threading.Thread):
    """Reads lines from a file descriptor and hands them on, as many at a time as one read brought."""

    def __init__(self, fd: int, on_lines: Callable[[list[bytes]], None], on_end: Callable[[Exception | None], None]) -> None:
        """on_end gets None at the end of the file, else what went wrong, be it in on_lines. Both are called from the
        reader's thread."""
        super().__init__(name="stoker-requests", daemon=True)
        own(fd)
        self._fd = fd
        self._on_lines = on_lines
        self._on_end = on_end

    def run(self) -> None:
        """Read until the end of the file or the first problem."""
        problem: Exception | None = None
        try:
            for lines in read_lines(self._fd):
                self._on_lines(lines)
        except Exception as error:
            problem = error
        self._on_end(problem)


def own(fd: int) -> None:
    """Keep fd to this process, so that an engine process never holds the daemon's pipes open, and make it blocking."""
    os.set_inheritable(fd, False)
    os.set_blocking(fd, True)


def read_lines(fd: int) -> Iterator[list[bytes]]:
    """Yield the complete, non-empty lines that each read of fd brought. What follows the last newline is dropped: its
    writer died in the middle of it."""
    pending: list[bytes] = []
    while chunk := os.read(fd, READ_SIZE):
        *complete, rest = chunk.split(b"\n")
        if complete:
            complete[0] = b"".join([*pending, complete[0]])
            pending = []
            if lines := [line for line in complete if line]:
                yield lines
        if rest:
            pending.append(rest)


def write_all(fd: int, data: bytes) -> None:
    """Write all of data to fd. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
