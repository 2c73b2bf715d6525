"""What the engine has done since it started, for the `stats` message."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Load:
    """What one data-parallel rank of the engine holds now."""

    running: int  # requests that it computes
    waiting: int  # requests that wait for room
    kv_cache: float  # share of its KV cache in use, 0 to 1


@dataclass(slots=True)
class Counters:
    """Filled by the stat logger in compat once an engine step, on the event loop's thread."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    steps: int = 0
    loads: dict[int, Load] = field(default_factory=dict)  # by rank

    def record(self, rank: int, scheduler: Any, iteration: Any) -> None:
        """Take over vLLM's SchedulerStats and IterationStats of a step; either may be None."""
        if scheduler is not None:
            waiting = scheduler.num_waiting_reqs + getattr(scheduler, "num_skipped_waiting_reqs", 0)
            self.loads[rank] = Load(scheduler.num_running_reqs, waiting, scheduler.kv_cache_usage)
        if iteration is not None:
            self.steps += 1
            self.prompt_tokens += iteration.num_prompt_tokens
            self.generation_tokens += iteration.num_generation_tokens

    def members(self) -> dict[str, Any]:
        """The members of a `stats` message. Of the KV caches, the fullest."""
        loads = self.loads.values()
        return {
            "running": sum(load.running for load in loads),
            "waiting": sum(load.waiting for load in loads),
            "kv_cache": round(max((load.kv_cache for load in loads), default=0.0), 4),
            "prompt_tokens": self.prompt_tokens,
            "generation_tokens": self.generation_tokens,
            "steps": self.steps,
        }
