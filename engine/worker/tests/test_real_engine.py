"""One worker with a loaded model, asked everything; in the end its engine is killed."""

import json
import os
import signal
import time

import pytest
from driver import LOAD_SECONDS, Worker

pytestmark = pytest.mark.real

HELLO = [{"role": "user", "content": "Say hello."}]
DEFAULTS = {"temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def worker(model):
    worker = Worker()
    try:
        worker.start(model, served_names=["*"], enable_auto_tool_choice=True, tool_call_parser="hermes")
        worker.send("defaults", id="d", params=DEFAULTS)
        worker.send("defaults", id="much", params={"temperature": 0, "max_tokens": 1_000_000})
        worker.wait_for("ready", LOAD_SECONDS)
        yield worker
    finally:
        worker.end()


def chat(**members):
    return {"messages": HELLO, "temperature": 0, "max_tokens": 8, **members}


def content(body):
    return body["choices"][0]["message"]["content"]


def test_comes_up_in_order(worker, model):
    told = [m for m in worker.said if m["type"] in ("hello", "phase", "ready")]
    hello, ready = told[0], worker.wait_for("ready")
    assert (hello["type"], hello["protocol"], hello["engine"], hello["tested"]) == ("hello", 1, "vllm", True)
    assert hello["pid"] == worker.pid
    phases = [m["phase"] for m in told if m["type"] == "phase"]
    assert phases[0] == "importing"
    assert {"importing", "loading", "warming"} <= set(phases)
    assert ready["model"] == model
    assert (ready["max_model_len"], ready["max_num_seqs"]) == (1024, 256)
    assert ready["kv_cache_tokens"] > 1024
    assert ready["urls"] == ["/v1/chat/completions", "/v1/completions", "/v1/responses"]
    print(f"\nhello after {hello['at'] - worker.began:.2f} s, ready after {ready['load_seconds']} s")
    for phase in (m for m in told if m["type"] == "phase"):
        print(f"  {phase['at'] - worker.began:6.2f} s {phase['phase']}: {phase['detail']}")


def test_chat(worker, model):
    status, body = worker.call(chat())
    assert status == 200
    assert body["object"] == "chat.completion"
    assert body["model"] == model
    assert content(body)
    assert body["usage"]["completion_tokens"] <= 8


def test_completion_and_responses(worker):
    status, body = worker.call({"prompt": "The sky is", "max_tokens": 4}, url="/v1/completions")
    assert (status, body["object"]) == (200, "text_completion")
    status, body = worker.call({"prompt": ["One", "Two"], "max_tokens": 4}, url="/v1/completions")
    assert (status, len(body["choices"])) == (200, 2)
    status, body = worker.call({"input": "Say hello.", "max_output_tokens": 8}, url="/v1/responses")
    assert (status, body["object"]) == (200, "response")


def test_simple_form(worker):
    line = {"custom_id": "a", "prompt": "Say hello.", "metadata": {"k": 1}, "temperature": 0}
    status, body = worker.call(line, form="simple", defaults="d")
    assert status == 200
    assert content(body) == content(worker.call(chat())[1])
    status, body = worker.call({"prompt": "The sky is", "raw": True}, form="simple", defaults="d")
    assert (status, body["object"], body["usage"]["completion_tokens"]) == (200, "text_completion", 8)
    status, body = worker.call({"custom_id": "c", "messages": HELLO}, form="simple", defaults="d")
    assert (status, body["usage"]["completion_tokens"]) == (200, 8)


def test_sampling_parameters_reach_vllm(worker):
    status, body = worker.call(chat(n=2, temperature=1, seed=1))
    assert (status, len(body["choices"])) == (200, 2)
    status, body = worker.call(chat(logprobs=True, top_logprobs=2))
    assert status == 200
    assert len(body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2
    same = [content(worker.call(chat(seed=7, temperature=1))[1]) for _ in range(2)]
    assert same[0] == same[1]
    text = content(worker.call(chat(max_tokens=30))[1])
    word = text.split()[2]
    status, body = worker.call(chat(max_tokens=30, stop=[word]))
    assert (status, body["choices"][0]["finish_reason"]) == (200, "stop")
    assert word not in content(body)


def test_structured_output_and_tools(worker):
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    status, body = worker.call(chat(response_format=wanted, max_tokens=60))
    assert (status, set(json.loads(content(body)))) == (200, {"n"})
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    status, body = worker.call(chat(tools=[tool], tool_choice={"type": "function", "function": {"name": "f"}}, max_tokens=60))
    print(f"\n{body['choices'][0]}")
    assert (status, body["choices"][0]["message"]["tool_calls"][0]["function"]["name"]) == (200, "f")


def test_two_requests_with_one_request_id(worker):
    keys = [worker.ask(chat(request_id="same")) for _ in range(2)]
    ids = {worker.answer(key)["body"]["id"] for key in keys}
    assert len(ids) == 2
    assert "chatcmpl-same" not in ids


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
ERRORS = {
    "over-long prompt": (chat(messages=[{"role": "user", "content": "word " * 2000}]), None),
    "max_tokens 100000": (chat(max_tokens=100_000), "max_tokens"),
    "max_tokens 0": (chat(max_tokens=0), None),
    "max_tokens -1": (chat(max_tokens=-1), None),
    "temperature -1": (chat(temperature=-1), None),
    "bad schema": (chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 5}}}), None),
    "bad regex": (chat(structured_outputs={"regex": "("}), None),
    "top_logprobs 50": (chat(logprobs=True, top_logprobs=50), None),
    "huge n": (chat(n=1_000_000, temperature=1), None),
    "empty messages": (chat(messages=[]), None),
    "missing messages": ({"max_tokens": 4}, "messages"),
    "messages is text": (chat(messages="hello"), "messages"),
    "message without role": (chat(messages=[{"content": "x"}]), None),
    "wrong type": (chat(temperature="hot"), "temperature"),
    "image": (chat(messages=[{"role": "user", "content": [IMAGE]}]), None),
    "stream": (chat(stream=True), "stream"),
    "body is a list": ([1, 2], None),
    "body is null": (None, None),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error(worker, case):
    body, param = ERRORS[case]
    status, answer = worker.call(body)
    error = answer["error"]
    print(f"\n{case}: {error}")
    assert (status, error["code"], set(error)) == (400, 400, {"message", "type", "param", "code"})
    assert param is None or error["param"] == param
    for machinery in ("pydantic", "validation error", "ChatCompletionRequest", "Traceback", "NoneType"):
        assert machinery not in error["message"]


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/completions", {"prompt": "", "max_tokens": 4}),
        ("/v1/completions", {"prompt": [10_000_000], "max_tokens": 4}),
        ("/v1/responses", {"input": "x", "background": True}),
        ("/v1/responses", {"max_output_tokens": 4}),
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/score", {"text_1": "x", "text_2": "y"}),
        ("/v1/rerank", {"query": "x", "documents": ["y"]}),
        ("/v1/audio/speech", {}),
    ],
)
def test_error_of_other_urls(worker, url, body):
    status, answer = worker.call(body, url=url)
    print(f"\n{url}: {answer['error']}")
    assert (status, answer["error"]["code"]) == (400, 400)


