"""Every slice view that shows a computed image says so, in the picture itself."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from svdrr.mrml import radiograph_to_node, views_to_sequence
from svdrr.mrml.panels.synthetic_label import SyntheticLabels, label_of
from svdrr.provenance import SYNTHETIC_LABEL, Provenance
from svdrr.radiograph import Radiograph
from svdrr.superres import enhance


@pytest.fixture
def layers(scene: Any) -> Any:
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLScene(scene)
    logic.AddSliceNode("Red")
    yield logic.GetSliceCompositeNode()
    logic.SetMRMLScene(None)


@pytest.fixture
def window() -> Any:
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(True)
    window.SetSize(300, 200)
    window.AddRenderer(vtk.vtkRenderer())
    return window


def picture(window: Any) -> np.ndarray:
    """What is drawn, (rows, columns, 3), row 0 at the top."""
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.Update()
    image = grab.GetOutput()
    columns, rows, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)[::-1].astype(int)


def test_what_a_view_must_say(radiographs: list[Radiograph], layers: Any) -> None:
    synthetic = radiograph_to_node(radiographs[0], "view")
    taken = radiograph_to_node(replace(radiographs[0], provenance=None), "film")
    drr = radiograph_to_node(replace(radiographs[0], provenance=Provenance("DRR (numba)", "CT")), "film")
    assert label_of("Red") == ""
    layers.SetBackgroundVolumeID(taken.GetID())
    assert label_of("Red") == ""
    layers.SetForegroundVolumeID(synthetic.GetID())
    layers.SetForegroundOpacity(0.0)
    assert label_of("Red") == ""
    layers.SetForegroundOpacity(0.3)
    assert label_of("Red") == f"{SYNTHETIC_LABEL}\nVCDiT, PA"
    layers.SetBackgroundVolumeID(drr.GetID())
    assert label_of("Red") == f"{SYNTHETIC_LABEL}\nDRR (numba), PA\nVCDiT, PA"
    assert label_of("Green") == ""
    enlarged = radiograph_to_node(enhance(replace(radiographs[0], view=None), "bicubic", 2), "view")
    layers.SetBackgroundVolumeID(enlarged.GetID())
    layers.SetForegroundVolumeID(None)
    assert label_of("Red") == f"{SYNTHETIC_LABEL}\nVCDiT, bicubic x2"


def test_a_volume_that_was_saved_without_its_scene_is_labeled_by_its_name(
    radiographs: list[Radiograph], layers: Any, tmp_path: Path
) -> None:
    """As Slicer saves and loads it: the file is called like the node, and the node like the file."""
    saved = radiograph_to_node(radiographs[1], "view")
    file = tmp_path / f"{saved.GetName()}.nrrd"
    storage = slicer.vtkMRMLNRRDStorageNode()
    storage.SetFileName(str(file))
    assert storage.WriteData(saved)
    volumes = slicer.vtkSlicerVolumesLogic()
    volumes.SetMRMLScene(slicer.mrmlScene)
    loaded = volumes.AddArchetypeVolume(str(file), file.stem, 0)
    assert loaded.GetAttribute("SVDRR.Synthetic") is None
    layers.SetBackgroundVolumeID(loaded.GetID())
    assert label_of("Red") == SYNTHETIC_LABEL


def test_it_is_in_the_picture_and_goes_with_the_image(radiographs: list[Radiograph], layers: Any, window: Any) -> None:
    """Also where only what the node holds changes, as with the volume of a sequence."""
    empty = picture(window)
    labels = SyntheticLabels()
    labels.add("Red", window)
    labels.add("Red", window)
    assert (picture(window) == empty).all()

    computed = views_to_sequence([replace(radiographs[0], provenance=None), *radiographs[1:]], "views")
    layers.SetBackgroundVolumeID(computed.GetProxyNode(computed.GetMasterSequenceNode()).GetID())
    assert (picture(window) == empty).all()
    computed.SetSelectedItemNumber(1)
    changed = (picture(window) != empty).any(axis=2)
    assert 100 < changed.sum() < changed.size / 4
    # In the lower right corner, where Slicer writes nothing.
    rows, columns = np.nonzero(changed)
    assert rows.min() > 100
    assert columns.max() > 270
    computed.SetSelectedItemNumber(0)
    assert (picture(window) == empty).all()


def test_views_that_make_new_renderers_keep_it(radiographs: list[Radiograph], layers: Any, window: Any) -> None:
    empty = picture(window)
    labels = SyntheticLabels()
    labels.add("Red", window)
    layers.SetBackgroundVolumeID(radiograph_to_node(radiographs[0], "view").GetID())
    labeled = picture(window)
    window.RemoveRenderer(window.GetRenderers().GetFirstRenderer())
    window.AddRenderer(vtk.vtkRenderer())
    assert (picture(window) == labeled).all()
    labels.remove()
    assert (picture(window) == empty).all()
    assert window.GetRenderers().GetFirstRenderer().GetViewProps().GetNumberOfItems() == 0


def test_a_view_can_go_first(window: Any) -> None:
    labels = SyntheticLabels()
    labels.add("Red", window)
    gone = vtk.vtkWeakReference()
    local = vtk.vtkRenderWindow()
    gone.Set(local)
    labels.add("Green", local)
    del local
    gc.collect()
    assert gone.Get() is None
    labels.remove()
