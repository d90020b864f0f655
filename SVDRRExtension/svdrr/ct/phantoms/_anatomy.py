"""What is drawn at random for one phantom: sizes, shapes, positions and tissue HU of one person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._canvas import Floats, Placement

Values = float | Sequence[float] | NDArray[Any]

# Vertebral levels are counted as T1 = 1 ... T12 = 12, L1 = 13; C7 = 0 and so on upwards. Organs are placed by
# level, as anatomy books do, so they follow the drawn spine.
LEVELS = np.arange(-6, 18)
_HEIGHT_MM = np.interp(LEVELS, [-6, 0, 1, 12, 17], [15.0, 17.0, 18.5, 26.5, 33.0])  # with one disc


@dataclass(frozen=True)
class Tissue:
    """HU of this person's tissues."""

    fat: float
    muscle: float
    blood: float
    liver: float
    lung: float
    cortical: float
    trabecular: float
    cartilage: float


@dataclass(frozen=True)
class Anatomy:
    """One person. Lengths in mm, body frame (x left, y posterior, z superior; z = 0 at T7)."""

    width: float  # scale factors about an average adult
    depth: float
    height: float
    fat_mm: float
    muscle_mm: float
    kyphosis_mm: float
    scoliosis_mm: float
    scoliosis_phase: float
    rib_slope: float
    rib_radius_mm: float
    right_dome_level: float
    left_dome_drop_mm: float
    dome_curve: float
    heart_scale: float
    heart_axis_deg: float  # below the horizontal, frontal plane
    aorta_radius_mm: float
    arch_level: float
    bone_scale: float
    arms: bool
    breasts: bool
    breast_scale: float
    upright_gas: bool  # a gas bubble under the dome, as in standing people, or in front, as in lying ones
    gas_level_mm: float
    top_level: float
    bottom_level: float
    placement: Placement
    offset_mm: tuple[float, float, float]
    tissue: Tissue

    @cached_property
    def _level_z(self) -> NDArray[np.float64]:
        steps = (_HEIGHT_MM[:-1] + _HEIGHT_MM[1:]) / 2 * self.height
        z = -np.concatenate([[0.0], np.cumsum(steps)])
        return np.asarray(z - z[LEVELS == 7])

    def z(self, level: Values) -> NDArray[np.float64]:
        """Height of a vertebral level, mm."""
        return np.asarray(np.interp(level, LEVELS, self._level_z))

    def level(self, z: Values) -> NDArray[np.float64]:
        """Vertebral level at a height."""
        return np.asarray(np.interp(-np.asarray(z), -self._level_z, LEVELS))

    def profile(self, z: Values, levels: Sequence[float], values: Sequence[float]) -> Floats:
        """A quantity given at a few vertebral levels, at heights z; float32."""
        return np.interp(self.level(z), levels, values).astype(np.float32)

    def spine_x(self, z: Values) -> Floats:
        return (self.scoliosis_mm * np.sin(np.asarray(z) / 75.0 + self.scoliosis_phase)).astype(np.float32)

    def spine_y(self, z: Values) -> Floats:
        """Center of the vertebral bodies: kyphosis of the chest, lordosis of the neck and the loins."""
        shape = self.profile(
            z, [-6, -2, 1, 4, 7, 10, 12, 15, 17], [-1.3, -1.45, -1.0, -0.25, 0, -0.2, -0.5, -0.85, -0.9]
        )
        return np.float32(55.0) + np.float32(self.kyphosis_mm) * shape

    def cage_width(self, z: Values) -> Floats:
        """Half width of the rib cage at the middle of the ribs."""
        return np.float32(self.width) * self.profile(
            z, [0, 1, 2, 3, 4, 5, 7, 9, 11, 13, 16], [44, 58, 80, 98, 110, 119, 129, 133, 131, 126, 120]
        )

    def cage_front(self, z: Values) -> Floats:
        gap = self.profile(z, [0, 1, 2, 3, 5, 7, 9, 11, 13, 16], [36, 43, 54, 69, 94, 111, 122, 125, 118, 102])
        return self.spine_y(z) - np.float32(self.depth) * gap

    def cage_back(self, z: Values) -> Floats:
        gap = self.profile(z, [0, 1, 2, 4, 7, 10, 12, 14, 16], [14, 20, 28, 37, 41, 39, 34, 30, 28])
        return self.spine_y(z) + np.float32(np.sqrt(self.depth)) * gap

    def at(self, x: float, forward: float, level: float) -> NDArray[np.float64]:
        """A point `forward` mm in front of the spine's center line; scales with the chest."""
        z = float(self.z(level))
        y = float(self.spine_y(z)) - forward * self.depth
        return np.array([x * self.width + 0.5 * float(self.spine_x(z)), y, z])


def draw_anatomy(rng: np.random.Generator, arms: bool | None, breasts: bool | None) -> Anatomy:
    """Draw one person; `arms` and `breasts` override the draw without changing any other."""

    def normal(mean: float, sd: float) -> float:
        return float(mean + sd * np.clip(rng.normal(), -2.2, 2.2))

    def uniform(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    def chance(p: float) -> bool:
        return bool(rng.random() < p)

    drawn_arms, drawn_breasts = chance(0.65), chance(0.4)
    bone_scale = normal(1.0, 0.15)
    # Many chest CTs are made with iodine in the blood.
    contrast = uniform(60, 260) if chance(0.3) else 0.0
    tissue = Tissue(
        fat=normal(-102, 6), muscle=normal(52, 6), blood=normal(44, 6) + contrast, liver=normal(60, 8),
        lung=normal(-855, 22),
        cortical=950 * bone_scale, trabecular=normal(210, 40) * bone_scale, cartilage=normal(110, 25),
    )  # fmt: skip
    return Anatomy(
        width=normal(1.0, 0.06), depth=normal(1.1, 0.09), height=normal(1.0, 0.05),
        fat_mm=float(np.clip(rng.lognormal(2.35, 0.5), 4, 32)), muscle_mm=normal(16, 3),
        kyphosis_mm=normal(28, 8), scoliosis_mm=abs(normal(0, 3.5)), scoliosis_phase=uniform(0, 6.28),
        rib_slope=normal(1.0, 0.13), rib_radius_mm=normal(4.3, 0.4),
        right_dome_level=normal(9.5, 0.5), left_dome_drop_mm=uniform(8, 24), dome_curve=normal(1.0, 0.18),
        heart_scale=normal(1.0, 0.09), heart_axis_deg=normal(38, 9),
        aorta_radius_mm=normal(13.5, 1.6), arch_level=normal(3.7, 0.25),
        bone_scale=bone_scale,
        arms=drawn_arms if arms is None else arms, breasts=drawn_breasts if breasts is None else breasts,
        breast_scale=uniform(0.65, 1.2), upright_gas=chance(0.4), gas_level_mm=uniform(16, 36),
        top_level=uniform(-2.5, 0.2), bottom_level=uniform(12.6, 15.6),
        placement=Placement(
            rotation_deg=normal(0, 1.5), tilt=(normal(0, 0.02), normal(0, 0.02)),
            shift_mm=(uniform(-10, 10), uniform(-10, 10)),
        ),
        offset_mm=(uniform(-10, 10), uniform(-10, 10), uniform(-10, 10)),
        tissue=tissue,
    )  # fmt: skip
