"""Makes of an input line the body that vLLM gets: the simple form, the defaults, the model's name."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"

# The names under which OpenAI's endpoints bound the output, in tokens. A default under any of them is meant for all.
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")

SYSTEM_ROLES = ("system", "developer")


class BadRequest(ValueError):
    """The line cannot be answered; costs only itself."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Names:
    """How a request's model name is read."""

    real: str  # the name under which answers come
    others: frozenset[str]  # names that vLLM itself knows: aliases and LoRA adapters
    served: frozenset[str]  # names that stand for the real one; "*" for any

    def resolve(self, name: Any) -> Any:
        """The name to ask vLLM for. One that nobody serves is left alone: vLLM's own 404 answers it."""
        if name is None:
            return self.real
        if not isinstance(name, str) or name in self.others:
            return name
        return self.real if "*" in self.served or name in self.served else name


def from_simple(line: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """URL and body of a line in the simple form. Raises BadRequest."""
    body = {name: value for name, value in line.items() if name not in ("custom_id", "metadata", "raw")}
    if line.get("raw"):
        if "prompt" not in body:
            raise BadRequest("raw needs a prompt", "raw")
        return COMPLETIONS, body
    if "prompt" in body:
        prompt = body.pop("prompt")
        if not isinstance(prompt, str):
            raise BadRequest("prompt must be a string; a list of prompts needs raw", "prompt")
        body["messages"] = [{"role": "user", "content": prompt}]
    return CHAT, body


def refuse(body: Any) -> None:
    """Refuse what no endpoint of a batch can answer. Raises BadRequest."""
    if not isinstance(body, dict):
        raise BadRequest("body must be a JSON object")
    if body.get("stream"):
        raise BadRequest("stream: a batch cannot stream its answers", "stream")


def merge(
    url: str, body: dict[str, Any], defaults: Mapping[str, Any], limit: str, members: Collection[str], context: int
) -> bool:
    """Add to the body, in place, what it leaves out. Tells whether the bound of the output came from the defaults.

    limit is the endpoint's name for that bound, members what its requests may have; a default that the endpoint does not
    know stays out. A bound from the defaults is cut to context, the most tokens that prompt and answer may have together.
    """
    for name, value in defaults.items():
        if name in members and name not in LIMITS:
            body.setdefault(name, value)
    if system := defaults.get("system"):
        add_system(url, body, system)
    bound = next((defaults[name] for name in LIMITS if defaults.get(name) is not None), None)
    if bound is None or any(name in body for name in LIMITS if name in members):
        return False
    body[limit] = min(bound, context) if isinstance(bound, int) else bound
    return True


def add_system(url: str, body: dict[str, Any], system: str) -> None:
    """Put the system message first where the request has none. A raw prompt has no place for one."""
    if url == CHAT and isinstance(messages := body.get("messages"), list) and not has_system(messages):
        body["messages"] = [{"role": "system", "content": system}, *messages]
    elif url == RESPONSES and not has_system(body.get("input")):
        body.setdefault("instructions", system)


def has_system(messages: Any) -> bool:
    """Whether one of the messages is from the system."""
    return isinstance(messages, list) and any(isinstance(m, Mapping) and m.get("role") in SYSTEM_ROLES for m in messages)


def asks_several(body: Mapping[str, Any]) -> bool:
    """Whether the body holds a list of prompts, each of which has its own room for an answer."""
    prompt = body.get("prompt")
    return isinstance(prompt, list) and any(not isinstance(item, int) for item in prompt)
