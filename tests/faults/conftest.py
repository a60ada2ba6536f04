from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.faults.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """A stage that many trials share; each worker has one."""
    if not hasattr(os, "pidfd_open"):
        pytest.skip("the tests watch runners through Linux process descriptors")
    with Stage() as ready:
        yield ready
