"""`vllm run-batch` as shipped, its own loop with its own batch size, file after file. Only what a second file in a process would
do again for nothing, making the handlers, is done once."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from stoker_worker import arguments, compat
from stoker_worker.service import loop_factory
from vllm.usage.usage_lib import UsageContext

run_batch = compat.run_batch


def start(job: dict[str, Any]) -> "Shipped":
    """Load the model as run-batch does."""
    parser = compat.argument_parser()
    args = parser.parse_args(arguments.command_line(parser, {"model": job["model"], **job["args"]}))
    runner = asyncio.Runner(loop_factory=loop_factory())
    return Shipped(runner, args, runner.run(load(args)), Path(job["folder"]))


async def load(args: Any) -> Any:
    """The engine, in the usage context that run-batch names: it decides on the batch size."""
    context = UsageContext.OPENAI_BATCH_RUNNER
    return compat.AsyncLLM.from_engine_args(compat.AsyncEngineArgs.from_cli_args(args), usage_context=context)


class Shipped:
    """run-batch with a loaded engine."""

    def __init__(self, runner: asyncio.Runner, args: Any, client: Any, folder: Path) -> None:
        self._runner = runner
        self._args = args
        self._client = client
        self._output = folder / "run-batch.output.jsonl"
        build, registries = run_batch.build_endpoint_registry, []

        async def build_once(*args: Any, **kwargs: Any) -> Any:
            if not registries:
                registries.append(await build(*args, **kwargs))
            return registries[0]

        run_batch.build_endpoint_registry = build_once

    def limits(self) -> dict[str, Any]:
        """What the engine was loaded with."""
        return {"max_num_seqs": compat.max_num_seqs(self._client.vllm_config)}

    def run(self, way: str, files: list[str]) -> dict[str, Any]:
        """Run file after file. run-batch writes what failed into the same file."""
        counts, seconds = [], 0.0
        for file in files:
            self._args.input_file, self._args.output_file = file, str(self._output)
            began = time.monotonic()
            self._runner.run(run_batch.run_batch(self._client, self._args))
            seconds += time.monotonic() - began
            counts.append(self._count())
        requests, failed, tokens = map(sum, zip(*counts, strict=True))
        return {"seconds": seconds, "requests": requests, "failed": failed, "tokens": tokens}

    def _count(self) -> tuple[int, int, int]:
        lines = [json.loads(line) for line in self._output.read_text().splitlines()]
        usages = [((line.get("response") or {}).get("body") or {}).get("usage") for line in lines]
        done = [usage["completion_tokens"] for usage in usages if usage]
        return len(lines), len(lines) - len(done), sum(done)
