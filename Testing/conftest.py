"""What tests share: a tiny model with random weights, and radiographs as DICOM."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from backend_environment import write_backend_environment
from fixture_types import WriteDX


def pytest_configure() -> None:
    # A shell that starts tests in its background has them ignore Ctrl+C, which some of them send.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models that holds one, ``tiny``: 32 x 32 pixels, random weights."""
    import torch

    from svdrr.synthesis.configuration import load_configuration, make_pipeline
    from svdrr.synthesis.training.export import export_model

    torch.manual_seed(1)
    demo = load_configuration("demo-128")
    tiny = dataclasses.replace(
        demo,
        name="tiny",
        resolution=32,
        vae={**demo.vae, "block_out_channels": [16, 16, 16, 16], "sample_size": 32},
        vcdit={
            **demo.vcdit,
            "sample_size": 4,
            "num_layers": 1,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "image_embedding_dim": 32,
            "back_projection_mm": None,
        },
        image_encoder={**demo.image_encoder, "image_size": 32, "hidden_size": 32},
        sampling={"num_inference_steps": 2, "guidance_scale": 1.5},
    )
    sources = np.random.default_rng(0).integers(2000, 50000, (2, 32, 32)).astype(np.uint16)
    folder = tmp_path_factory.mktemp("models")
    export_model(make_pipeline(tiny), tiny, sources, folder / "tiny")
    return folder


@pytest.fixture
def models(models_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`models_folder`, where svdrr finds it."""
    monkeypatch.setenv("SVDRR_MODELS", str(models_folder))
    return models_folder


@pytest.fixture(scope="session")
def write_dx() -> WriteDX:
    """Writes stored values (rows, columns) as a DICOM radiograph with more tags, by keyword; returns its path."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    def write(path: Path, stored: np.ndarray, photometric: str = "MONOCHROME2", **tags: object) -> Path:
        data = pydicom.Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.SeriesInstanceUID, data.StudyInstanceUID, data.Modality = generate_uid(), generate_uid(), "DX"
        data.Rows, data.Columns = stored.shape[:2]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
        data.BitsAllocated = data.BitsStored = 8 * stored.dtype.itemsize
        data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
        for name, value in tags.items():
            setattr(data, name, value)
        data.PixelData = stored.tobytes()
        data.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def backend_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The environment that panels start a backend on this computer from; what they have started ends with the test."""
    folder = write_backend_environment(tmp_path / "backend environment")
    monkeypatch.setenv("SVDRR_BACKEND", str(folder))
    yield folder
    from svdrr.mrml.backend import stop_local_backends

    stop_local_backends()
