"""A scene without an application, and scenes as files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import slicer

from svdrr.errors import SVDRRError
from svdrr.files import whole_file

# A logic takes its nodes and observers with it when it goes, so those of the present scene are held here.
_held: list[Any] = []


def new_scene() -> slicer.vtkMRMLScene:
    """Make an empty scene `slicer.mrmlScene`, with the logics that an application would give it: for slicer-core.

    With them volumes find their color tables, sequence browsers move their proxy nodes, and .mrb files can
    be written and read. Raises RuntimeError inside the application, which has its own scene.
    """
    if hasattr(slicer, "app"):
        raise RuntimeError("inside 3D Slicer use slicer.mrmlScene")
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    colors = slicer.vtkMRMLColorLogic()
    colors.SetMRMLScene(scene)
    modules = [
        slicer.vtkSlicerSequencesLogic(),
        slicer.vtkSlicerSegmentationsModuleLogic(),
        slicer.vtkSlicerMarkupsLogic(),
    ]
    for logic in modules:
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
    # Scene files are packed and unpacked in this folder.
    cache = tempfile.TemporaryDirectory(prefix="svdrr-scene-")
    remote = slicer.vtkMRMLRemoteIOLogic()
    remote.SetMRMLScene(scene)
    remote.AddDataIOToScene()
    remote.GetCacheManager().SetRemoteCacheDirectory(cache.name)

    slicer.mrmlScene = scene
    _held[:] = [application, colors, *modules, remote, cache]
    return scene


def save_scene(path: Path) -> None:
    """Save the whole scene as a Slicer scene bundle (.mrb), whole or not at all.

    Raises SVDRRError if the name does not end in .mrb or the file cannot be written.
    """
    if path.suffix.lower() != ".mrb":
        raise SVDRRError(f"Cannot save the scene as {path}: its name must end in .mrb.")
    # Written under its own name, in a folder beside, because the folder inside the bundle takes that name.
    with whole_file(path) as temporary, tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        bundle = Path(folder, path.name)
        if not slicer.mrmlScene.WriteToMRB(str(bundle)) or not bundle.is_file():
            raise SVDRRError(
                f"Slicer could not save the scene as {path}, see its error log; check the space on the disk."
            )
        os.replace(bundle, temporary)
