"""`vllm serve`, in this process: its own command line, with the engine arguments as the worker would write them."""

import sys
from typing import Any, NoReturn

from stoker_worker import arguments, compat


def start(job: dict[str, Any]) -> NoReturn:
    """Serve until killed. Who waits for it asks its /health."""
    args = dict(job["args"])
    front_ends = args.pop("api_server_count", 1)  # the server's own argument
    parser = compat.argument_parser()
    options = [word for word in arguments.command_line(parser, args) if word not in arguments.REQUIRED]
    sys.argv = ["vllm", "serve", job["model"], *options, "--host", "127.0.0.1", "--port", str(job["port"])]
    sys.argv += ["--served-model-name", job["served_name"], "--api-server-count", str(front_ends)]
    from vllm.entrypoints.cli.main import main

    main()
    raise SystemExit("vllm serve ended")
