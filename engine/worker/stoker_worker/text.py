"""Makes the messages of vLLM and pydantic short enough, and free enough of Python, to be shown to a user."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

MAX_MESSAGE = 300  # characters of a fatal's message
MIN_SENTENCE = 80  # a message is cut after a sentence only if this much is left
MAX_PROBLEMS = 3  # validation problems told at once; a wrong union type alone makes dozens

# Parts of a location in pydantic's errors that name a branch of a schema instead of a member of the request.
INTERNAL_PART = re.compile(
    r"[\[\]{}()]|^[A-Z]|^(function-\w+|nullable|(tagged-)?union|str|int|float|bool|list|dict|lax-or-strict|json-or-python)$"
)

# What pydantic adds to its errors, where only their text is at hand.
PYDANTIC_NOISE = re.compile(
    r"\d+ validation errors? for \w+|\[type=\w+, input_value=.*?, input_type=\w+\]|For further information visit \S+"
)


def condense(error: BaseException | str) -> str:
    """The first sentences, MAX_MESSAGE characters at most, of an exception or message, in one line."""
    if problems := problems_of(error):
        text, _ = describe(problems)
    else:
        text = PYDANTIC_NOISE.sub("", str(error)) or type(error).__name__
    text = " ".join(text.split())
    if len(text) <= MAX_MESSAGE:
        return text
    end = text.rfind(". ", MIN_SENTENCE, MAX_MESSAGE)
    return text[: end + 1] if end >= 0 else text[: MAX_MESSAGE - 1] + "…"


def problems_of(error: object) -> list[Mapping[str, Any]]:
    """The single problems in a pydantic ValidationError; none for anything else."""
    errors = getattr(error, "errors", None)
    return list(errors(include_url=False)) if callable(errors) and type(error).__name__ == "ValidationError" else []


def describe(problems: Iterable[Mapping[str, Any]]) -> tuple[str, str | None]:
    """Say in words what is wrong, and which member is the first at fault."""
    told: dict[str, str] = {}
    for problem in nearest_branches(problems):
        told.setdefault(member(problem.get("loc", ())), reason(problem))
    texts = [f"{where}: {why}" if where else why for where, why in told.items()]
    more = len(texts) - MAX_PROBLEMS
    message = "; ".join(texts[:MAX_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
    return message, next(iter(told), "") or None


def nearest_branches(problems: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Drop what pydantic says of the branches of a union that the user did not mean: those with more problems than another."""
    branches: dict[str, dict[tuple[str, ...], list[Mapping[str, Any]]]] = {}
    for problem in problems:
        branch = branch_of(problem.get("loc", ()))
        branches.setdefault(member(branch), {}).setdefault(branch, []).append(problem)
    return [problem for union in branches.values() for problem in min(union.values(), key=len)]


def branch_of(location: Iterable[object]) -> tuple[str, ...]:
    """The part of a location that ends with the branch of a union; empty outside of unions."""
    parts = [str(part) for part in location]
    while parts and not INTERNAL_PART.search(parts[-1]):
        parts.pop()
    return tuple(parts)


def member(location: Iterable[object]) -> str:
    """The path of a member, as `messages.0.role`."""
    parts = (str(part) for part in location)
    return ".".join(part for part in parts if not INTERNAL_PART.search(part))


def reason(problem: Mapping[str, Any]) -> str:
    """A problem in plain words."""
    match problem.get("type"):
        case "missing":
            return "is required"
        case "model_type" | "model_attributes_type" | "dict_type" | "dataclass_type":
            return "must be an object"
        case _:
            text = str(problem.get("msg", "is not valid"))
            return text.removeprefix("Value error, ").removeprefix("Assertion failed, ")
