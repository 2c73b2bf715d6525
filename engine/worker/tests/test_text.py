from typing import Literal

import pydantic
import pytest

from stoker_worker.text import condense, describe, member, problems_of


class System(pydantic.BaseModel):
    role: Literal["system"]
    content: str
    name: str


class User(pydantic.BaseModel):
    role: Literal["user"]
    content: str


class Request(pydantic.BaseModel):
    messages: list[System | User]
    temperature: float | None = None
    n: int = 1

    @pydantic.field_validator("n")
    @classmethod
    def few(cls, n: int) -> int:
        if n > 5:
            raise ValueError("at most 5")
        return n


def told(body):
    with pytest.raises(pydantic.ValidationError) as caught:
        Request.model_validate(body)
    return describe(problems_of(caught.value))


def test_missing_member():
    assert told({}) == ("messages: is required", "messages")


def test_wrong_type():
    assert told({"messages": [], "temperature": "hot"})[1] == "temperature"


def test_own_check_of_a_model():
    assert told({"messages": [], "n": 9}) == ("n: at most 5", "n")


def test_not_an_object():
    assert told([1]) == ("must be an object", None)


def test_of_a_union_the_nearest_branch_is_told():
    assert told({"messages": [{"role": "user"}]}) == ("messages.0.content: is required", "messages.0.content")


def test_many_problems_are_counted():
    message, param = told({"messages": [{"role": "user"}] * 9})
    assert message.endswith("; and 6 more")
    assert param == "messages.0.content"


@pytest.mark.parametrize(
    ("location", "path"),
    [
        (("messages", 0, "UserMessage", "role"), "messages.0.role"),
        (("prompt", "list[str]"), "prompt"),
        (("prompt", "function-wrap[f()]", "str"), "prompt"),
        ((), ""),
    ],
)
def test_member(location, path):
    assert member(location) == path


def test_condense_cuts_after_a_sentence():
    text = "It is so because of this and of that, which takes a while to say in full. " * 9
    short = condense(text)
    assert len(short) <= 300
    assert short.endswith("in full.")
    assert condense("x" * 1000).endswith("…")
    assert condense(ValueError()) == "ValueError"


def test_condense_takes_pydantic_out():
    with pytest.raises(pydantic.ValidationError) as caught:
        Request.model_validate({"messages": [], "n": "x"})
    for form in (caught.value, str(caught.value)):
        assert "pydantic" not in condense(form)
        assert "validation error" not in condense(form)
