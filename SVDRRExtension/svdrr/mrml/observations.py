"""Observers that keep nothing alive and go together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import vtk


class Observations:
    """What one object observes of others. Unlike with Slicer's mixin, a node that leaves the scene is freed."""

    def __init__(self) -> None:
        self._placed: list[tuple[Any, int]] = []

    def add(self, target: Any, event: int | str, callback: Callable[[Any, str], None]) -> None:
        """Have `callback` called with the target, a VTK object, and the event's name."""
        reference = vtk.vtkWeakReference()
        reference.Set(target)
        self._placed.append((reference, target.AddObserver(event, callback)))

    def remove_all(self) -> None:
        """Have nothing called any more."""
        while self._placed:
            reference, tag = self._placed.pop()
            target = reference.Get()
            if target is not None:
                target.RemoveObserver(tag)
