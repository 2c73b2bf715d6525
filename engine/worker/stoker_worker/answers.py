"""Answers one request: from the daemon's message to the status and the JSON of the answer."""

import json
from collections.abc import Mapping
from typing import Any

from . import body as bodies
from .body import BadRequest, Names
from .engine import Engine
from .fatal import chain
from .messages import Message, decode_body
from .text import describe, problems_of

Answer = tuple[int, bytes]  # status, JSON

# Members that vLLM's errors name when prompt and answer together do not fit the context.
LENGTH_PARAMS = frozenset({"input_tokens", "input_text", *bodies.LIMITS})


class Answerer:
    """Answers requests with a loaded engine, each on its own: what goes wrong with one costs that one."""

    def __init__(self, engine: Engine, model: str, served_names: list[str]) -> None:
        """Model is what the daemon calls the model; served_names are further names for it, "*" for any."""
        real, others = engine.vllm.served_models(engine.state)
        self._engine = engine
        self._names = Names(real, others, frozenset(served_names) | {model})
        self._context = engine.client.vllm_config.model_config.max_model_len
        self._endpoints = {
            url: (endpoint, handler, endpoint.adapter(), endpoint.members())
            for url, endpoint in engine.vllm.ENDPOINTS.items()
            if (handler := endpoint.handler(engine.state)) is not None
        }

    async def answer(self, message: Message, defaults: Mapping[str, Any]) -> Answer:
        """The answer to a request. Raises EngineDead, and then nobody has an answer."""
        try:
            url, body = self._read(message)
            return await self._complete(url, body, defaults)
        except EngineDead:
            raise
        except BadRequest as error:
            return bad_request(str(error), error.param)
        except Exception as error:
            return self._failed(error)

    def _read(self, message: Message) -> tuple[str, dict[str, Any]]:
        """URL and body as vLLM takes them, still without defaults."""
        url = message.url
        try:
            body = decode_body(message.body)
        except ValueError as error:
            raise BadRequest(f"body is not valid JSON: {error}") from error
        bodies.refuse(body)
        if message.form == "simple":
            url, body = bodies.from_simple(body)
        if url not in self._endpoints:
            raise BadRequest(f"model {self._names.real} does not serve {url}; it serves {', '.join(self._endpoints)}", "url")
        body.pop("request_id", None)  # two alike would share one id; vLLM makes its own
        body["model"] = self._names.resolve(body.get("model"))
        return url, body

    async def _complete(self, url: str, body: dict[str, Any], defaults: Mapping[str, Any]) -> Answer:
        """The answer to a body after the defaults are in.

        vLLM 0.32 itself shortens a bound that fits the context but not beside the prompt; 0.26 refuses it before the engine
        sees it. Then the request goes again without a bound, which vLLM takes as all the room that the prompt leaves: exactly
        what shortening means, and only these requests are tokenised twice. A list of prompts stays refused there, for the
        short ones among them would run on past the bound.
        """
        endpoint, handler, adapter, members = self._endpoints[url]
        by_default = endpoint.limit is not None and bodies.merge(url, body, defaults, endpoint.limit, members, self._context)
        result = await self._call(handler, adapter, body)
        if by_default and self._is_too_long(result) and not bodies.asks_several(body):
            result = await self._call(handler, adapter, {**body, endpoint.limit: None})
        return self._answer(result, endpoint.by_alias)

    async def _call(self, handler: Any, adapter: Any, body: dict[str, Any]) -> Any:
        """What the handler returns, or the error that it raises in the shape of those that it returns."""
        try:
            return await handler(adapter.validate_python(body))
        except Exception as error:
            if self._is_death(error) or problems_of(error):
                raise
            return self._engine.vllm.create_error_response(error)

    def _answer(self, result: Any, by_alias: bool) -> Answer:
        """Status and JSON of what a handler returned, as the HTTP server would send it."""
        vllm = self._engine.vllm
        if isinstance(result, vllm.ErrorResponse):
            self._insist_on_life(result.error.code)
            return result.error.code, result.model_dump_json().encode()
        if isinstance(result, vllm.Response):  # embeddings, scores
            if result.media_type != "application/json":
                return bad_request("this encoding_format cannot be written to a JSON file", "encoding_format")
            return result.status_code, bytes(result.body)
        return 200, result.model_dump_json(by_alias=by_alias).encode()

    def _failed(self, error: Exception) -> Answer:
        """The answer to a request that raised what vLLM has no answer for."""
        if self._is_death(error):
            raise EngineDead from error
        if problems := problems_of(error):
            message, param = describe(problems)
            return bad_request(message, vllm_param(problems) or param)
        self._insist_on_life(500)
        response = self._engine.vllm.create_error_response(error)
        return response.error.code, response.model_dump_json().encode()

    def _is_too_long(self, result: Any) -> bool:
        return isinstance(result, self._engine.vllm.ErrorResponse) and result.error.param in LENGTH_PARAMS

    def _is_death(self, error: BaseException) -> bool:
        return any(isinstance(e, self._engine.vllm.EngineDeadError) for e in chain(error))

    def _insist_on_life(self, status: int) -> None:
        """A dying engine fails requests in any way; their lines are not to blame."""
        if status >= 500 and self._engine.is_dead:
            raise EngineDead


class EngineDead(Exception):
    """The engine died under a request."""


def bad_request(message: str, param: str | None = None) -> Answer:
    """An error of the worker itself, in vLLM's and OpenAI's shape."""
    error = {"message": message, "type": "BadRequestError", "param": param, "code": 400}
    return 400, json.dumps({"error": error}).encode()


def vllm_param(problems: list[Mapping[str, Any]]) -> str | None:
    """The member that vLLM's own check names, where pydantic wrapped its error."""
    errors = (problem.get("ctx", {}).get("error") for problem in problems)
    return next((e.parameter for e in errors if getattr(e, "parameter", None)), None)
