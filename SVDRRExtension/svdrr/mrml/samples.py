"""The sample data that the modules ship, in Slicer's Sample Data module."""

from __future__ import annotations

from pathlib import Path

CATEGORY = "SVDRR"


def register_sample(file: Path, sha256: str, thumbnail: Path) -> None:
    """Offer a file in the Sample Data module, under its name without suffix; a scene (.mrb) is opened as one.

    sha256: of the file, in hexadecimal digits. thumbnail: a PNG file.
    """
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=file.stem,
        thumbnailFileName=str(thumbnail),
        uris=file.as_uri(),
        fileNames=file.name,
        nodeNames=file.stem,
        checksums=f"SHA256:{sha256}",
        loadFiles=True,
        loadFileTypes="SceneFile" if file.suffix == ".mrb" else "VolumeFile",
    )
