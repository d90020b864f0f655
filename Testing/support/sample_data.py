"""Writes the sample data that the Slicer modules ship: a phantom's CT with its table, and its PA radiograph.

The phantom's seed is none that a model was trained or measured with. Run by: make sample-data
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from svdrr.ct.body import body_center_ras
from svdrr.ct.io import write_volume
from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
from svdrr.geometry import CArmPose, Detector
from svdrr.mrml import new_scene, radiograph_to_node, save_scene
from svdrr.render import render_drrs

SEED = 20261121
CT_SPACING_MM, RADIOGRAPH_SPACING_MM = 3.0, 1.5
PIXELS = 512
MODULES = Path(__file__).resolve().parents[2] / "SlicerModules"
CT_FILE = MODULES / "CTTableRemoval" / "Resources" / "SampleData" / "SVDRRPhantomCT.nrrd"
RADIOGRAPH_FILE = MODULES / "SingleViewSynthesis" / "Resources" / "SampleData" / "SVDRRPhantomRadiograph.mrb"


def write_ct() -> None:
    """The CT, int16 HU, with its table."""
    ct = thorax_phantom(SEED, ThoraxOptions(table=True, spacing_mm=CT_SPACING_MM)).ct
    write_volume(CT_FILE, np.round(ct.hu).astype(np.int16), ct.ijk_to_ras)


def write_radiograph() -> None:
    """Its PA view, as a scene: of a volume's file alone, Slicer does not read back provenance and pose."""
    ct = thorax_phantom(SEED, ThoraxOptions(spacing_mm=RADIOGRAPH_SPACING_MM)).ct
    pose = CArmPose(isocenter_ras=body_center_ras(ct))
    ((radiograph, _),) = render_drrs(ct, [pose], Detector.square(PIXELS), source=f"thorax phantom, seed {SEED}")
    new_scene()
    radiograph_to_node(radiograph, "SVDRRPhantomRadiograph")
    save_scene(RADIOGRAPH_FILE)


def main() -> None:
    write_ct()
    write_radiograph()
    for file in (CT_FILE, RADIOGRAPH_FILE):
        print(f"{file.name} SHA256:{hashlib.sha256(file.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
