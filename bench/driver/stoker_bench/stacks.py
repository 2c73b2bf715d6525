"""Where the time of the Python processes goes: the main thread's stack, a hundred times a second.

A profiler from outside would show the same, but is not everywhere. Written as collapsed stacks, `outer;inner;innermost N`, which
flame graph programs read.
"""

import atexit
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

FOLDER = "STOKER_BENCH_STACKS"  # environment variable: where to write; nothing is sampled without it
INTERVAL = 0.01
WRITE_SECONDS = 10.0  # also between: engine processes end by a signal

_ended = threading.Event()
_thread: threading.Thread | None = None
_seen: Counter[str] = Counter()


def sample_if_wanted(role: str) -> None:
    """Begin if the environment says so."""
    global _thread
    if folder := os.environ.get(FOLDER):
        _thread = threading.Thread(target=_sample, args=(Path(folder) / f"{role}-{os.getpid()}.txt",), daemon=True)
        _thread.start()
        atexit.register(stop)


def forget() -> None:
    """Leave out what was seen so far."""
    _seen.clear()


def stop() -> None:
    """Write what was seen, and end."""
    _ended.set()
    if _thread is not None:
        _thread.join()


def _sample(path: Path) -> None:
    thread = threading.main_thread().ident
    written = time.monotonic()
    while not _ended.wait(INTERVAL):
        _seen[_stack(sys._current_frames().get(thread))] += 1
        if time.monotonic() - written > WRITE_SECONDS:
            _write(path)
            written = time.monotonic()
    _write(path)


def _stack(frame: FrameType | None) -> str:
    names = []
    while frame is not None:
        code = frame.f_code
        names.append(f"{Path(code.co_filename).stem}.{code.co_name}")
        frame = frame.f_back
    return ";".join(reversed(names))


def _write(path: Path) -> None:
    path.write_text("".join(f"{stack} {n}\n" for stack, n in _seen.most_common()))
