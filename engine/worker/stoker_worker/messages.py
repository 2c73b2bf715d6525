"""What the daemon says to the worker (PROTOCOL.md). msgspec comes with vLLM."""

from typing import Any

import msgspec


class Message(msgspec.Struct, frozen=True, gc=False):
    """Any message. `type` tells which of the members count; unknown members are ignored."""

    type: str
    # start
    protocol: int = 0
    model: str = ""
    served_names: list[str] | None = None
    args: dict[str, Any] | None = None
    # defaults
    id: str = ""
    params: dict[str, Any] | None = None
    # request; its body stays raw, so that one that cannot be decoded costs only itself
    key: int = 0
    url: str = ""
    form: str = "openai"
    defaults: str | None = None
    body: msgspec.Raw = msgspec.Raw(b"null")
    # cancel
    keys: list[int] | None = None
    # ping
    seq: int = 0


_decoder = msgspec.json.Decoder(Message)


def decode(line: bytes) -> Message:
    """Decode one line. Raises ValueError: the daemon writes no such line, so there is no way to go on."""
    try:
        return _decoder.decode(line)
    except msgspec.MsgspecError as error:
        raise ValueError(f"decode message {line[:80]!r}: {error}") from error


def decode_body(raw: msgspec.Raw) -> Any:
    """Decode a request's body. Raises ValueError."""
    try:
        return msgspec.json.decode(raw)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
