"""What the worker says to the daemon (PROTOCOL.md): one JSON object a line, UTF-8. What it hears is in messages.

Nothing here needs more than the standard library, so that it can also say that the rest is missing.
"""

import json
from typing import Any

VERSION = 1


def encode(kind: str, **members: Any) -> bytes:
    """Encode a message other than an answer. Members that are None are left out."""
    present = {name: value for name, value in members.items() if value is not None}
    return json.dumps({"type": kind, **present}).encode() + b"\n"


def encode_answer(key: int, status: int, body: bytes) -> bytes:
    """Encode the answer to a request around its body, which is JSON already and is not parsed again."""
    kind = b"result" if status < 400 else b"error"
    return b'{"type":"%b","key":%d,"status":%d,"body":%b}\n' % (kind, key, status, body)
