"""vLLM's own parser and configuration, without starting an engine: what is accepted, and how a refusal reads."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from stoker_worker import engine
from stoker_worker.fatal import Fatal

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def vllm(model):
    return engine.import_vllm(lambda phase, detail: None)


def refusal(vllm, model, **args) -> Fatal:
    with pytest.raises(Fatal) as caught:
        engine.configure(vllm, engine.parse(vllm, {"model": model, **args}))
    print(f"\n{args}: {caught.value.cause}: {caught.value.message} ({caught.value.hint})")
    return caught.value


def test_values_of_all_types(vllm, model):
    parsed = engine.parse(
        vllm,
        {
            "model": model,
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "max_model_len": 512,
            "gpu_memory_utilization": 0.5,
            "compilation_config": {"mode": 0},
            "served_model_name": ["a", "b"],
            "override_generation_config": {"temperature": 0.1},
            "tool_call_parser": "hermes",
            "enable_auto_tool_choice": True,
            "revision": None,
            "default_chat_template_kwargs": {"enable_thinking": False},
        },
    )
    assert (parsed.enforce_eager, parsed.enable_prefix_caching, parsed.max_model_len) == (True, False, 512)
    assert (parsed.served_model_name, parsed.compilation_config.mode) == (["a", "b"], 0)
    config = vllm.configure(parsed)
    assert config.model_config.max_model_len == 512
    assert config.model_config.override_generation_config == {"temperature": 0.1}


@pytest.mark.parametrize(
    ("args", "part"),
    [
        ({"max_model_len": "soup"}, "max_model_len: invalid value: 'soup'"),
        ({"enforce_eager": "yes"}, "enforce_eager: 'yes' is neither true nor false"),
        ({"dtype": "float7"}, "dtype: invalid choice: 'float7'"),
        ({"max_model_len": 999_999}, "max_model_len (999999) is greater"),
        ({"compilation_config": {"nope": 1}}, "compilation_config: nope Unexpected keyword argument"),
        ({"gpu_memory_utilization": 7.0}, "gpu_memory_utilization: Input should be less than or equal to 1"),
        ({"enable_auto_tool_choice": True}, "needs tool_call_parser"),
        ({"chat_template": "/nowhere/x.jinja"}, "/nowhere/x.jinja"),
    ],
)
def test_wrong_value(vllm, model, args, part):
    fatal = refusal(vllm, model, **args)
    assert (fatal.cause, fatal.permanent) == ("bad_argument", True)
    assert part in fatal.message
    assert len(fatal.message) <= 300


def test_names_that_vllm_does_not_know(vllm, model):
    assert refusal(vllm, model, max_model_length=5).hint == "did you mean max_model_len?"
    assert refusal(vllm, model, tool_call_parser="herms").hint == "did you mean hermes?"
    assert "granite" in refusal(vllm, model, reasoning_parser="zork").hint
    assert refusal(vllm, model, port=80).cause == "bad_argument"


def test_model_of_an_unknown_kind(vllm, model, tmp_path):
    config = json.loads((Path(model) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "frob", "architectures": ["FrobForCausalLM"]}))
    fatal = refusal(vllm, str(tmp_path))
    assert (fatal.cause, fatal.permanent) == ("model_unsupported", True)


def test_no_hub(vllm, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    fatal = refusal(vllm, "nobody/nothing")
    assert fatal.cause == "model_not_found"


def config(graphs: int | None, *, sequences: int = 1024, tokens: int = 16384, speculative: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        compilation_config=SimpleNamespace(max_cudagraph_capture_size=graphs),
        scheduler_config=SimpleNamespace(max_num_seqs=sequences, max_num_batched_tokens=tokens),
        num_speculative_tokens=speculative,
    )


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (config(512), True),
        (config(512, sequences=512), False),
        (config(None), False),  # a CPU
        (config(0), False),  # enforce_eager
        (config(512, tokens=768), False),  # a step never has as many
        (config(512, speculative=3), False),  # several tokens a request
    ],
)
def test_graphs_end_early(vllm, given, want):
    assert vllm.graphs_end_early(given) is want


def test_graphs_are_extended_unless_chosen(vllm, model, monkeypatch):
    made = []

    def engine_config(args):
        made.append(args.max_cudagraph_capture_size)
        return config(args.max_cudagraph_capture_size or 512)

    monkeypatch.setattr(vllm, "engine_config", engine_config)
    for args, want in [
        ({}, [None, 1024]),
        ({"max_cudagraph_capture_size": 256}, [256]),
        ({"cudagraph_capture_sizes": [1, 2]}, [None]),
        ({"compilation_config": {"max_cudagraph_capture_size": 256}}, [None]),
        ({"compilation_config": {"cudagraph_capture_sizes": [1, 2]}}, [None]),
        ({"compilation_config": {"mode": 0}}, [None, 1024]),
    ]:
        made.clear()
        vllm.configure(engine.parse(vllm, {"model": model, **args}))
        assert made == want, args
