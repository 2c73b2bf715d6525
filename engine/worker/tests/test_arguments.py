import argparse

import pytest

from stoker_worker.arguments import REQUIRED, BadValue, Refusing, command_line, refused
from stoker_worker.fatal import Fatal


class Parser(Refusing, argparse.ArgumentParser):
    pass


@pytest.fixture
def parser():
    parser = Parser()
    parser.add_argument("-i", "--input-file", required=True)
    parser.add_argument("-o", "--output-file", required=True)
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--enforce-eager", action=argparse.BooleanOptionalAction)
    parser.add_argument("--disable-log-stats", action="store_true")
    parser.add_argument("--hf-overrides", "-hfo")
    return parser


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"max_model_len": 5}, ["--max-model-len=5"]),
        ({"max_model_len": -1}, ["--max-model-len=-1"]),
        ({"max_model_len": None}, []),
        ({"served_model_name": ["a", "b"]}, ["--served-model-name", "a", "b"]),
        ({"served_model_name": "a"}, ["--served-model-name", "a"]),
        ({"enforce_eager": True}, ["--enforce-eager"]),
        ({"enforce_eager": False}, ["--no-enforce-eager"]),
        ({"disable_log_stats": False}, []),
        ({"hf_overrides": {"a": [1, "ä"]}}, ['--hf-overrides={"a": [1, "ä"]}']),
    ],
)
def test_command_line(parser, args, words):
    line = command_line(parser, args)
    assert line == [*REQUIRED, *words]
    parser.parse_args(line)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("max_model_length", "did you mean max_model_len?"), ("max-model-len", "did you mean max_model_len?"), ("input_file", None)],
)
def test_unknown_names(parser, name, hint):
    with pytest.raises(Fatal) as caught:
        command_line(parser, {name: 1})
    assert (caught.value.cause, caught.value.permanent) == ("bad_argument", True)
    assert hint is None or caught.value.hint == hint


def test_a_switch_is_on_or_off(parser):
    with pytest.raises(Fatal, match="enforce_eager: 1 is neither"):
        command_line(parser, {"enforce_eager": 1})


def test_a_refused_value_is_told_by_its_python_name(parser):
    with pytest.raises(BadValue) as caught:
        parser.parse_args(command_line(parser, {"max_model_len": "soup"}))
    assert refused(caught.value).message == "engine argument max_model_len: invalid value: 'soup'"
