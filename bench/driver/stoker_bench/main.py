"""One process, one engine: loads it, then runs files as it is told.

Commands come on stdin, replies leave on fd 3, both one JSON object a line; fd 1 and 2 are the log. A command names the way
and the files. End of file on stdin is the end.
"""

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from stoker_worker.family import EXIT_FAILURE, EXIT_SUCCESS, leave
from stoker_worker.fatal import Fatal

from . import stacks

REPLIES_FD = 3


def main(job_path: str) -> NoReturn:
    """Do the job: {"host", "model", "args", "folder", …}. Host is the module that knows the ways."""
    began = time.monotonic()
    job = json.loads(Path(job_path).read_text())
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # see driver.py
    stacks.sample_if_wanted("front")
    try:
        host = importlib.import_module(f".{job['host']}", __package__).start(job)
        say(type="loaded", seconds=time.monotonic() - began, **host.limits())
        stacks.forget()
        for line in sys.stdin:
            command = json.loads(line)
            say(type="ran", **host.run(command["way"], command["files"]))
    except Exception as error:
        traceback.print_exc()
        said = str(error) if isinstance(error, Fatal) else f"{type(error).__name__}: {error}"
        say(type="error", message=said, hint=getattr(error, "hint", None))
        leave(EXIT_FAILURE)
    stacks.stop()
    leave(EXIT_SUCCESS)


def say(**message: Any) -> None:
    """Tell stoker something."""
    os.write(REPLIES_FD, json.dumps(message).encode() + b"\n")
