"""`vllm serve`, in this process: its own subcommand, with the engine arguments as the worker would write them.

The subcommand alone: the whole command line of vLLM asks for the version of a distribution called vllm, which its CPU builds are
not, and imports what only its own benchmarks need.
"""

from typing import Any, NoReturn

from stoker_worker import arguments, compat
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser


def start(job: dict[str, Any]) -> NoReturn:
    """Serve until killed. Who waits for it asks for its models."""
    args = dict(job["args"])
    front_ends = args.pop("api_server_count", 1)  # the server's own argument
    options = arguments.command_line(compat.argument_parser(), args)
    own = ["--host=127.0.0.1", f"--port={job['port']}", f"--served-model-name={job['served_name']}"]
    own.append(f"--api-server-count={front_ends}")
    command = ServeSubcommand()
    parser = FlexibleArgumentParser()
    command.subparser_init(parser.add_subparsers())
    parsed = parser.parse_args(["serve", job["model"], *(word for word in options if word not in arguments.REQUIRED), *own])
    command.validate(parsed)
    command.cmd(parsed)
    raise SystemExit("vllm serve ended")
