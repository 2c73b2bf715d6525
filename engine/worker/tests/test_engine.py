"""What is told of engine processes that ended."""

import multiprocessing
import os
import signal
import time

from stoker_worker.engine import killer, started_processes


def ended(target, *args):
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    process.join()
    return process


def kill_self(by):
    os.kill(os.getpid(), by)
    time.sleep(60)


def test_ended_processes_are_found():
    process = ended(kill_self, signal.SIGKILL)
    assert process not in multiprocessing.active_children()
    assert process in started_processes()


def test_killer():
    well, failed = ended(time.sleep, 0), ended(os._exit, 1)
    killed, crashed, told = (ended(kill_self, by) for by in (signal.SIGKILL, signal.SIGUSR1, signal.SIGTERM))
    assert killer([well, failed, told]) is None
    assert killer([failed, crashed]) == signal.SIGUSR1
    assert killer([crashed, killed, told]) == signal.SIGKILL
    assert killer([]) is None
