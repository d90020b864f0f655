"""The skeleton: spine, ribs and their cartilages, sternum, clavicles, scapulae, humeri."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._anatomy import LEVELS, Anatomy
from ._canvas import Canvas, Floats, shifted
from ._labels import Label
from ._soft import SIDES, humerus, shoulder_joint

# Rib 1 ... 12: how far the bony rib falls from spine to front end (mm), and how far round it reaches
# (degrees; 0 behind, 180 in front).
RIB_FALL_MM = (36, 58, 74, 86, 96, 104, 108, 106, 97, 82, 58, 38)
RIB_REACH_DEG = (150, 153, 153, 152, 150, 147, 141, 132, 122, 112, 84, 58)
STERNUM_TOP, STERNAL_ANGLE, STERNUM_END = 2.6, 4.5, 9.3  # vertebral levels


def draw_bones(c: Canvas, a: Anatomy) -> None:
    _spine(c, a)
    _cartilages(c, a)
    _ribs(c, a)
    _sternum(c, a)
    _clavicles(c, a)
    _scapulae(c, a)
    if a.arms:
        _humeri(c, a)


def _paint_bone(c: Canvas, a: Anatomy, field: Floats, label: Label, cortex_mm: float, marrow: float = 1.0) -> None:
    c.paint(field, a.tissue.cortical, label)
    c.paint(field + np.float32(cortex_mm), a.tissue.trabecular * marrow, label)


def _spine(c: Canvas, a: Anatomy) -> None:
    z = c.z
    level = a.level(z)
    pitch = np.gradient(a.z(LEVELS), LEVELS)
    height = np.abs(np.interp(np.round(level), LEVELS, pitch))
    width = a.profile(z, [-6, 0, 1, 6, 12, 17], [11, 14, 14.5, 14.5, 20, 24])
    half = a.profile(z, [-6, 0, 1, 6, 12, 17], [8, 8.5, 9, 13, 15.5, 18])
    middle = (np.abs(level - np.round(level)) * 2) ** 2
    waist = (0.88 + 0.12 * middle).astype(np.float32)
    x, y = c.x - a.spine_x(z), c.y - a.spine_y(z)
    r = np.sqrt((x / (width * waist)) ** 2 + (y / (half * waist)) ** 2)
    column = (r - 1) * half
    disc_half = a.profile(z, [-6, 1, 7, 12, 17], [2.2, 2.0, 2.3, 3.2, 5.0])
    endplate = (np.abs(level - np.round(level)) * height - height / 2 + disc_half).astype(np.float32)
    c.paint(column, 95.0, Label.CARTILAGE)
    bodies = np.maximum(column, endplate)
    arches = c.empty_field()
    for vertebra in LEVELS:
        _add_arch(c, a, arches, int(vertebra))
    _paint_bone(c, a, bodies, Label.BONE_SPINE, 1.0)
    _paint_bone(c, a, arches, Label.BONE_SPINE, 1.8, 1.3)
    canal_y = y - half - np.float32(8)
    canal = (np.sqrt((x / np.float32(9.5)) ** 2 + (canal_y / np.float32(7.5)) ** 2) - 1) * np.float32(7.5)
    c.paint(canal, 25.0, Label.BODY)


def _add_arch(c: Canvas, a: Anatomy, field: Floats, vertebra: int) -> None:
    z = float(a.z(vertebra))
    x, y = float(a.spine_x(z)), float(a.spine_y(z))
    half = float(np.interp(vertebra, [-6, 0, 1, 6, 12, 17], [8, 8.5, 9, 13, 15.5, 18]))
    droop = float(np.interp(vertebra, [-2, 1, 5, 8, 12, 14], [4, 10, 26, 26, 12, 5]))
    spinous = float(np.interp(vertebra, [-4, 0, 4, 9, 13], [16, 26, 21, 19, 22]))
    wing = float(np.interp(vertebra, [-6, 0, 1, 7, 11, 12, 14, 17], [20, 28, 36, 33, 25, 22, 36, 38]))
    back = y + half
    roof = np.array([x, back + 18, z - 3])
    c.add_tube(field, [roof, [x, roof[1] + spinous, z - 3 - droop]], [3.6, 3.0], stretch=(1, 1, 1.6))
    for side in SIDES:
        corner = np.array([x + side * 12.5, back + 11, z + 2])
        c.add_tube(field, [[x + side * 10, back - 3, z + 3], corner, roof], [4.2, 4.4, 3.2], stretch=(1, 1, 1.5))
        c.add_tube(field, [corner, [x + side * wing, back + (17 if vertebra < 13 else 9), z + 4]], [4.2, 3.6])
        c.add_tube(field, [shifted(corner, 0, 1, 9), shifted(corner, 0, 2, -11)], 4.2)


def _cage_point(a: Anatomy, side: int, degrees: NDArray[np.float64], z: NDArray[np.float64],
                outward_mm: float = 0.0) -> NDArray[np.float64]:  # fmt: skip
    """Points on the rib cage; 0 degrees behind, 90 at the side, 180 in front."""
    angle = np.deg2rad(degrees)
    width, front, back = a.cage_width(z), a.cage_front(z), a.cage_back(z)
    sin, cos = np.sin(angle), np.cos(angle)
    # Radius of the squircle that bounds the lungs too: r^2 - squareness * (u v)^2 r^4 = 1.
    uv = 0.38 * (sin * cos) ** 2
    r = np.sqrt(2 / (1 + np.sqrt(1 - 4 * uv)))
    x = side * (width + outward_mm) * sin * r + 0.6 * a.spine_x(z)
    y = (front + back) / 2 + ((back - front) / 2 + outward_mm) * cos * r
    return np.stack([x, y, z], axis=-1)


def rib_path(a: Anatomy, rib: int, side: int) -> NDArray[np.float64]:
    """Center line of a bony rib (1 ... 12) from its head to its front end."""
    start_z = float(a.z(rib - 0.3))
    reach = RIB_REACH_DEG[rib - 1]
    width = float(a.cage_width(start_z))
    first = np.rad2deg(np.arcsin(min(44.0 / width, 0.9)))
    degrees = np.linspace(first, reach, max(6, int((reach - first) / 7)))
    fall = RIB_FALL_MM[rib - 1] * a.rib_slope * a.height
    # Nearly level behind, steepest at the side and in front.
    progress = np.linspace(0, 1, len(degrees))
    z = start_z - 6 * min(1, rib / 3) - (fall - 6) * (0.35 * progress + 0.65 * progress**1.7)
    ring = _cage_point(a, side, degrees, z)
    x, y = float(a.spine_x(start_z)), float(a.spine_y(start_z))
    half = 9 + 0.5 * rib
    head = np.array([[x + side * 17, y + half * 0.7, start_z], [x + side * 31, y + half + 9, start_z - 1]])
    return np.concatenate([head, ring])


def _ribs(c: Canvas, a: Anatomy) -> None:
    field = c.empty_field()
    for rib in range(1, 13):
        thin = 0.82 if rib > 10 else 1.0
        for side in SIDES:
            path = rib_path(a, rib, side)
            radii = (
                a.rib_radius_mm * thin * np.interp(np.linspace(0, 1, len(path)), [0, 0.15, 0.7, 1], [0.95, 1, 1, 1.12])
            )
            c.add_tube(field, path, radii, stretch=(1, 1, 1.45))
    _paint_bone(c, a, field, Label.BONE_RIB, 1.7)


def _sternum_point(a: Anatomy, level: float) -> NDArray[np.float64]:
    z = float(a.z(level))
    return np.array([0.0, float(a.cage_front(z)) - 3, z])


def _cartilages(c: Canvas, a: Anatomy) -> None:
    field = c.empty_field()
    joints = np.interp(np.arange(1, 8), [1, 2, 7], [3.1, STERNAL_ANGLE, 9.0])
    for side in SIDES:
        margin: NDArray[np.float64] | None = None
        for rib in range(1, 11):
            end = rib_path(a, rib, side)[-1]
            if rib <= 7:
                goal = shifted(_sternum_point(a, float(joints[rib - 1])), side * 15, 0, 0)
            else:
                goal = margin if margin is not None else end
            # The cartilage goes on along the rib and then climbs to its joint, on the cage.
            turn = end + 0.45 * (goal - end)
            turn[2] = min(end[2], goal[2]) - 2 if rib > 4 else turn[2]
            turn[1] = min(turn[1], float(a.cage_front(turn[2])) + 0.18 * abs(turn[0]))
            c.add_tube(field, [end, turn, goal], a.rib_radius_mm * 0.95, stretch=(1, 1, 1.25))
            margin = turn
    c.paint(field, a.tissue.cartilage, Label.CARTILAGE)


def _sternum(c: Canvas, a: Anatomy) -> None:
    field = c.empty_field()
    flat = (3.2, 1.0, 1.0)
    top, angle, end = (_sternum_point(a, v) for v in (STERNUM_TOP, STERNAL_ANGLE, STERNUM_END))
    c.add_tube(field, [top, shifted(angle, 0, 0, 3)], [7.5, 5.0], stretch=flat)
    c.add_tube(field, [shifted(angle, 0, 0, -4), (angle + end) / 2, end], [4.6, 5.4, 4.8], stretch=flat)
    c.add_tube(field, [end, shifted(end, 0, 3, -28)], [3.0, 1.8], stretch=(2, 1, 1))
    _paint_bone(c, a, field, Label.BONE_STERNUM, 1.3, 0.8)


def _acromion(a: Anatomy, side: int) -> NDArray[np.float64]:
    inward, up = (22, 22) if a.arms else (2, 27)
    return shifted(shoulder_joint(a, side), side * -inward, 13, up)


def _clavicles(c: Canvas, a: Anatomy) -> None:
    field = c.empty_field()
    for side in SIDES:
        inner = shifted(_sternum_point(a, STERNUM_TOP - 0.15), side * 18, 0, 4)
        outer = shifted(_acromion(a, side), side * -6, -6, 0)
        span = outer - inner
        bends = [
            shifted(inner + 0.3 * span, 0, -9, 3),
            shifted(inner + 0.5 * span, 0, -3, 4),
            shifted(inner + 0.75 * span, 0, 7, 2),
        ]
        c.add_tube(field, [inner, *bends, outer], [8, 5.8, 5.4, 5.6, 6.4], stretch=(1, 1, 1))
    _paint_bone(c, a, field, Label.BONE_CLAVICLE, 2.0, 1.3)


def _scapulae(c: Canvas, a: Anatomy) -> None:
    field = c.empty_field()
    for side in SIDES:
        _add_scapula(c, a, field, side)
    _paint_bone(c, a, field, Label.BONE_SCAPULA, 1.8, 1.2)


def _add_scapula(c: Canvas, a: Anatomy, field: Floats, side: int) -> None:
    """A thin curved blade that slides on the cage; it turns outwards when the arm is raised."""
    glenoid = shifted(shoulder_joint(a, side), side * -24, 6, -2)
    tip_deg, top_deg = (68.0, 38.0) if a.arms else (48.0, 40.0)
    top_z, tip_z = float(a.z(2.0)), float(a.z(7.0))
    t = np.linspace(0, 1, 14)
    medial = _cage_point(a, side, top_deg + (tip_deg - top_deg) * t**1.3, top_z + (tip_z - top_z) * t, 15.0)
    neck = shifted(glenoid, side * -8, 6, 0)
    for s, edge in zip(t, medial, strict=True):
        outer = neck + (medial[-1] - neck) * s
        middle = shifted((edge + outer) / 2, 0, 5 * (1 - s), 0)
        c.add_tube(field, [edge, middle, outer], 1.7, stretch=(1, 1, 4.0))
    c.add_tube(field, [neck, medial[-1]], [5.0, 3.4])
    c.add_tube(field, medial, 2.6)
    c.add_tube(field, [glenoid, neck], [11, 8], stretch=(0.7, 1, 1.3))
    acromion = _acromion(a, side)
    c.add_tube(field, [medial[2], shifted((medial[2] + acromion) / 2, 0, 14, 0), acromion], [3, 4.2, 5.5])
    c.add_tube(field, [shifted(neck, 0, 0, 12), shifted(neck, side * 4, -26, 16)], [5, 4])  # coracoid


def _humeri(c: Canvas, a: Anatomy) -> None:
    field = c.empty_field()
    for side in SIDES:
        c.add_tube(field, humerus(a, side), [22, 13, 10.5])
    _paint_bone(c, a, field, Label.BONE_HUMERUS, 3.6, 0.6)
