import pytest

from stoker_worker.body import BadRequest, Names, asks_several, from_simple, merge, refuse

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"

MEMBERS = {
    CHAT: ("max_tokens", {"messages", "temperature", "top_p", "stop", "max_tokens", "max_completion_tokens"}),
    COMPLETIONS: ("max_tokens", {"prompt", "temperature", "top_p", "stop", "max_tokens"}),
    RESPONSES: ("max_output_tokens", {"input", "instructions", "temperature", "top_p", "max_output_tokens"}),
}
USER = {"role": "user", "content": "hi"}


def merged(url, body, **defaults):
    limit, members = MEMBERS[url]
    by_default = merge(url, body, defaults, limit, members, context=100)
    return body, by_default


def test_prompt_becomes_one_user_message():
    url, body = from_simple({"custom_id": "a", "prompt": "hi", "metadata": {"k": 1}, "temperature": 0.5, "raw": False})
    assert (url, body) == (CHAT, {"messages": [USER], "temperature": 0.5})


def test_raw_prompt_is_a_completion():
    assert from_simple({"prompt": ["a", "b"], "raw": True, "max_tokens": 4}) == (
        COMPLETIONS,
        {"prompt": ["a", "b"], "max_tokens": 4},
    )


def test_messages_stay():
    assert from_simple({"messages": [USER], "n": 2}) == (CHAT, {"messages": [USER], "n": 2})


@pytest.mark.parametrize("line", [{"raw": True, "messages": [USER]}, {"prompt": ["a"]}, {"prompt": 5}])
def test_simple_lines_that_make_no_request(line):
    with pytest.raises(BadRequest):
        from_simple(line)


@pytest.mark.parametrize("body", [[1], None, "text", {"stream": True}])
def test_refused_bodies(body):
    with pytest.raises(BadRequest):
        refuse(body)


def test_stream_false_is_fine():
    refuse({"stream": False})


def test_the_line_wins():
    body, _ = merged(CHAT, {"messages": [USER], "temperature": 1, "stop": None}, temperature=0, top_p=0.5, stop=["x"])
    assert body == {"messages": [USER], "temperature": 1, "top_p": 0.5, "stop": None}


def test_an_endpoint_gets_only_what_it_knows():
    body, _ = merged(RESPONSES, {"input": "hi"}, temperature=0, stop=["x"])
    assert body == {"input": "hi", "temperature": 0}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
@pytest.mark.parametrize(("url", "limit"), [(CHAT, "max_tokens"), (COMPLETIONS, "max_tokens"), (RESPONSES, "max_output_tokens")])
def test_a_bound_has_many_names(url, limit, name):
    body, by_default = merged(url, {}, **{name: 50})
    assert (body, by_default) == ({limit: 50}, True)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_bound_in_the_line_stays_as_it_is(name):
    body, by_default = merged(CHAT, {name: 5000}, max_tokens=50)
    assert (body, by_default) == ({name: 5000}, False)


def test_a_default_bound_is_cut_to_the_context():
    assert merged(CHAT, {}, max_tokens=5000) == ({"max_tokens": 100}, True)


def test_a_bound_of_the_wrong_type_is_left_to_vllm():
    assert merged(CHAT, {}, max_tokens="many") == ({"max_tokens": "many"}, True)


def test_system_message_comes_first_where_there_is_none():
    body, _ = merged(CHAT, {"messages": [USER]}, system="be brief")
    assert body["messages"] == [{"role": "system", "content": "be brief"}, USER]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_system_message_of_the_line_stays(role):
    messages = [USER, {"role": role, "content": "mine"}]
    assert merged(CHAT, {"messages": messages}, system="be brief")[0]["messages"] == messages


def test_system_message_elsewhere():
    assert merged(COMPLETIONS, {"prompt": "x"}, system="s")[0] == {"prompt": "x"}
    assert merged(RESPONSES, {"input": "x"}, system="s")[0] == {"input": "x", "instructions": "s"}
    assert merged(RESPONSES, {"input": "x", "instructions": "mine"}, system="s")[0]["instructions"] == "mine"
    own = {"input": [{"role": "system", "content": "mine"}]}
    assert merged(RESPONSES, dict(own), system="s")[0] == own


@pytest.mark.parametrize("messages", ["text", None, [1], [None]])
def test_system_message_and_messages_that_are_none(messages):
    merged(CHAT, {"messages": messages}, system="s")


def test_model_names():
    some = Names("real", frozenset({"lora"}), frozenset({"gpt-4o", "real"}))
    asked = [None, "real", "gpt-4o", "lora", "other", 5, ["x"]]
    assert [some.resolve(name) for name in asked] == ["real", "real", "real", "lora", "other", 5, ["x"]]
    everything = Names("real", frozenset({"lora"}), frozenset({"*"}))
    assert [everything.resolve(name) for name in ("other", "lora", None, 5)] == ["real", "lora", "real", 5]


@pytest.mark.parametrize(("prompt", "several"), [("a", False), ([1, 2], False), (["a"], True), ([[1], [2]], True), (None, False)])
def test_lists_of_prompts(prompt, several):
    assert asks_several({"prompt": prompt}) is several