def test_good_and_bad_together(worker):
    good = [worker.ask(chat(max_tokens=16)) for _ in range(8)]
    bad = [worker.ask(body) for body, _ in list(ERRORS.values())[:6]]
    assert [worker.answer(key)["status"] for key in good] == [200] * 8
    assert [worker.answer(key)["status"] for key in bad] == [400] * 6


def test_model_name(worker, model):
    for name in ("gpt-4o", model, None):
        status, body = worker.call(chat(model=name))
        assert (status, body["model"]) == (200, model)


def test_defaults(worker):
    status, body = worker.call({"messages": HELLO}, defaults="d")
    assert (status, body["usage"]["completion_tokens"]) == (200, 8)
    status, body = worker.call({"messages": HELLO, "max_completion_tokens": 3}, defaults="d")
    assert (status, body["usage"]["completion_tokens"]) == (200, 3)
    status, body = worker.call({"input": "Say hello."}, url="/v1/responses", defaults="d")
    assert (status, body["max_output_tokens"]) == (200, 8)


def test_default_max_tokens_is_cut_to_the_context(worker):
    ignore = {"ignore_eos": True}
    for url, body in [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "word " * 900}], **ignore}),
        ("/v1/completions", {"prompt": "word " * 950, **ignore}),
    ]:
        status, answer = worker.call(body, url=url, defaults="much")
        assert (status, answer["usage"]["total_tokens"]) == (200, 1024)
    status, answer = worker.call({"messages": [{"role": "user", "content": "word " * 2000}]}, defaults="much")
    assert (status, answer["error"]["code"]) == (400, 400)


def test_cancel(worker):
    keys = [worker.ask(chat(max_tokens=900, ignore_eos=True)) for _ in range(10)]
    assert until(worker, lambda s: s["running"] == 10)["generation_tokens"] > 0
    worker.send("cancel", keys=keys[:9])
    assert until(worker, lambda s: s["running"] <= 1)
    worker.send("cancel", keys=keys[9:])
    assert until(worker, lambda s: s["running"] == 0)["waiting"] == 0
    assert worker.call(chat())[0] == 200
    assert not [m for m in worker.said if m.get("key") in keys]


def test_ping_under_load(worker):
    keys = [worker.ask(chat(max_tokens=64, ignore_eos=True)) for _ in range(32)]
    began = time.monotonic()
    worker.send("ping", seq=77)
    pong = worker.wait(lambda m: m["type"] == "pong" and m["seq"] == 77)
    answers = [worker.answer(key) for key in keys]
    assert {a["status"] for a in answers} == {200}
    seconds = max(a["at"] for a in answers) - began
    print(f"\npong after {pong['at'] - began:.4f} s; 32 requests of 64 tokens: {2048 / seconds:.0f} tok/s")


def test_engine_killed(worker):
    """No line in flight gets an answer for what is not its fault."""
    keys = [worker.ask(chat(max_tokens=900, ignore_eos=True)) for _ in range(10)]
    until(worker, lambda s: s["running"] == 10)
    began = time.monotonic()
    os.kill(worker.engine_core(), signal.SIGKILL)
    fatal = worker.wait_for("fatal")
    took = worker.wait_gone(5)
    print(f"\nfatal {fatal['at'] - began:.2f} s after the kill, all gone {took:.2f} s later: {fatal}")
    assert (fatal["cause"], fatal["permanent"], fatal["signal"]) == ("engine_dead", False, signal.SIGKILL)
    assert worker.status == 1
    worker.wait_for("end")
    assert worker.said[-2] == fatal
    assert not [m for m in worker.said if m.get("key") in keys]


def until(worker, wanted, seconds=30):
    """The first statistics that are as wanted."""
    end = time.monotonic() + seconds
    while not wanted(statistics := worker.statistics()):
        assert time.monotonic() < end, statistics
    return statistics
