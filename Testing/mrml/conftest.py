"""A fresh scene for every test, from slicer-core."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from svdrr.geometry import CArmPose, Detector, View
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph

pytest.importorskip("slicer", reason="needs slicer-core: pip install svdrr[mrml]")


@pytest.fixture(autouse=True)
def scene() -> Any:
    from svdrr.mrml import new_scene

    return new_scene()


@pytest.fixture
def nodes(scene: Any) -> Any:
    """A function that lists the scene's nodes by class and ID: what errors must leave as it was."""

    def listed() -> list[str]:
        return [scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())]

    return listed


@pytest.fixture
def provenance() -> Provenance:
    return Provenance(
        method="VCDiT",
        source="0123abcd",
        model="vcdit-demo",
        weights_sha256="fe" * 32,
        seed=7,
        settings={"Steps": "20", "Note": 'ä; "quoted": <50 %>\nnext line'},
    )


@pytest.fixture
def views() -> list[View]:
    angles = [(0.0, 0.0), (30.0, 10.0), (-90.0, 0.0), (180.0, 0.0), (12.345, -90.0), (171.0, 77.7)]
    detector = Detector(6, 9, (0.7, 0.31))
    return [View(CArmPose(*one, isocenter_ras=(12.5, -40.0, 733.1)), detector) for one in angles]


@pytest.fixture
def radiographs(views: list[View], provenance: Provenance) -> list[Radiograph]:
    rng = np.random.default_rng(5)
    return [
        Radiograph(rng.random((6, 9), dtype=np.float32), view.detector.pixel_spacing_mm, view, provenance)
        for view in views
    ]
