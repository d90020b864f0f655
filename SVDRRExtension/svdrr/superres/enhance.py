"""Super-resolution of a radiograph by method name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svdrr.errors import SVDRRError
from svdrr.geometry import Detector, View
from svdrr.models.registry import super_resolution_folder, weights_sha256
from svdrr.provenance import Provenance, enhanced
from svdrr.radiograph import Radiograph, check_radiograph
from svdrr.superres import interpolation
from svdrr.superres.degradation import gray_scale_of
from svdrr.superres.fidelity import consistent_with, data_fidelity

LEARNED = ("regression", "lcmsr", "deltadiff")
METHODS = (*interpolation.METHODS, *LEARNED)
SCALES = (2, 4)
UNCERTAINTY_SEEDS = 8
MAX_SEED, MAX_SEEDS = 2**63 - 1, 64

OnStep = Callable[[int, int], None]
"""Called with the finished and the total number of steps; an exception from it ends the work."""


def available_methods() -> tuple[str, ...]:
    """Those of `METHODS` whose weights are there for every scale, and the packages that they are loaded with."""
    if not all(find_spec(package) for package in ("torch", "diffusers")):
        return interpolation.METHODS
    return tuple(
        method
        for method in METHODS
        if method not in LEARNED or all(super_resolution_folder(method, scale) for scale in SCALES)
    )


def check_method(method: str, scale: int) -> None:
    """SVDRRError unless `method` and `scale` are on offer, and the method's weights are there."""
    if method not in METHODS:
        raise SVDRRError(f"Unknown super-resolution method '{method}'; choose one of: {', '.join(METHODS)}.")
    if scale not in SCALES:
        raise SVDRRError(f"The scale must be {' or '.join(map(str, SCALES))}, not {scale}.")
    if method in LEARNED:
        _weights(method, scale)


def check_enhancement(method: str, scale: int, seed: int | None, uncertainty_seeds: int = 0) -> None:
    """SVDRRError for what `enhance`, and `uncertainty` unless there are 0 seeds of it, would refuse."""
    check_method(method, scale)
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise SVDRRError(f"A seed lies in 0 to 2^63 - 1, and {seed} does not.")
    if uncertainty_seeds and method != "lcmsr":
        raise SVDRRError(f"Only lcmsr has an uncertainty map; '{method}' gives the same result with every seed.")
    if uncertainty_seeds:
        check_seeds(uncertainty_seeds)


def check_seeds(seeds: int) -> None:
    """SVDRRError unless an uncertainty can be had of so many."""
    if not 2 <= seeds <= MAX_SEEDS:
        raise SVDRRError(f"An uncertainty map takes 2 to {MAX_SEEDS} seeds, not {seeds}.")


def enhance(
    radiograph: Radiograph,
    method: str = "lanczos",
    scale: int = 2,
    seed: int | None = 0,
    consistent: bool = False,
    device: str = "auto",
    on_step: OnStep | None = None,
    gray_scale: str | None = None,
) -> Radiograph:
    """The radiograph with `scale` times as many rows and columns over the same physical extent.

    method: one of `METHODS`. seed: of LCMSR's noise, or None for its deterministic path, which the other methods are
    anyway. consistent: remove, at the resolution of the radiograph, what the result contradicts in it, see
    `svdrr.superres.fidelity.consistent_with`. device: of the learned methods, see `svdrr.devices.choose_device`.
    gray_scale: of the radiograph, by default what `svdrr.superres.degradation.gray_scale_of` takes it for.
    The provenance says how far the result, reduced again, is from the radiograph. SVDRRError for an unknown method,
    scale or device, a negative seed, gray values outside [0, 1], and for weights that are missing or damaged.
    """
    check_enhancement(method, scale, seed)
    radiograph = _checked(radiograph)
    gray_scale = gray_scale or gray_scale_of(radiograph)
    made = Provenance(f"{method} x{scale}", radiograph.pixels_sha256())
    if method in LEARNED:
        folder = _weights(method, scale)
        pixels = _learned(radiograph.pixels, method, folder, seed, device, on_step)
        made = replace(made, model=_model_name(method, scale), weights_sha256=weights_sha256(folder))
        if method == "lcmsr":
            made = replace(made, seed=seed, settings={"Code": "sampled" if seed is not None else "deterministic"})
    else:
        pixels = interpolation.interpolate(radiograph.pixels, scale, method)
    if consistent:
        pixels = consistent_with(pixels, radiograph.pixels, gray_scale, _going_on(on_step))
    fidelity = data_fidelity(pixels, radiograph.pixels, gray_scale)
    residual = f"mean {fidelity.mean_percent:.3f} %, largest {fidelity.max_percent:.2f} % of the gray range"
    made = replace(made, settings={**made.settings, **_projection(consistent), "DataConsistencyResidual": residual})
    return _enlarged(radiograph, pixels, scale, made)


