"""`SampleData.SampleDataLogic`: registration, and opening samples that ship as files."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import slicer
import slicer.util


@dataclass
class SampleDataSource:
    """One data set, as registered."""

    sampleName: str | None = None
    uris: Any = None
    fileNames: Any = None
    nodeNames: Any = None
    customDownloader: Any = None
    thumbnailFileName: str | None = None
    loadFileTypes: Any = None
    loadFiles: Any = None
    loadFileProperties: Any = None
    checksums: Any = None

    def __post_init__(self) -> None:
        for name in ("uris", "fileNames", "nodeNames", "checksums", "loadFiles", "loadFileTypes"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, list | tuple):
                setattr(self, name, [value])
        lengths = {
            len(value) for value in (self.uris, self.fileNames, self.nodeNames, self.checksums) if value is not None
        }
        if len(lengths) > 1:
            raise ValueError(f"'{self.sampleName}' has lists of different lengths, one entry is needed for each file")


class SampleDataLogic:
    """Categories and sources lie in slicer.modules, where the Sample Data module looks for them."""

    @staticmethod
    def registerCustomSampleDataCategory(category: str, title: str) -> None:
        slicer.modules.sampleDataSourceCategories.setdefault(category, {})["title"] = title

    @staticmethod
    def registerCustomSampleDataSource(category: str = "Custom", **source: Any) -> None:
        made = SampleDataSource(**source)
        sources = slicer.modules.sampleDataSources.setdefault(category, [])
        if made not in sources:
            sources.append(made)

    def downloadSample(self, sampleName: str) -> Any:
        """Open a sample, as a click on it does; returns its volume, or the scene's file for a scene."""
        sources = [one for sources in slicer.modules.sampleDataSources.values() for one in sources]
        (source,) = [one for one in sources if one.sampleName == sampleName]
        uri = urlsplit(source.uris[0])
        if uri.scheme != "file":
            raise RuntimeError(f"this host opens samples that are files, not {source.uris[0]}")
        file = Path(slicer.app.temporaryPath, source.fileNames[0])
        shutil.copyfile(url2pathname(uri.path), file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if source.checksums[0] != f"SHA256:{digest}":
            raise ValueError(f"{file.name} has the checksum {digest}, not {source.checksums[0]}")
        if source.loadFileTypes[0] == "SceneFile":
            slicer.util.loadScene(str(file))
            return str(file)
        return slicer.util.loadVolume(str(file), properties={"name": source.nodeNames[0]})


def make_sample_data() -> ModuleType:
    module = ModuleType("SampleData", __doc__)
    module.__dict__.update(SampleDataLogic=SampleDataLogic, SampleDataSource=SampleDataSource)
    return module
