from types import SimpleNamespace

from stoker_worker.stats import Counters


def scheduler(running, waiting, kv_cache, **more):
    return SimpleNamespace(num_running_reqs=running, num_waiting_reqs=waiting, kv_cache_usage=kv_cache, **more)


def iteration(prompt, generation):
    return SimpleNamespace(num_prompt_tokens=prompt, num_generation_tokens=generation)


def test_nothing_yet():
    assert set(Counters().members().values()) == {0}


def test_counters_add_up_and_gauges_are_of_now():
    counters = Counters()
    counters.record(0, scheduler(5, 2, 0.5, num_skipped_waiting_reqs=1), iteration(100, 5))
    counters.record(0, None, iteration(0, 5))
    counters.record(0, scheduler(1, 0, 0.12345), None)
    assert counters.members() == {
        "running": 1, "waiting": 0, "kv_cache": 0.1235, "prompt_tokens": 100, "generation_tokens": 10, "steps": 2,
    }  # fmt: skip


def test_ranks():
    counters = Counters()
    counters.record(0, scheduler(5, 2, 0.5), None)
    counters.record(1, scheduler(4, 1, 0.7), None)
    assert [counters.members()[name] for name in ("running", "waiting", "kv_cache")] == [9, 3, 0.7]
