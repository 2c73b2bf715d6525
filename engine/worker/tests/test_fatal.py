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
        (ImportError("libtorch_cpu.so: failed to map segment from shared object: Cannot allocate memory"), "gpu_memory", False),
        (MemoryError(), "gpu_memory", False),
        (AttributeError("'_OpNamespace' '_C' object has no attribute 'init_cpu_memory_env'"), "import_error", True),
    ],
)
def test_exceptions(error, cause, permanent):
    fatal = from_exception(error, otherwise="bad_argument")
    assert (fatal.cause, fatal.permanent) == (cause, permanent)
    assert fatal.message == (str(error) or type(error).__name__)


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
        ("AttributeError: '_OpNamespace' '_C' object has no attribute 'init_cpu_memory_env'", "import_error"),
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


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        (
            "ValueError: Free memory on device cuda:0 (3.11/79.11 GiB) on startup is less than desired GPU memory utilization "
            "(0.92, 72.78 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
            {"device": "cuda:0", "need": 72.78, "free": 3.11, "total": 79.11},
        ),
        (
            "ValueError: Free memory on device cuda:1 (3.11/79.11 GiB) on startup is less than the engine's budget after "
            "excluding external process's weights (0.92, 12.5 GiB). Decrease GPU memory utilization or reduce GPU memory used "
            "by other processes.",
            {"device": "cuda:1", "need": 12.5, "free": 3.11, "total": 79.11},
        ),
        (
            "ValueError: Available memory on node 0 (1.9/4.0 GiB) on startup is less than desired CPU memory utilization "
            "(0.92, 3.68 GiB). On the CPU backend, the `--gpu-memory-utilization` flag controls the fraction of CPU memory "
            "reserved (despite its name).",
            {"device": "node 0", "need": 3.68, "free": 1.9, "total": 4.0},
        ),
        (
            "ValueError: Available memory on node 0 (1.2/4.0 GiB) on kv cache allocation is less than requested memory for kv "
            "(2.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by other processes.",
            {"device": "node 0", "need": 2.0, "free": 1.2, "total": 4.0},
        ),
        (
            "ValueError: Available memory on node 0 (1.2/4.0 GiB) on kv cache allocation is less than requested memory for kv "
            "(2.5/3.68 GiB). Reduce CPU memory used by other processes.",
            {"device": "node 0", "need": 2.5, "free": 1.2, "total": 4.0},
        ),
        (
            # Recorded on an H100, PyTorch 2.11.
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.18 GiB of "
            "which 8.15 GiB is free. Process 428 has 70.51 GiB memory in use. Including non-PyTorch memory, this process has "
            "518.00 MiB memory in use. Of the allocated memory 0 bytes is allocated by PyTorch, and 0 bytes is reserved by "
            "PyTorch but unallocated.",
            {"device": "cuda:0", "need": 20.0, "free": 8.15, "total": 79.18},
        ),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:129] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
            "to allocate 2147483648 bytes. Error code 12 (Cannot allocate memory)",
            {"need": 2.0},
        ),
        ("torch.OutOfMemoryError: CUDA out of memory.", None),
    ],
)
def test_missing_memory(text, memory):
    """The texts of vLLM 0.26 and 0.32 and of PyTorch."""
    fatal = from_log(ENGINE_LOG.format(root=text).splitlines())
    assert (fatal.cause, fatal.permanent) == ("gpu_memory", False)
    if memory is not None:
        memory = {name: value if name == "device" else int(value * (1 << 30)) for name, value in memory.items()}
    assert fatal.memory == memory


@pytest.mark.parametrize(
    ("text", "message", "number"),
    [
        ("RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': -9}", "SIGKILL", 9),
        ("ERROR [multiproc_executor.py:316] Worker proc VllmWorker-1 died unexpectedly (exit code: -11), shutting down", "SIGSEGV", 11),
    ],
)
def test_killed_engine_process(text, message, number):
    fatal = from_log([text])
    assert (fatal.cause, fatal.permanent, fatal.signal) == ("engine_dead", False, number)
    assert message in fatal.message
