"""Other projects' renderers, each in a process and a Python environment that are not ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from svdrr.drr import AttenuationVolume
from svdrr.geometry import View

PEERS = ("plastimatch", "rtk")
_LPS = np.array([-1.0, -1.0, 1.0])


class PeerError(Exception):
    """Why a peer cannot be measured, in one sentence."""


def write_for_peers(volume: AttenuationVolume, path: Path) -> None:
    """μ in 1/mm as MetaImage, cropped as for our engines, with the axes along LPS, which plastimatch needs.

    One layer of air more on every side: RTK integrates between the outermost voxel centers only.
    """
    cropped = volume.cropped()
    axes = cropped.ijk_to_ras[:3, :3] * _LPS[:, None]
    spacing = np.linalg.norm(axes, axis=0)
    image = sitk.GetImageFromArray(cropped.mu)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((axes / spacing).ravel().tolist())
    image.SetOrigin((cropped.ijk_to_ras[:3, 3] * _LPS).tolist())
    image = sitk.DICOMOrient(image, "LPS")
    if not np.allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-6):
        raise PeerError("The benchmark's CT must have its axes along the patient's.")
    sitk.WriteImage(sitk.ConstantPad(image, [1] * 3, [1] * 3, 0.0), str(path))


def _in_lps(view: View) -> dict[str, Any]:
    right, down = view.pose.image_axes
    vectors = {
        "source": view.pose.source_ras,
        "detector_center": view.pose.detector_center_ras,
        "isocenter": np.asarray(view.pose.isocenter_ras),
        "toward_source": -view.pose.detector_direction,
        "right": right,
        "down": down,
    }
    return {name: (_LPS * vector).tolist() for name, vector in vectors.items()} | {
        "rows": view.detector.rows,
        "columns": view.detector.columns,
        "spacing_mm": list(view.detector.pixel_spacing_mm),
        "source_to_isocenter_mm": view.pose.source_to_isocenter_mm,
        "source_to_detector_mm": view.pose.source_to_detector_mm,
    }


class Peer:
    """A running worker. peak_mb: memory above the volume, at its worst up to the last view."""

    def __init__(self, name: str, python: Path, mu: Path, folder: Path) -> None:
        if not python.exists():
            raise PeerError("its environment is missing; run: make bench-drr")
        folder.mkdir()
        worker = Path(__file__).with_name("peer_worker.py")
        self._process = subprocess.Popen(
            [python, worker, name, mu, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.peak_mb = 0.0
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended without a word"}
        if "error" in answer:
            self.close()
            raise PeerError(answer["error"])
        return answer

    def render(self, view: View) -> tuple[NDArray[np.float32], float]:
        """Line integrals (rows, columns), and the seconds that they took."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(_in_lps(view)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise PeerError("its process has ended") from error
        answer = self._answer()
        self.peak_mb = answer["peak_mb"]
        return np.load(answer["image"]), answer["seconds"]

    def close(self) -> None:
        # Without views to come, the worker ends by itself.
        self._process.communicate()
