"""Loads vLLM and its model."""

import gc
import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from . import arguments
from .fatal import Fatal, from_exception, from_log, killed_by
from .logtap import LogTap
from .stats import Counters

LOG_LAG = 0.2  # seconds in which the last words of a failed engine process reach the tap

MODEL_CONFIGS = ("config.json", "params.json")  # of Hugging Face's and Mistral's models

# The worker's own settings; the user's stand where there are any.
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}

Phase = Callable[[str, str], None]


@dataclass(slots=True)
class Engine:
    """A loaded model."""

    vllm: ModuleType  # compat
    client: Any  # AsyncLLM
    state: Any  # the handlers
    counters: Counters
    log: LogTap
    processes: list[BaseProcess]  # that vLLM started

    @property
    def is_dead(self) -> bool:
        """Whether the engine's process has died."""
        return bool(self.client.errored)

    def death(self) -> Fatal:
        """Why the engine died, as far as its log and its exit status tell."""
        root = from_log(self.log.lines(wait=LOG_LAG))
        by = killer(self.processes)
        if by is not None and (root is None or (root.cause == "internal" and by == signal.SIGKILL)):
            return killed_by(by)
        if root is not None:
            return Fatal("engine_dead", f"vLLM's engine process died: {root.message}", root.hint)
        return Fatal("engine_dead", "vLLM's engine process died")

    def limits(self) -> dict[str, Any]:
        """The members of `ready` that come from the engine."""
        config = self.client.vllm_config
        return {
            "model": self.vllm.served_models(self.state)[0],
            "max_model_len": config.model_config.max_model_len,
            "max_num_seqs": self.vllm.max_num_seqs(config),
            "kv_cache_tokens": self.vllm.kv_cache_tokens(config),
            "urls": [url for url, endpoint in self.vllm.ENDPOINTS.items() if endpoint.handler(self.state)],
        }


async def load(model: str, args: Mapping[str, Any], phase: Phase) -> Engine:
    """Load the model. Blocks the event loop for most of the time. Raises Fatal."""
    check_folder(model)
    prepare_environment()
    vllm = import_vllm(phase)
    parsed = parse(vllm, {"model": model, **args})
    counters, log = Counters(), LogTap(phase)
    with log:
        phase("loading", "configuration")
        config = configure(vllm, parsed)
        client = start(vllm, config, parsed, counters, log)
    phase("warming", "request handlers")
    state = await handlers(vllm, client, parsed)
    log.forget()
    gc.collect()
    gc.freeze()  # a full collection took 1 s before this and microseconds after it
    return Engine(vllm, client, state, counters, log, multiprocessing.active_children())


def check_folder(model: str) -> None:
    """Find out at once, before the slow imports, that a folder is not there or holds no model."""
    path = Path(model)
    if not (path.is_absolute() or model.startswith(("./", "../", "~"))):
        return  # the name of a model on the hub
    if not path.exists():
        raise Fatal("model_not_found", f"model folder {model} does not exist", "check engine.model")
    if path.is_dir() and not any((path / name).exists() for name in MODEL_CONFIGS):
        raise Fatal("model_not_found", f"model folder {model} holds no {' or '.join(MODEL_CONFIGS)}", "check engine.model")


def prepare_environment() -> None:
    """Set what vLLM reads from the environment while it is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Not a default but a must: only a spawned process runs worker.py again and so dies with this one.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"


def import_vllm(phase: Phase) -> ModuleType:
    """Import vLLM: 10 to 30 s. Raises Fatal."""
    try:
        phase("importing", "torch")
        importlib.import_module("torch")
        phase("importing", "vllm")
        return importlib.import_module(".compat", __package__)
    except Exception as error:  # a broken shared library raises an OSError, a version that does not fit whatever it likes
        if (fatal := from_exception(error, otherwise="import_error")).cause == "gpu_memory":
            raise fatal from error
        hint = "engine.python must name a Python environment with vLLM 0.26 or newer; `stoker setup` makes one"
        raise Fatal("import_error", f"import vllm: {type(error).__name__}: {error}", hint) from error


def parse(vllm: ModuleType, args: Mapping[str, Any]) -> Any:
    """Parsed arguments, checked as far as they can be without the model. Raises Fatal."""
    parser = vllm.argument_parser()
    try:
        parsed = parser.parse_args(arguments.command_line(parser, args))
    except arguments.BadValue as error:
        raise arguments.refused(error) from error
    try:
        vllm.import_plugins(parsed)
        vllm.check(parsed)
    except Fatal:
        raise
    except Exception as error:
        raise from_exception(error, otherwise="bad_argument") from error
    return parsed


def configure(vllm: ModuleType, parsed: Any) -> Any:
    """VLLM's configuration. Raises Fatal."""
    try:
        return vllm.configure(parsed)
    except (ValueError, TypeError, KeyError, AssertionError, NotImplementedError) as error:
        raise from_exception(error, otherwise="bad_argument") from error
    except Exception as error:
        raise from_exception(error, otherwise="internal") from error


def start(vllm: ModuleType, config: Any, parsed: Any, counters: Counters, log: LogTap) -> Any:
    """Start the engine's processes and wait until the model is loaded. Raises Fatal."""
    try:
        return vllm.AsyncLLM.from_vllm_config(
            config,
            usage_context=vllm.USAGE,
            stat_loggers=[vllm.stat_logger(counters)],
            enable_log_requests=parsed.enable_log_requests,
            disable_log_stats=True,  # vLLM's own loggers, which cost time at each step; the one above stays
        )
    except Exception as error:
        fatal = from_exception(error, otherwise="internal")
        if fatal.cause in ("internal", "engine_dead"):
            logged = from_log(log.lines(wait=LOG_LAG))
            if logged is not None and (fatal.signal is None or logged.cause != "internal"):
                fatal = logged
            elif fatal.signal is None and (by := killer(started_processes())) is not None:
                fatal = killed_by(by)  # vLLM looked before the kernel had its exit status
        raise fatal from error


def started_processes() -> list[BaseProcess]:
    """All that multiprocessing has started and somebody still refers to: it forgets those that have ended."""
    return [o for o in gc.get_objects() if issubclass(type(o), BaseProcess)]


def killer(processes: Iterable[BaseProcess]) -> int | None:
    """The signal that killed one of the processes; None if none did. SIGTERM is vLLM's own way of ending them."""
    signals = {-p.exitcode for p in processes if p.exitcode is not None and p.exitcode < 0} - {signal.SIGTERM}
    return signal.SIGKILL if signal.SIGKILL in signals else next(iter(signals), None)


async def handlers(vllm: ModuleType, client: Any, parsed: Any) -> Any:
    """The request handlers of vLLM's HTTP server, for a started engine. Raises Fatal."""
    state = vllm.State()
    try:
        await client.reset_mm_cache()  # what warming up left there
        await vllm.init_app_state(client, state, parsed, await client.get_supported_tasks())
    except vllm.EngineDeadError as error:
        raise Fatal("engine_dead", "the engine died while it was warmed up") from error
    except Exception as error:
        raise from_exception(error, otherwise="bad_argument") from error
    return state
