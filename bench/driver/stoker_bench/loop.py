"""The bare loop around vLLM's serving handlers: what stoker's worker does, without protocol, books and disks. Nothing that goes
through the handlers can be faster."""

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from stoker_worker import engine
from stoker_worker.service import loop_factory
from stoker_worker.stats import Counters

URL = "/v1/chat/completions"
IN_FLIGHT = 1.25  # of the engine's batch size, as stoker holds

PROFILE_AFTER = 5.0  # seconds: the batch is full, and prefilled
PROFILE_SECONDS = 1.0


class StepClock(Counters):
    """Counters that also time the engine's steps, as the front end sees them: pure decoding, by the requests that ran."""

    __slots__ = ("_at", "intervals")

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        """Forget the steps so far."""
        self._at: float | None = None
        self.intervals: dict[int, list[float]] = {}

    def record(self, rank: int, scheduler: Any, iteration: Any) -> None:
        """Take over vLLM's statistics of a step."""
        super().record(rank, scheduler, iteration)
        now = time.perf_counter()
        decodes = iteration is not None and iteration.num_prompt_tokens == 0
        if scheduler is not None and self._at is not None and decodes:
            self.intervals.setdefault(bucket(scheduler.num_running_reqs), []).append(now - self._at)
        self._at = now

    def summary(self) -> dict[str, dict[str, float]]:
        """Steps and their median milliseconds, by the upper end of the bucket of running requests."""
        return {
            str(running): {"steps": len(seconds), "median_ms": round(median(seconds) * 1e3, 3)}
            for running, seconds in sorted(self.intervals.items())
        }


def bucket(running: int) -> int:
    """The power of two that running requests just fit."""
    return 1 << max(running - 1, 0).bit_length()


def start(job: dict[str, Any]) -> "Loop":
    """Load the model as stoker's worker does."""
    engine.Counters = StepClock
    runner = asyncio.Runner(loop_factory=loop_factory())
    return Loop(runner, runner.run(engine.load(job["model"], job["args"], lambda phase, detail: None)), Path(job["folder"]))


class Loop:
    """The loop with a loaded engine."""

    def __init__(self, runner: asyncio.Runner, loaded: engine.Engine, folder: Path) -> None:
        endpoint = loaded.vllm.ENDPOINTS[URL]
        self._runner = runner
        self._engine = loaded
        self._folder = folder
        self._handler = endpoint.handler(loaded.state)
        self._adapter = endpoint.adapter()
        self._model = loaded.vllm.served_models(loaded.state)[0]

    def limits(self) -> dict[str, Any]:
        """What the engine was loaded with."""
        limits = self._engine.limits()
        return {name: limits[name] for name in ("max_num_seqs", "kv_cache_tokens")}

    def run(self, way: str, files: list[str]) -> dict[str, Any]:
        """Run the files as one stream, whose longest requests may come first."""
        clock = self._engine.counters
        clock.clear()
        steps, began = clock.steps, time.monotonic()
        lines = [line for file in files for line in Path(file).read_bytes().splitlines()]
        if way == "handlers-longest-first":
            lines.sort(key=lambda line: -msgspec.json.decode(line)["body"]["max_tokens"])
        done = self._runner.run(self._drive(lines))  # with a profiler, its work is in the seconds
        return {"seconds": time.monotonic() - began, **done, "steps": clock.steps - steps, "step_ms": clock.summary()}

    async def _drive(self, lines: list[bytes]) -> dict[str, int]:
        in_flight = min(int(self._engine.limits()["max_num_seqs"] * IN_FLIGHT), len(lines))
        queue = iter(lines)
        with open(self._folder / "loop.output.jsonl", "w") as out:
            profile = asyncio.create_task(self._profile())
            answers = await asyncio.gather(*(self._take(queue, out) for _ in range(in_flight)))
            await profile
        requests, failed, tokens = map(sum, zip(*answers, strict=True))
        return {"requests": requests, "failed": failed, "tokens": tokens}

    async def _profile(self) -> None:
        """Record a moment of full work with vLLM's profiler, if `profiler_config` sets one up."""
        config = self._engine.client.vllm_config.profiler_config
        if config is None or not config.profiler:
            return
        await asyncio.sleep(PROFILE_AFTER)
        await self._engine.client.start_profile()
        await asyncio.sleep(PROFILE_SECONDS)
        await self._engine.client.stop_profile()

    async def _take(self, queue: Iterable[bytes], out: Any) -> tuple[int, int, int]:
        """One place in flight: answers requests until there are no more."""
        requests = failed = tokens = 0
        for line in queue:
            body = msgspec.json.decode(line)["body"]
            body["model"] = self._model
            answer = await self._handler(self._adapter.validate_python(body))
            out.write(answer.model_dump_json() + "\n")
            requests += 1
            if isinstance(answer, self._engine.vllm.ErrorResponse):
                failed += 1
            else:
                tokens += answer.usage.completion_tokens
        return requests, failed, tokens
