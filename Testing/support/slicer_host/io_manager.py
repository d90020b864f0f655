"""`slicer.app.coreIOManager()`, by which slicer.util loads and saves volumes, sequences and scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
import vtk


class CoreIOManager:
    """Readers and writers by file type; returns whether it worked, with reasons in `messages`."""

    def fileType(self, filename: Any) -> str:
        name = str(filename).lower()
        if name.endswith((".mrb", ".mrml")):
            return "SceneFile"
        if name.endswith((".seq.nrrd", ".seq.mha", ".seq.nhdr")):
            return "SequenceFile"
        return "VolumeFile"

    def fileWriterFileType(self, node: Any) -> str:
        return "NodeFile"

    def loadNodes(self, file_type: str, properties: dict[str, Any], loaded: Any, messages: Any) -> bool:
        known = {"VolumeFile": _load_volume, "SequenceFile": _load_sequence, "SceneFile": _load_scene}
        if file_type not in known:
            raise RuntimeError(f"the test host has no reader for {file_type}")
        return known[file_type](Path(properties["fileName"]), properties, loaded, messages)

    def saveNodes(self, file_type: str, properties: dict[str, Any], messages: Any) -> bool:
        path = Path(properties["fileName"])
        return _save_scene(path, messages) if file_type == "SceneFile" else _save_node(path, properties["nodeID"])


def _load_volume(path: Path, properties: dict[str, Any], loaded: Any, messages: Any) -> bool:
    unknown = properties.keys() - {"fileName", "name", "labelmap", "singleFile", "center", "show", "autoWindowLevel"}
    if unknown:
        raise RuntimeError(f"the test host cannot load a volume with {', '.join(sorted(unknown))}")
    if not path.is_file():
        messages.AddMessage(vtk.vtkCommand.ErrorEvent, f"{path} does not exist")
        return False
    switches = ("labelmap", "center", "singleFile")
    options = sum(1 << bit for bit, switch in enumerate(switches) if properties.get(switch))
    name = properties.get("name") or path.name.split(".")[0]
    node = slicer.modules.volumes.logic().AddArchetypeVolume(str(path), name, options)
    if node is None:
        return False
    loaded.AddItem(node)
    if properties.get("show", True):
        selection = slicer.app.applicationLogic().GetSelectionNode()
        if node.IsA("vtkMRMLLabelMapVolumeNode"):
            selection.SetActiveLabelVolumeID(node.GetID())
        else:
            selection.SetActiveVolumeID(node.GetID())
        slicer.app.applicationLogic().PropagateVolumeSelection()
    return True


def _load_sequence(path: Path, properties: dict[str, Any], loaded: Any, messages: Any) -> bool:
    node = slicer.modules.sequences.logic().AddSequence(str(path), messages)
    if node is None:
        return False
    loaded.AddItem(node)
    return True


def _load_scene(path: Path, properties: dict[str, Any], loaded: Any, messages: Any) -> bool:
    if not path.is_file():
        return False
    clear = bool(properties.get("clear", False))
    if path.suffix.lower() == ".mrb":
        return bool(slicer.mrmlScene.ReadFromMRB(str(path), clear, messages))
    slicer.mrmlScene.SetURL(str(path))
    return bool(slicer.mrmlScene.Connect(messages) if clear else slicer.mrmlScene.Import(messages))


def _save_scene(path: Path, messages: Any) -> bool:
    if path.suffix.lower() == ".mrb":
        return bool(slicer.mrmlScene.WriteToMRB(str(path), None, messages))
    if path.suffix.lower() == ".mrml":
        slicer.mrmlScene.SetURL(str(path))
        return bool(slicer.mrmlScene.Commit(str(path)))
    return bool(slicer.mrmlScene.SaveSceneToSlicerDataBundleDirectory(str(path), None))


def _save_node(path: Path, identifier: str) -> bool:
    node = slicer.mrmlScene.GetNodeByID(identifier)
    if node.GetStorageNode() is None:
        node.AddDefaultStorageNode()
    storage = node.GetStorageNode()
    if storage is None:
        return False
    storage.SetFileName(str(path))
    return bool(storage.WriteData(node))
