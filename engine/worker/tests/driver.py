"""Plays the daemon: starts a worker as the daemon does, with requests on fd 3 and replies on fd 4."""

import fcntl
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from stoker_worker.family import group_members

SCRIPT = Path(__file__).parent.parent / "worker.py"

CPU_ARGS = {
    "enforce_eager": True,
    "max_model_len": 1024,
    "kv_cache_memory_bytes": 512 << 20,
    "distributed_executor_backend": "uni",
}
CPU_ENV = {
    "TORCHDYNAMO_DISABLE": "1",  # without a C++ compiler a request for logprobs would kill the engine
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # with "uni": no process beside EngineCore
}
LOAD_SECONDS = 300


class Worker:
    """A worker process and all that it said."""

    def __init__(self, *flags: str):
        """flags are further ones for the interpreter."""
        requests, self._requests = pipe()
        self._replies, replies = pipe()
        self._log = high(os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR))
        self.began = time.monotonic()
        self.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *flags, "-I", "-u", str(SCRIPT)],
            {**os.environ, **CPU_ENV},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, requests, 3),
                (os.POSIX_SPAWN_DUP2, replies, 4),
                (os.POSIX_SPAWN_DUP2, self._log, 1),
                (os.POSIX_SPAWN_DUP2, self._log, 2),
            ],
            setpgroup=0,
        )
        os.close(requests)
        os.close(replies)
        self.status: int | None = None
        self.said: list[dict] = []
        self._news = threading.Condition()
        self._seen = 0
        self._key = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        with os.fdopen(self._replies, "rb") as lines:
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError as error:
                    message = {"type": "end", "error": f"{error}: {line!r}"}
                with self._news:
                    self.said.append({**message, "at": time.monotonic()})
                    self._news.notify_all()
        with self._news:
            self.said.append({"type": "end", "at": time.monotonic()})
            self._news.notify_all()

    def send(self, kind: str, **members):
        data = memoryview(json.dumps({"type": kind, **members}).encode() + b"\n")
        while data:
            data = data[os.write(self._requests, data) :]

    def start(self, model: str, served_names=("*",), **args):
        self.send("start", protocol=1, model=model, served_names=list(served_names), args={**CPU_ARGS, **args})

    def wait(self, wanted: Callable[[dict], bool], seconds: float = 60) -> dict:
        """The first message that is wanted, whenever it came."""

        def find():
            return next((m for m in self.said if wanted(m)), None)

        with self._news:
            self._news.wait_for(lambda: find() or (self.said[-1:] and self.said[-1]["type"] == "end"), seconds)
            if found := find():
                return found
        raise AssertionError(f"nothing wanted came in {seconds} s; last of it {self.said[-3:]}; log:\n{self.log()[-3000:]}")

    def wait_for(self, kind: str, seconds: float = 60) -> dict:
        return self.wait(lambda m: m["type"] == kind, seconds)

    def ask(self, body, url="/v1/chat/completions", form="openai", defaults=None) -> int:
        """Send a request; returns its key."""
        self._key += 1
        self.send("request", key=self._key, url=url, form=form, defaults=defaults, body=body)
        return self._key

    def answer(self, key: int, seconds: float = 120) -> dict:
        return self.wait(lambda m: m.get("key") == key, seconds)

    def call(self, body, **how) -> tuple[int, dict]:
        """Send a request and wait: status and body of the answer."""
        answer = self.answer(self.ask(body, **how))
        assert answer["type"] == ("result" if answer["status"] == 200 else "error")
        return answer["status"], answer["body"]

    def statistics(self) -> dict:
        """The next statistics."""
        now = time.monotonic()
        return self.wait(lambda m: m["type"] == "stats" and m["at"] > now, 10)

    def hang_up(self):
        """Let the worker read the end of the file on fd 3."""
        os.close(self._requests)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    def family(self) -> list[int]:
        """The living processes of the worker's group."""
        return list(group_members(self.pid))

    def wait_gone(self, seconds: float) -> float:
        """Wait until no process of the group lives; returns the seconds that it took."""
        began = time.monotonic()
        while True:
            if self.status is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.status = os.waitstatus_to_exitcode(status) if pid else None
            alive = self.family()
            took = time.monotonic() - began
            if not alive and self.status is not None:
                return took
            assert took < seconds, f"alive after {took:.1f} s: {alive}\n{self.log()[-3000:]}"
            time.sleep(0.01)

    def engine_core(self) -> int:
        """The process of vLLM's engine."""
        named = [pid for pid in self.family() if "EngineCor" in Path(f"/proc/{pid}/comm").read_text()]
        assert len(named) == 1, f"{named} in {[(p, Path(f'/proc/{p}/comm').read_text()) for p in self.family()]}"
        return named[0]

    def log(self) -> str:
        size = os.fstat(self._log).st_size
        return os.pread(self._log, size, 0).decode(errors="replace")

    def end(self):
        """Leave nothing behind, however the test went."""
        for pid in self.family():
            os.kill(pid, signal.SIGKILL)


def pipe() -> tuple[int, int]:
    source, sink = os.pipe()
    return high(source), high(sink)


def high(fd: int) -> int:
    """Move a descriptor out of the way of those that the worker gets."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100)
    os.close(fd)
    return moved
