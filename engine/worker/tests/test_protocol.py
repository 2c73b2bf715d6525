import json
import os

import pytest

from stoker_worker.messages import decode, decode_body
from stoker_worker.protocol import encode, encode_answer


def test_request_keeps_its_body_raw():
    message = decode(b'{"type":"request","key":7,"url":"/u","form":"simple","defaults":"d1","body":{"a": [1, 2.50]},"new":1}')
    assert (message.type, message.key, message.url, message.form, message.defaults) == ("request", 7, "/u", "simple", "d1")
    assert bytes(message.body) == b'{"a": [1, 2.50]}'
    assert decode_body(message.body) == {"a": [1, 2.5]}


@pytest.mark.parametrize("line", [b'{"type":"x"', b"[]", b'{"key":7}', b'{"type":"request","key":"seven"}', b"\xff"])
def test_what_is_no_message(line):
    with pytest.raises(ValueError, match="decode message"):
        decode(line)


@pytest.mark.parametrize("member", ["served_names", "args", "params", "keys", "defaults"])
def test_null_is_absence(member):
    assert getattr(decode(b'{"type":"x","%s":null}' % member.encode()), member) is None


def test_a_body_that_cannot_be_decoded_does_not_touch_its_message():
    message = decode(b'{"type":"request","key":1,"body":{"text":"\xff"}}')
    with pytest.raises(ValueError, match="utf-8"):
        decode_body(message.body)


def test_the_deepest_body_that_the_daemon_sends():
    deep = b'{"stop":' + b"[" * 499 + b"]" * 499 + b"}"  # store/batchfile: maxDepth
    message = decode(b'{"type":"request","key":1,"form":"simple","body":%s}' % deep)
    assert bytes(message.body) == deep
    assert decode_body(message.body)["stop"] != []


def test_messages_are_lines_without_what_is_none():
    line = encode("fatal", cause="internal", hint=None, message="two\nlines")
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"type": "fatal", "cause": "internal", "message": "two\nlines"}


def test_answers_carry_their_body_as_it_is():
    assert encode_answer(7, 200, b'{"a": 1.0}') == b'{"type":"result","key":7,"status":200,"body":{"a": 1.0}}\n'
    assert json.loads(encode_answer(8, 404, b'{"error":{}}'))["type"] == "error"


def test_hello_names_the_process():
    from stoker_worker.runner import hello

    said = json.loads(hello())
    assert (said["type"], said["protocol"], said["engine"], said["pid"]) == ("hello", 1, "vllm", os.getpid())
