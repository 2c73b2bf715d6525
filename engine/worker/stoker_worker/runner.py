"""The worker's first and last words. What it does between them is in service, which needs msgspec and later vLLM."""

import os
import platform
import sys
from functools import partial
from typing import NoReturn

from . import versions
from .family import EXIT_FAILURE, EXIT_SUCCESS, leave
from .fatal import Fatal, from_exception
from .pipes import Writer
from .protocol import VERSION, encode

REQUESTS_FD = 3
REPLIES_FD = 4

FLUSH_SECONDS = 1.0  # how long the daemon may take to read the last replies

ENVIRONMENT_HINT = "engine.python must name a Python environment with vLLM; `stoker setup` makes one"


def main() -> NoReturn:
    """Serve the daemon on the file descriptors that it passes until it says `stop`, goes away, or nothing more can be done."""
    writer = Writer(REPLIES_FD, on_broken=lambda: leave(EXIT_FAILURE))
    writer.send(hello())
    try:
        from .service import Service
    except ImportError as error:
        fatal = from_exception(error, otherwise="import_error")
        if fatal.cause != "gpu_memory":
            fatal = Fatal("import_error", f"import msgspec, a part of vLLM: {error}", ENVIRONMENT_HINT)
        give_up(writer, fatal)
    try:
        Service(REQUESTS_FD, writer, partial(give_up, writer)).run()
    except Fatal as fatal:
        give_up(writer, fatal)
    except Exception as error:
        give_up(writer, from_exception(error, otherwise="internal"))
    writer.close(FLUSH_SECONDS)
    leave(EXIT_SUCCESS)


def hello() -> bytes:
    """The first message."""
    version = versions.installed()
    return encode(
        "hello",
        protocol=VERSION,
        engine="vllm",
        version=version or "",
        pid=os.getpid(),
        python=platform.python_version(),
        tested=versions.is_tested(version),
    )


def give_up(writer: Writer, fatal: Fatal) -> NoReturn:
    """Say why, and end the whole process group. From any thread."""
    print(f"stoker worker: {fatal.cause}: {fatal.message}", file=sys.stderr)
    told = {"memory": fatal.memory, "signal": fatal.signal, "hint": fatal.hint}
    writer.send(encode("fatal", cause=fatal.cause, permanent=fatal.permanent, message=fatal.message, **told))
    writer.close(FLUSH_SECONDS)
    leave(EXIT_FAILURE)
