import pytest

from stoker_worker.fatal import Fatal, from_exception, from_log

ENGINE_LOG = """\
(EngineCore pid=7) INFO 11-23 21:29:01 [cpu_worker.py:50] auto thread-binding
(EngineCore pid=7) ERROR 11-23 21:29:03 [core.py:1510] EngineCore failed to start.
(EngineCore pid=7) ERROR 11-23 21:29:03 [core.py:1510] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-23 21:29:03 [core.py:1510]   File "core.py", line 1482, in run_engine_core
(EngineCore pid=7) ERROR 11-23 21:29:03 [core.py:1510] {root}
(EngineCore pid=7) Process EngineCore:
(EngineCore pid=7) Traceback (most recent call last):
(EngineCore pid=7) {root}
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{'EngineCore': 1}}
"""


@pytest.mark.parametrize(
    ("error", "cause", "permanent"),
    [
        (ValueError("max_model_len (9) is greater than the derived"), "bad_argument", True),
        (ValueError("Invalid repository ID or local directory specified: '/x'."), "model_not_found", True),
        (OSError("x is not a local folder and is not a valid model identifier listed on"), "model_not_found", True),
        (OSError("We couldn't connect to 'https://huggingface.co' to load the files"), "model_not_found", False),
        (OSError("Cannot reach x: offline mode is enabled."), "model_not_found", True),
        (OSError("You are trying to access a gated repo."), "model_gated", True),
        (ValueError("Model architectures ['X'] are not supported for now."), "model_unsupported", True),
        (ValueError("has model type `x` but Transformers does not recognize this architecture."), "model_unsupported", True),
        (ValueError("please pass the argument `trust_remote_code=True`"), "model_unsupported", True),
        (ValueError("Free memory on device cuda:0 (1.0/80 GiB) on startup is less than desired"), "gpu_memory", False),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "gpu_memory", False),
    ],
)
def test_exceptions(error, cause, permanent):
    fatal = from_exception(error, otherwise="bad_argument")
    assert (fatal.cause, fatal.permanent) == (cause, permanent)
    assert fatal.message == str(error)


def test_the_cause_of_an_exception_counts():
    try:
        try:
            raise OSError("403 Client Error: Forbidden")
        except OSError as error:
            raise ValueError("cannot load the configuration") from error
    except ValueError as error:
        assert from_exception(error, otherwise="internal").cause == "model_gated"


@pytest.mark.parametrize(
    ("root", "cause"),
    [
        (
            "ValueError: Free memory on device cuda:0 (1/80 GiB) on startup is less than desired GPU memory utilization",
            "gpu_memory",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 MiB.", "gpu_memory"),
        (
            "ValueError: To serve at least one request, 9 GiB is needed, which is larger than the available KV cache memory",
            "gpu_memory",
        ),
        ("KeyError: 'layers.0.weight'", "internal"),
    ],
)
def test_root_cause_from_the_log(root, cause):
    fatal = from_log(ENGINE_LOG.format(root=root).splitlines())
    assert fatal is not None
    assert fatal.cause == cause
    assert root.partition(": ")[2] in fatal.message


def test_a_log_that_tells_nothing():
    assert from_log(["INFO all is well", "RuntimeError: Engine core initialization failed. See root cause above."]) is None


def test_permanent_can_be_said_otherwise():
    assert Fatal("model_not_found", "x").permanent
    assert not Fatal("model_not_found", "x", permanent=False).permanent
