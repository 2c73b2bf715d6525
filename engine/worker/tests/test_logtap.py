import subprocess
import sys

import pytest

from stoker_worker.logtap import LogTap, phase_of


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("INFO 11-23 [model.py:553] Resolved architecture: LlamaForCausalLM", ("loading", "architecture LlamaForCausalLM")),
        ("(EngineCore pid=7) INFO [core.py:110] Initializing a V1 LLM engine (v0.32.0)", ("loading", "engine process started")),
        ("(EngineCore pid=7) Loading safetensors checkpoint shards:  50% Completed | 1/2", ("loading", "weights 50 %")),
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  10%|# | 7/67", ("warming", "CUDA graphs 10 %")),
        ("INFO [kv_cache_utils.py:1] GPU KV cache size: 1,234,567 tokens", ("warming", "KV cache of 1,234,567 tokens")),
        ("INFO [backends.py:1] Using cache directory: /x for vLLM's torch.compile", ("compiling", "model")),
        ("INFO something else", None),
    ],
)
def test_phases(line, told):
    assert phase_of(line) == told


def test_children_write_through_the_tap_and_the_parent_does_not_afterwards(capfd):
    phases: list[tuple[str, str]] = []
    tap = LogTap(lambda *told: phases.append(told))
    program = "import os, sys; os.write(2, b'Starting to load model x\\r'); os.write(1, b'KeyError: oh no\\n')"
    with tap:
        child = subprocess.Popen([sys.executable, "-c", program])
    print("parent", file=sys.stderr)
    child.wait()
    assert tap.lines(wait=10) == ["Starting to load model x", "KeyError: oh no"]
    assert phases == [("loading", "weights")]
    tap.forget()
    assert tap.lines(wait=0) == []
    out, err = capfd.readouterr()
    assert (out, "parent\n" in err, "oh no" in err) == ("", True, True)
