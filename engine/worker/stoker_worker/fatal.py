"""Why the worker gives up: the causes of the `fatal` message, and how an exception or vLLM's log tells them apart."""

import re
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .memory import Shortage, shortage
from .text import condense

PERMANENT = frozenset({"import_error", "bad_argument", "model_not_found", "model_gated", "model_unsupported"})


class Fatal(Exception):
    """The worker cannot go on. `permanent`: starting again would end the same way."""

    def __init__(self, cause: str, message: str, hint: str | None = None, permanent: bool | None = None) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message
        self.hint = hint
        self.permanent = cause in PERMANENT if permanent is None else permanent
        self.memory: Shortage | None = None  # what was missing
        self.signal: int | None = None  # what killed the engine's process


@dataclass(frozen=True, slots=True)
class Sign:
    """Words that vLLM, PyTorch, transformers or huggingface_hub use for one cause."""

    pattern: re.Pattern[str]
    cause: str
    hint: str | None = None
    permanent: bool | None = None


def _sign(pattern: str, cause: str, hint: str | None = None, permanent: bool | None = None) -> Sign:
    return Sign(re.compile(pattern, re.IGNORECASE), cause, hint, permanent)


GATED_HINT = "accept the model's terms on huggingface.co and give a token that may read it in engine.hf_token_file"
MEMORY_HINT = "free memory on the device, or lower engine.gpu_memory_utilization"
HOST_HINT = "stop what else uses memory, or lower kv_cache_memory_bytes in [engine.args]"
FIT_HINT = "lower engine.max_model_len, or raise engine.gpu_memory_utilization"
LIBRARY_HINT = (
    "a library is missing that worker.log names: for a CPU vLLM needs libnuma (Debian, Ubuntu: apt-get install libnuma1)"
)
NAME_HINT = "check engine.model; a private model needs engine.hf_token_file"

# The first that matches decides, so the particular stand before the general.
SIGNS = (
    # vLLM only warns that its compiled part could not be loaded, and stumbles over that later.
    _sign(r"'_OpNamespace' '_C\w*' object has no attribute", "import_error", LIBRARY_HINT),
    _sign(r"GatedRepoError|gated repo|access to model .* is restricted|403 (client error|forbidden)", "model_gated", GATED_HINT),
    _sign(
        r"OfflineModeIsEnabled|offline mode is enabled|HF_HUB_OFFLINE",
        "model_not_found",
        "the model is not in the cache and HF_HUB_OFFLINE forbids to fetch it",
    ),
    _sign(
        r"couldn't connect to 'http|LocalEntryNotFoundError",
        "model_not_found",
        "the model is not in the cache and its hub cannot be reached",
        permanent=False,
    ),
    _sign(
        r"RepositoryNotFoundError|RevisionNotFoundError|Repository Not Found|Revision Not Found|not a valid model identifier"
        r"|Invalid repository ID or local directory|Repo id must|404 client error|does not appear to have a file named"
        r"|Cannot find any model weights",
        "model_not_found",
        NAME_HINT,
    ),
    _sign(
        r"trust_remote_code", "model_unsupported", "set trust_remote_code = true in [engine.args] if you trust the model's code"
    ),
    _sign(
        r"architectures? .* (is|are) not supported|does not recognize this architecture|not supported for now"
        r"|Unrecognized model|Should have a `model_type` key|Unknown quantization",
        "model_unsupported",
    ),
    _sign(r"larger than the available KV cache memory|No available memory for the cache blocks", "gpu_memory", FIT_HINT),
    _sign(
        r"Available memory on node|DefaultCPUAllocator: can't allocate|Cannot allocate memory|\bMemoryError\b",
        "gpu_memory",
        HOST_HINT,
    ),
    _sign(
        r"Free memory on device|OutOfMemoryError|CUDA out of memory|HIP out of memory|CUDA error: out of memory",
        "gpu_memory",
        MEMORY_HINT,
    ),
)

EXCEPTION_LINE = re.compile(r"\b((?:\w+\.)*\w*(?:Error|Exception|NotFound|Interrupt)): (.+)$")
SECONDARY = re.compile(r"Engine core initialization failed|WorkerProc initialization failed|EngineDeadError|EngineCore failed")


# How vLLM words the exit status of a process that a signal killed.
KILLED = re.compile(r"Failed core proc\(s\): \{'\w+': -(?P<core>\d+)|died unexpectedly \(exit code: -(?P<worker>\d+)\)")


def from_exception(error: BaseException, otherwise: str) -> Fatal:
    """Tell from an exception and its causes why loading failed; `otherwise` where they say nothing in particular."""
    texts = [f"{type(e).__name__}: {e}" for e in chain(error)]
    if sign := first_sign(texts):
        return told(sign, condense(error), texts)
    return from_kill(texts) or Fatal(otherwise, condense(error))


def from_log(lines: Iterable[str]) -> Fatal | None:
    """Tell from the log of the engine's processes why they ended: the main process hears only that they did. None if the
    log does not tell."""
    lines = list(lines)
    roots = [match for line in lines if (match := EXCEPTION_LINE.search(line)) and not SECONDARY.search(line)]
    for match in roots:
        if sign := first_sign([match.group(0)]):
            return told(sign, condense(match.group(2)), [match.group(0)])
    if killed := from_kill(lines):
        return killed
    # What was raised first is the root; the others came while it was handled.
    return Fatal("internal", condense(roots[0].group(0))) if roots else None


def told(sign: Sign, message: str, texts: Iterable[str]) -> Fatal:
    """What a sign in the texts stands for."""
    fatal = Fatal(sign.cause, message, sign.hint, sign.permanent)
    if sign.cause == "gpu_memory":
        fatal.memory = shortage(texts)
    return fatal


def from_kill(texts: Iterable[str]) -> Fatal | None:
    """The death of an engine process by a signal, if the texts tell of one."""
    for text in texts:
        if match := KILLED.search(text):
            return killed_by(int(match["core"] or match["worker"]))
    return None


def killed_by(number: int) -> Fatal:
    """The death of an engine process by a signal."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    fatal = Fatal("engine_dead", f"vLLM's engine process was killed by {name}")
    fatal.signal = number
    return fatal


def first_sign(texts: Iterable[str]) -> Sign | None:
    """The sign that one of the texts shows, the texts in their order."""
    return next((sign for text in texts for sign in SIGNS if sign.pattern.search(text)), None)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, then what caused it, down to the root."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
