"""What a data set is made with. A folder holds the result of one set of settings."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from svdrr import __version__
from svdrr.drr import AttenuationVolume, make_renderer
from svdrr.drr.attenuation import EFFECTIVE_ENERGY_KEV
from svdrr.errors import SVDRRError
from svdrr.files import whole_file
from svdrr.geometry import CArmPose, parse_views
from svdrr.geometry.viewsets import Isocenter, pose_to_json

FORMAT = "svdrr-dataset-1"
SETTINGS_FILE = "settings.json"
MANIFEST_FILE = "manifest.json"
SPLITS = ("train", "val", "test")
PIXELS = (16, 4096)

# What decides the bytes of a rendered, encoded image.
_PACKAGES = ("numpy", "scipy", "SimpleITK", "numba", "torch")


@dataclass(frozen=True)
class Settings:
    """What the shards' bytes and the split depend on.

    views: the specification; of a views file only that it is one, since its path may name people. views_sha256:
    of the poses about the origin. sizes: pixels per side. engine: the name that the renderer reports.
    split: shares of train, val and test.
    """

    views: str
    views_sha256: str
    views_per_ct: int
    sizes: tuple[int, ...]
    engine: str
    max_slice_thickness_mm: float | None
    split: tuple[float, ...]
    energy_kev: float
    versions: dict[str, str]

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"format": FORMAT, **json.loads(json.dumps(asdict(self)))}


def make_settings(
    views: str, sizes: str, engine: str, max_slice_thickness_mm: float | None = None, split: str = "80,10,10"
) -> Settings:
    """Settings from what a user types. Raises SVDRRError, one sentence, for what makes no sense."""
    poses = parse_views(views, (0.0, 0.0, 0.0))
    if max_slice_thickness_mm is not None and not max_slice_thickness_mm > 0.0:
        raise SVDRRError(f"The largest slice thickness must be above 0 mm, not {max_slice_thickness_mm:g} mm.")
    smallest = AttenuationVolume(np.ones((2, 2, 2), np.float32), np.eye(4))
    return Settings(
        views="file" if views.lower().endswith(".json") else views,
        views_sha256=poses_sha256(poses),
        views_per_ct=len(poses),
        sizes=parse_sizes(sizes),
        split=parse_split(split),
        engine=make_renderer(smallest, engine).name,
        max_slice_thickness_mm=max_slice_thickness_mm,
        energy_kev=EFFECTIVE_ENERGY_KEV,
        versions=_versions(),
    )


def parse_sizes(text: str) -> tuple[int, ...]:
    """Pixels per side from text such as ``256,512``."""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise SVDRRError(f"Cannot read the sizes '{text}'; give pixels per side, such as 256,512,1024.") from None
    if len(set(sizes)) < len(sizes):
        raise SVDRRError(f"The sizes '{text}' name one size twice; give each once.")
    wrong = [size for size in sizes if not PIXELS[0] <= size <= PIXELS[1]]
    if wrong:
        raise SVDRRError(f"Every size must lie in {PIXELS[0]} to {PIXELS[1]} pixels, not {wrong[0]}.")
    return sizes


def parse_split(text: str) -> tuple[float, ...]:
    """Shares of train, val and test, in the ratio given, such as ``80,10,10``."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    total = sum(shares)
    if len(shares) != len(SPLITS) or min(shares) < 0.0 or not math.isfinite(total) or total <= 0.0:
        raise SVDRRError(f"Cannot read the split '{text}'; give shares of train, val and test, such as 80,10,10.")
    return shares


def poses_of(views: str, isocenter_ras: Isocenter, settings: Settings) -> list[CArmPose]:
    """The poses about a CT's isocenter. SVDRRError if a views file is not what it was when the build began."""
    if poses_sha256(parse_views(views, (0.0, 0.0, 0.0))) != settings.views_sha256:
        raise SVDRRError(f"The view file '{views}' is not the one that this data set was begun with; restore it.")
    return parse_views(views, isocenter_ras)


def poses_sha256(poses: list[CArmPose]) -> str:
    """Hash of the poses' numbers."""
    return hashlib.sha256(json.dumps([pose_to_json(pose) for pose in poses]).encode()).hexdigest()


def json_bytes(document: dict[str, Any]) -> bytes:
    """A JSON file of a data set."""
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def write_json(path: Path, document: dict[str, Any]) -> None:
    """The same bytes for the same content, whole or not at all; a file that has them already is left alone."""
    if path.is_file() and path.read_bytes() == json_bytes(document):
        return
    with whole_file(path) as temporary:
        temporary.write_bytes(json_bytes(document))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a data set. SVDRRError where it is missing or damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SVDRRError(
            f"{path.parent} is not a finished data set: it holds no {path.name}; build it first."
        ) from None
    except OSError as error:
        raise SVDRRError(f"Cannot read {path}: {error.strerror}.") from None
    except ValueError:
        document = None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise _damaged(path)
    return document


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of a finished data set. SVDRRError where it is missing or damaged."""
    manifest = read_json(out / MANIFEST_FILE)
    if not {"settings", "cts", "index_sha256"} <= manifest.keys():
        raise _damaged(out / MANIFEST_FILE)
    return manifest


def _damaged(path: Path) -> SVDRRError:
    return SVDRRError(f"{path} is damaged, or of another version of SVDRR; build the data set in a new folder.")


def _versions() -> dict[str, str]:
    found = {"svdrr": __version__, "zlib": zlib.ZLIB_RUNTIME_VERSION}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
