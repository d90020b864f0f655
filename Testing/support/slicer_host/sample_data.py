"""`SampleData.SampleDataLogic`, registration only."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import slicer


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


def make_sample_data() -> ModuleType:
    module = ModuleType("SampleData", __doc__)
    module.__dict__.update(SampleDataLogic=SampleDataLogic, SampleDataSource=SampleDataSource)
    return module
