"""The ends of a process tree like vLLM's, made of small processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

from stoker_worker.family import group_members

PACKAGE = Path(__file__).parent.parent
SCRIPT = PACKAGE / "worker.py"

# Spawned children re-run the main module as __mp_main__: this one plays worker.py's part around it.
PARENT = f"""
import multiprocessing, os, runpy, sys, time
sys.path.append({str(PACKAGE)!r})

def grandchild():
    time.sleep(60)

def child(pipe):
    process = multiprocessing.get_context("spawn").Process(target=grandchild)
    process.start()
    pipe.send("up")
    time.sleep(60)

if __name__ == "__main__":
    ours, theirs = multiprocessing.Pipe()
    multiprocessing.get_context("spawn").Process(target=child, args=(theirs,)).start()
    ours.recv()
    print("up", flush=True)
    from stoker_worker.family import leave
    if sys.stdin.readline():
        leave(5)
else:
    runpy.run_path({str(SCRIPT)!r}, run_name="__mp_main__")
"""


def family(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0, env={**os.environ}
    )
    assert parent.stdout.readline() == b"up\n"
    assert len(list(group_members(parent.pid))) >= 3
    return parent


def wait_gone(group):
    end = time.monotonic() + 10
    while alive := list(group_members(group)):
        assert time.monotonic() < end, alive
        time.sleep(0.01)


def test_leave_takes_the_group_along(tmp_path):
    with family(tmp_path) as parent:
        parent.stdin.write(b"go\n")
        parent.stdin.flush()
        assert parent.wait(10) == 5
        wait_gone(parent.pid)


def test_spawned_processes_die_with_a_killed_parent(tmp_path):
    with family(tmp_path) as parent:
        parent.kill()
        wait_gone(parent.pid)
