"""The worker's process tree, and how it ends. The daemon starts the worker as the leader of a process group; whatever vLLM
starts (engine core, GPU workers, compilers) stays in that group."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import NoReturn

EXIT_SUCCESS = 0
EXIT_FAILURE = 1

KILL_SECONDS = 1.0  # how long leave waits for the others to be gone: one in an uninterruptible call may take for ever

# Removes the shared memory and semaphores that killed processes leave in /dev/shm, and ends by itself once they are gone.
SPARED = b"multiprocessing.resource_tracker"


def leave(code: int) -> NoReturn:
    """End the whole process group, then this process, at once, from any thread, whatever the main thread is doing."""
    deadline = time.monotonic() + KILL_SECONDS
    while kill_group() and time.monotonic() < deadline:
        time.sleep(0.01)
    os._exit(code)


def kill_group() -> int:
    """Kill the living processes of the own group but this one; returns how many there were. None where this process does
    not lead its group (started by hand from a shell): the others are not ours."""
    own = os.getpid()
    if os.getpgrp() != own:
        return 0
    victims = [pid for pid in group_members(own) if pid != own and SPARED not in command_line(pid)]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(victims)


def group_members(group: int) -> Iterator[int]:
    """The processes of a group that are alive. Zombies are not: where PID 1 does not reap they would stay for ever."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            state, pgrp = state_and_group(int(entry))
            if pgrp == group and state not in "ZX":
                yield int(entry)


def state_and_group(pid: int) -> tuple[str, int]:
    """State and process group from /proc/PID/stat (proc(5)); ("X", 0) for a process that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            after_name = file.read().rpartition(b")")[2].split()
    except OSError:
        return "X", 0
    return after_name[0].decode(), int(after_name[2])


def command_line(pid: int) -> bytes:
    """The command line of a process, arguments separated by NUL; empty if it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""