def uncertainty(
    radiograph: Radiograph,
    scale: int = 2,
    seeds: int = UNCERTAINTY_SEEDS,
    first_seed: int = 0,
    device: str = "auto",
    consistent: bool = False,
    on_step: OnStep | None = None,
    gray_scale: str | None = None,
) -> Radiograph:
    """How much LCMSR's result depends on its noise: the standard deviation of each pixel over `seeds` seeds.

    On the pixels of the enlarged image, in parts of its gray range; of `consistent` results where these are wanted. It
    says where the model invents, not whether it is right where it does not, and is smaller than the error.
    SVDRRError as in `enhance`, and unless there are 2 to `MAX_SEEDS` seeds.
    """
    check_enhancement("lcmsr", scale, first_seed)
    check_seeds(seeds)
    radiograph = _checked(radiograph)
    gray_scale = gray_scale or gray_scale_of(radiograph)
    folder = _weights("lcmsr", scale)
    mean = squares = np.zeros((), np.float32)
    for number in range(seeds):
        of_seed = None if on_step is None else _part_of(on_step, number, seeds)
        pixels = _learned(radiograph.pixels, "lcmsr", folder, first_seed + number, device, of_seed)
        if consistent:
            pixels = consistent_with(pixels, radiograph.pixels, gray_scale, _going_on(of_seed))
        # Welford's: the squares of small differences would be lost in those of the values.
        difference = pixels - mean
        mean = mean + difference / np.float32(number + 1)
        squares = squares + difference * (pixels - mean)
    made = Provenance(
        f"uncertainty of lcmsr x{scale}",
        radiograph.pixels_sha256(),
        _model_name("lcmsr", scale),
        weights_sha256(folder),
        first_seed,
        {"Quantity": f"standard deviation over {seeds} seeds, parts of the gray range", **_projection(consistent)},
    )
    deviation = np.sqrt(squares / np.float32(seeds - 1)).astype(np.float32)
    return _enlarged(replace(radiograph, provenance=None), deviation, scale, made)


def finer_pixels(scale: int) -> NDArray[np.float64]:
    """Indices of the enlarged image to those of the image: pixel centers map by (x + ½)/scale − ½."""
    matrix = np.diag([1.0 / scale, 1.0 / scale, 1.0, 1.0])
    matrix[:2, 3] = 0.5 / scale - 0.5
    return matrix


def _learned(
    pixels: NDArray[np.float32], method: str, folder: Path, seed: int | None, device: str, on_step: OnStep | None
) -> NDArray[np.float32]:
    try:
        from svdrr.superres.learned import enlarge, load_network
    except ImportError as error:
        raise SVDRRError(
            f"The method '{method}' needs the package '{error.name}'; install it with: pip install 'svdrr[synthesis]'."
        ) from error
    return enlarge(pixels, load_network(method, folder, device), seed, on_step)


def _projection(consistent: bool) -> dict[str, str]:
    return {"Projection": "iterative back-projection"} if consistent else {}


def _weights(method: str, scale: int) -> Path:
    folder = super_resolution_folder(method, scale)
    if folder is None:
        raise SVDRRError(
            f"The weights of '{method}' for scale {scale} were not found; "
            "set SVDRR_MODELS to the folder Resources/Models of SVDRR."
        )
    return folder


def _model_name(method: str, scale: int) -> str:
    return f"super-resolution/{method}/x{scale}"


def _checked(radiograph: Radiograph) -> Radiograph:
    """In single precision, which all that follows takes."""
    radiograph = replace(radiograph, pixels=np.asarray(radiograph.pixels, np.float32))
    check_radiograph(radiograph)
    return radiograph


def _going_on(on_step: OnStep | None) -> OnStep | None:
    """For work of unknown length after the last step, which can still be ended."""
    return None if on_step is None else lambda *_: on_step(1, 1)


def _part_of(on_step: OnStep, number: int, count: int) -> OnStep:
    return lambda step, steps: on_step(number * steps + step, count * steps)


def _enlarged(radiograph: Radiograph, pixels: NDArray[np.float32], scale: int, made: Provenance) -> Radiograph:
    return Radiograph(
        pixels=pixels,
        pixel_spacing_mm=_divided(radiograph.pixel_spacing_mm, scale),
        view=_with_finer_detector(radiograph.view, scale),
        provenance=enhanced(radiograph.provenance, made),
        view_position=radiograph.view_position,
    )


def _divided(spacing_mm: tuple[float, float] | None, scale: int) -> tuple[float, float] | None:
    return (spacing_mm[0] / scale, spacing_mm[1] / scale) if spacing_mm else None


def _with_finer_detector(view: View | None, scale: int) -> View | None:
    if view is None:
        return None
    old = view.detector
    row_mm, column_mm = old.pixel_spacing_mm
    detector = Detector(old.rows * scale, old.columns * scale, (row_mm / scale, column_mm / scale))
    return replace(view, detector=detector)
