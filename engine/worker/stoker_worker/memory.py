"""How much memory was missing, as vLLM and PyTorch word it."""

import re
from collections.abc import Iterable

UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

# vLLM rounds to hundredths of a GiB. The CPU backend counts nodes of memory, the others devices.
SHORTAGES = (
    re.compile(
        r"(?:Free memory on device (?P<device>\S+)|Available memory on node (?P<node>\S+)) \((?P<free>[\d.]+)/(?P<total>[\d.]+ GiB)\)"
        r" on .*? is less than .*?\((?:[\d.]+, )?(?P<need>[\d.]+)(?:/[\d.]+)? GiB\)"
    ),
    re.compile(
        r"out of memory\. Tried to allocate (?P<need>[\d.]+ \w+)\. GPU (?P<gpu>\d+) has a total capacity of (?P<total>[\d.]+ \w+)"
        r" of which (?P<free>[\d.]+ \w+) is free"
    ),
    re.compile(r"DefaultCPUAllocator: can't allocate memory: you tried to allocate (?P<need>\d+ bytes)"),
)

Shortage = dict[str, str | int]


def shortage(texts: Iterable[str]) -> Shortage | None:
    """What the first of the texts that tells it says was needed, free and there, in bytes, and on which device."""
    for text in texts:
        for pattern in SHORTAGES:
            if match := pattern.search(text):
                return members(match.groupdict())
    return None


def members(found: dict[str, str | None]) -> Shortage:
    """The members of `memory`, of those that a pattern has."""
    device = found.get("device")
    if (gpu := found.get("gpu")) is not None:
        device = f"cuda:{gpu}"
    elif (node := found.get("node")) is not None:
        device = f"node {node}"
    amounts = {name: amount(text) for name in ("need", "free", "total") if (text := found.get(name)) is not None}
    return {"device": device, **amounts} if device is not None else amounts


def amount(text: str) -> int:
    """Bytes. Without a unit, GiB."""
    number, _, unit = text.partition(" ")
    return int(float(number) * UNITS.get(unit, UNITS["GiB"]))
