"""What the worker makes of a handler's ways to fail. The handler here refuses as vLLM 0.26 does, which needs a GPU: a bound
that does not fit beside the prompt. The tests with a real model do the same with the vLLM that is installed."""

import asyncio
import json
from types import SimpleNamespace

import msgspec
import pydantic
import pytest

from stoker_worker.answers import Answerer, EngineDead
from stoker_worker.messages import Message

CONTEXT = 100
URL = "/v1/completions"


class EngineDeadError(Exception):
    pass


class TooLong(ValueError):
    parameter = "input_tokens"


class ErrorInfo(pydantic.BaseModel):
    message: str
    param: str | None = None
    code: int = 400


class ErrorResponse(pydantic.BaseModel):
    error: ErrorInfo


class Request(pydantic.BaseModel):
    model: str | None = None
    prompt: str | list[str]
    max_tokens: int | None = 16


class Answer(pydantic.BaseModel):
    model: str
    tokens: int


class Page:  # a Starlette response
    def __init__(self, media_type):
        self.media_type, self.body, self.status_code = media_type, b'{"data":[]}', 200


def create_error_response(error):
    code = 400 if isinstance(error, ValueError) else 500
    return ErrorResponse(error=ErrorInfo(message=str(error), param=getattr(error, "parameter", None), code=code))


class Engine:
    """An engine that gives a prompt of n letters n tokens."""

    def __init__(self, fail=None):
        self.calls = 0
        self.is_dead = False
        self._fail = fail
        endpoint = SimpleNamespace(
            handler=lambda state: self.complete,
            adapter=lambda: pydantic.TypeAdapter(Request),
            members=lambda: frozenset(Request.model_fields),
            limit="max_tokens",
            by_alias=False,
        )
        absent = SimpleNamespace(handler=lambda state: None)
        self.vllm = SimpleNamespace(
            ENDPOINTS={URL: endpoint, "/v1/embeddings": absent},
            served_models=lambda state: ("real", frozenset()),
            create_error_response=create_error_response,
            ErrorResponse=ErrorResponse,
            EngineDeadError=EngineDeadError,
            Response=Page,
        )
        self.state = None
        self.client = SimpleNamespace(
            vllm_config=SimpleNamespace(model_config=SimpleNamespace(max_model_len=CONTEXT)),
        )

    async def complete(self, request):
        self.calls += 1
        if self._fail:
            return self._fail(self)
        room = CONTEXT - max(map(len, [request.prompt] if isinstance(request.prompt, str) else request.prompt))
        if room < (request.max_tokens or 1):
            raise TooLong("too long")
        return Answer(model=request.model, tokens=request.max_tokens or room)


def ask(engine, body, url=URL, form="openai", **defaults):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    message = Message(type="request", key=1, url=url, form=form, body=msgspec.Raw(raw))
    status, answer = asyncio.run(Answerer(engine, "name", ["*"]).answer(message, defaults))
    return status, json.loads(answer)


def test_a_default_that_fits_is_taken_as_it_is():
    engine = Engine()
    assert ask(engine, {"prompt": "x" * 50}, max_tokens=50) == (200, {"model": "real", "tokens": 50})
    assert engine.calls == 1


@pytest.mark.parametrize("bound", [51, 100, 5000])
def test_a_default_that_does_not_fit_gives_all_the_room_there_is(bound):
    engine = Engine()
    assert ask(engine, {"prompt": "x" * 50}, max_tokens=bound)[1]["tokens"] == 50
    assert engine.calls == 2


def test_a_bound_of_the_line_that_does_not_fit_is_an_error():
    engine = Engine()
    assert ask(engine, {"prompt": "x" * 50, "max_tokens": 51}, max_tokens=5)[0] == 400
    assert engine.calls == 1


def test_a_prompt_without_room_is_an_error_with_any_default():
    status, answer = ask(Engine(), {"prompt": "x" * 100}, max_tokens=5)
    assert (status, answer["error"]["param"]) == (400, "input_tokens")


def test_of_several_prompts_none_runs_past_the_default():
    assert ask(Engine(), {"prompt": ["x" * 50, "x"]}, max_tokens=60)[0] == 400


def test_bodies_that_make_no_request():
    for body in (b'{"prompt":"\xff"}', b"[1]", b"5", {"prompt": 5}, {}, {"prompt": "x", "stream": True}):
        status, answer = ask(Engine(), body)
        assert (status, answer["error"]["type"], answer["error"]["code"]) == (400, "BadRequestError", 400)
        assert "Request" not in answer["error"]["message"].replace("BadRequest", "")


@pytest.mark.parametrize("url", ["/v1/embeddings", "/v2/nothing", ""])
def test_a_url_that_the_model_does_not_serve(url):
    status, answer = ask(Engine(), {"input": "x"}, url=url)
    assert (status, answer["error"]["param"]) == (400, "url")
    assert URL in answer["error"]["message"]


def raising(error):
    def fail(engine):
        raise error

    return fail


def dying(engine):
    engine.is_dead = True
    raise RuntimeError("socket closed")


def dying_quietly(engine):
    engine.is_dead = True
    return ErrorResponse(error=ErrorInfo(message="internal", code=500))


def wrapped(engine):
    try:
        raise EngineDeadError
    except EngineDeadError as error:
        raise RuntimeError("could not generate") from error


@pytest.mark.parametrize("fail", [raising(EngineDeadError()), dying, dying_quietly, wrapped])
def test_an_engine_that_dies_answers_nobody(fail):
    with pytest.raises(EngineDead):
        ask(Engine(fail), {"prompt": "x"})


def test_other_failures_cost_the_request():
    assert ask(Engine(raising(RuntimeError("odd"))), {"prompt": "x"})[0] == 500
    assert ask(Engine(raising(ValueError("bad"))), {"prompt": "x"})[0] == 400
    assert ask(Engine(lambda engine: create_error_response(ValueError("no"))), {"prompt": "x"})[1]["error"]["message"] == "no"


def test_answers_that_are_pages():
    assert ask(Engine(lambda engine: Page("application/json")), {"prompt": "x"}) == (200, {"data": []})
    assert ask(Engine(lambda engine: Page("application/octet-stream")), {"prompt": "x"})[0] == 400
