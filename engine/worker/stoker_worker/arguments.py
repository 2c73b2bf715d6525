"""Engine arguments by their Python names, with values of any JSON type, turned into what vLLM's own parser takes: its
checks, conversions and defaults are then those of `vllm serve`."""

import argparse
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from .fatal import Fatal
from .text import condense

# vLLM's batch runner asks for these; the worker has no use for them.
REQUIRED = ("--input-file=-", "--output-file=-")
NOT_OFFERED = frozenset({"help", "input_file", "output_file", "output_tmp_dir", "enable_metrics", "host", "port", "url"})

ARGPARSE_PREFIX = re.compile(r"^argument (?:-{1,2}[\w-]+/)*--(?P<name>[\w-]+)(?:/-{1,2}[\w-]+)*: ")


class BadValue(ValueError):
    """vLLM's parser refused a value. The message is the parser's."""


def command_line(parser: argparse.ArgumentParser, args: Mapping[str, Any]) -> list[str]:
    """The command line that sets args. Raises Fatal for a name that vLLM does not know."""
    known = {a.dest: a for a in parser._actions if a.option_strings and a.dest not in NOT_OFFERED}
    words = list(REQUIRED)
    for name, value in args.items():
        if name not in known:
            raise unknown(name, known)
        words.extend(option(known[name], value))
    return words


def option(action: argparse.Action, value: Any) -> Iterator[str]:
    """The words that give one option its value. None leaves vLLM's default."""
    flag = next(o for o in action.option_strings if o.startswith("--"))
    if value is None:
        return
    if action.nargs == 0:
        yield from switch(action, flag, value)
    elif action.nargs in ("+", "*"):
        yield flag
        yield from map(text, value if isinstance(value, list) else [value])
    else:
        yield f"{flag}={text(value)}"


def switch(action: argparse.Action, flag: str, value: Any) -> Iterator[str]:
    """The word that turns a switch on or off; none where off is what its absence means."""
    if not isinstance(value, bool):
        raise Fatal("bad_argument", f"engine argument {action.dest}: {value!r} is neither true nor false")
    if value:
        yield flag
    else:
        yield from (o for o in action.option_strings if o.startswith("--no-"))


def text(value: Any) -> str:
    """A value as it is written on a command line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def unknown(name: str, known: Iterable[str]) -> Fatal:
    """The refusal of a name that vLLM does not know."""
    hint = nearest(name, known) or "see vLLM's documentation of its engine arguments"
    return Fatal("bad_argument", f"vLLM has no engine argument {name}", hint)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """A hint at the known name that is most like this one; None if none is."""
    near = difflib.get_close_matches(name.replace("-", "_"), list(known), n=1)
    return f"did you mean {near[0]}?" if near else None


def refused(error: BadValue) -> Fatal:
    """The refusal of a value."""
    message = str(error)
    match = ARGPARSE_PREFIX.match(message)
    if match is None:
        return Fatal("bad_argument", "engine arguments: " + condense(message))
    why = re.sub(r"^invalid \S+ value: ", "invalid value: ", message[match.end() :])
    return Fatal("bad_argument", f"engine argument {match['name'].replace('-', '_')}: {condense(why)}")


class Refusing:
    """Mixin for an ArgumentParser that raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse for whatever it refuses."""
        raise BadValue(message)
