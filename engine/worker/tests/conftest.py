"""Makes the worker's modules importable, and the real tests impossible to pass by without running them."""

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent))


@pytest.fixture(scope="session")
def model() -> str:
    folder = os.environ.get("STOKER_TEST_MODEL")
    if not folder:
        pytest.fail('set STOKER_TEST_MODEL to the folder of a small chat model, or leave the real tests out with -m "not real"')
    return folder
