"""The test host, fresh for every test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("slicer", reason="needs slicer-core: pip install svdrr[mrml]")
pytest.importorskip("PySide6", reason="needs Qt: pip install svdrr[dev]")


@pytest.fixture
def host() -> Iterator[Any]:
    """The host, stopped; the test starts it with its modules. Exceptions in slots and observers fail the test.

    A test that means to have one clears `host.uncaught` after looking at it.
    """
    from slicer_host import host

    host.uncaught.clear()
    yield host
    host.stop()
    assert not host.uncaught, "".join(host.uncaught)
