"""How workers end, and what they say when they cannot load."""

import os
import signal
import time

import pytest
from driver import LOAD_SECONDS, Worker

pytestmark = pytest.mark.real


@pytest.fixture
def worker(model):
    worker = Worker()
    yield worker
    worker.end()


def test_pings_are_answered_while_loading_and_end_of_file_ends_all(worker, model):
    worker.start(model)
    seq, worst = 0, 0.0
    while not any(m["type"] in ("ready", "end") for m in worker.said):
        seq += 1
        worker.send("ping", seq=seq)
        sent = time.monotonic()
        pong = worker.wait(lambda m, seq=seq: m["type"] == "pong" and m["seq"] == seq, 30)
        worst = max(worst, pong["at"] - sent)
        time.sleep(0.2)
    ready = worker.wait_for("ready")
    assert seq > 20
    assert worst < ready["load_seconds"] / 4  # Python's lock is held now and then by a C extension that is being imported
    assert len(worker.family()) >= 2
    worker.hang_up()
    took = worker.wait_gone(5)
    print(f"\n{seq} pings while loading, slowest answer {worst:.2f} s; all gone {took:.2f} s after the end of the file")


def test_children_die_with_a_killed_worker(worker, model):
    worker.start(model)
    worker.wait(lambda m: m["type"] == "phase" and m["detail"].startswith("weights"), LOAD_SECONDS)
    worker.engine_core()
    worker.kill()
    print(f"\nall gone {worker.wait_gone(5):.2f} s after the worker was killed")
    assert worker.status == -9


def test_engine_killed_while_loading(worker, model):
    worker.start(model)
    worker.wait(lambda m: m["type"] == "phase" and m["detail"].startswith("weights"), LOAD_SECONDS)
    os.kill(worker.engine_core(), signal.SIGKILL)
    fatal = worker.wait_for("fatal", LOAD_SECONDS)
    print(f"\n{fatal}")
    assert (fatal["cause"], fatal["permanent"], fatal["signal"]) == ("engine_dead", False, signal.SIGKILL)
    worker.wait_gone(5)


def test_stop(worker, model):
    worker.start(model)
    worker.wait_for("ready", LOAD_SECONDS)
    keys = [worker.ask({"prompt": "x", "max_tokens": 900, "ignore_eos": True}, url="/v1/completions") for _ in range(4)]
    worker.statistics()
    worker.send("stop")
    took = worker.wait_gone(10)
    print(f"\nall gone {took:.2f} s after stop")
    assert worker.status == 0
    assert not [m for m in worker.said if m.get("key") in keys or m["type"] == "fatal"]


def test_memory_that_is_not_there(worker, model):
    """The cause stands only in the log of the engine's process."""
    worker.start(model, kv_cache_memory_bytes=1 << 50)
    fatal = worker.wait_for("fatal", LOAD_SECONDS)
    print(f"\n{fatal}")
    assert (fatal["cause"], fatal["permanent"]) == ("gpu_memory", False)
    assert fatal["memory"]["need"] == 1 << 50
    assert 0 < fatal["memory"]["free"] < fatal["memory"]["total"]
    worker.wait_gone(5)
    assert worker.status == 1


def test_stop_and_end_of_file_while_importing(model):
    for leave, status in ((lambda w: w.send("stop"), 0), (lambda w: w.hang_up(), 1)):
        worker = Worker()
        worker.start(model)
        worker.wait_for("phase")
        leave(worker)
        worker.wait_gone(5)
        assert worker.status == status
