"""Soft tissue and air: body wall, abdomen, lungs, mediastinum, heart, vessels, airways."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._anatomy import Anatomy
from ._canvas import Canvas, Floats, shifted, smooth_max, smooth_min
from ._labels import Label

SIDES = (-1, 1)  # right, left: x grows to the patient's left


def draw_body(c: Canvas, a: Anatomy) -> None:
    """Skin, subcutaneous fat and the muscle under it, over torso, neck, shoulders, arms and breasts."""
    z, wall = c.z, a.muscle_mm + a.fat_mm
    taper = a.profile(z, [-1, 0.5, 3, 5], [0.0, 0.35, 0.9, 1.0])
    neck_half = np.float32(50 + 0.5 * a.fat_mm)
    left = neck_half * (1 - taper) + taper * (a.cage_width(z) + np.float32(wall + 4))
    front = (
        a.cage_front(z)
        - np.float32(0.6) * a.profile(z, [-1, 1, 4, 8, 12], [30, 22, 18, 9, 9])
        - np.float32(a.fat_mm + 4)
    )
    back = a.cage_back(z) + a.profile(z, [-4, 0, 4, 8, 13], [44, 38, 27, 25, 34]) + np.float32(0.6 * a.fat_mm + 2)
    skin = c.section(left, front, back, a.spine_x(z) * np.float32(0.6), 0.45)
    for side in SIDES:
        _add_shoulder(c, a, skin, side)
    breast = c.empty_field()
    if a.breasts:
        for side in SIDES:
            _add_breast(c, a, breast, side)
        skin = smooth_min(skin, breast, 12)
    muscle = np.float32(a.tissue.muscle)
    depth = np.clip((skin + np.float32(a.fat_mm)) / np.float32(c.spacing) + np.float32(0.5), 0, 1)
    tissue = muscle + depth * np.float32(a.tissue.fat - a.tissue.muscle)
    coverage = np.clip(np.float32(0.5) - skin / np.float32(c.spacing), 0, 1)
    coverage[coverage < 0.1] = 0  # a hint of skin is air, so that what is not labelled is air to the last HU
    c.hu += coverage * (tissue - c.hu)
    c.labels[coverage > 0] = Label.BODY
    if a.breasts:
        c.labels[(breast < 0) & (coverage > 0)] = Label.BREAST
        _paint_glands(c, a)


def _add_shoulder(c: Canvas, a: Anatomy, skin: Floats, side: int) -> None:
    girth = 0.5 * a.fat_mm
    joint = shoulder_joint(a, side)
    top = [a.at(side * 40, 2, 0.6), a.at(side * 85, 0, 1.2), joint]
    c.add_tube(skin, top, [34 + girth, 36 + girth, 39 + girth], blend_mm=35)
    # Pectoral and latissimus folds make the axilla.
    pectoral = [joint, a.at(side * 128, 20, 4.5), a.at(side * 118, 35, 7)]
    latissimus = [joint, a.at(side * 130, -25, 5), a.at(side * 122, -20, 9)]
    c.add_tube(skin, pectoral, [40 + girth, 30 + girth, 20 + girth], blend_mm=40)
    c.add_tube(skin, latissimus, [38 + girth, 28 + girth, 18 + girth], blend_mm=40)
    if a.arms:
        c.add_tube(skin, [joint, *humerus(a, side)[1:]], [44 + girth, 42 + girth, 40 + girth], blend_mm=25)


def shoulder_joint(a: Anatomy, side: int) -> NDArray[np.float64]:
    """Center of the humeral head; raising the arm lifts it."""
    return a.at(side * (142 if a.arms else 152), 8, 0.9 if a.arms else 1.9)


def humerus(a: Anatomy, side: int) -> NDArray[np.float64]:
    """Head, surgical neck and elbow end of the raised humerus."""
    head = shoulder_joint(a, side)
    return np.stack([head, shifted(head, side * 14, -6, 40), shifted(head, side * 42, -22, 230)])


def _add_breast(c: Canvas, a: Anatomy, field: Floats, side: int) -> None:
    size = a.breast_scale * (1 + 0.01 * a.fat_mm)
    center = a.at(side * 84, 0, 7.8)
    center[1] = float(a.cage_front(center[2])) + 6
    c.add_ellipsoid(field, center, [60 * size, 40 * size, 52 * size])


def _paint_glands(c: Canvas, a: Anatomy) -> None:
    field = c.empty_field()
    for side in SIDES:
        center = a.at(side * 86, 0, 7.9)
        center[1] = float(a.cage_front(center[2])) - 12
        c.add_ellipsoid(field, center, [30 * a.breast_scale, 17 * a.breast_scale, 28 * a.breast_scale])
    c.paint(field, 0.45 * a.tissue.muscle - 15, Label.BREAST, within=c.labels == Label.BREAST)


def pleura(c: Canvas, a: Anatomy) -> Floats:
    """Inside of the rib cage, closed at the apices."""
    inset = np.float32(6.5)
    z = c.z
    field = c.section(a.cage_width(z) - inset, a.cage_front(z) + inset, a.cage_back(z) - inset,
                      a.spine_x(z) * np.float32(0.6), 0.38)  # fmt: skip
    apex = a.at(0, 0, 1.0)
    x, y = np.abs(c.x) - np.float32(40 * a.width), c.y - np.float32(apex[1] - 8)
    roof = np.float32(apex[2] + 12) - (x * x + y * y) * np.float32(1 / 80)
    return smooth_max(field, (z - roof) * np.float32(0.7), 8)


def diaphragm(c: Canvas, a: Anatomy) -> Floats:
    """Height above the diaphragm, mm times a slope factor; positive in the chest.

    Each dome falls off to its costophrenic sulcus: little towards the heart, deepest behind.
    """
    z = c.z
    middle = np.float32(float(a.at(0, 0, 10)[1]) - 48 * a.depth)
    out = (np.abs(c.x) - np.float32(58 * a.width)) / np.float32(64 * a.width)
    lateral, medial = np.maximum(out, 0), np.maximum(-out, 0)
    behind = np.maximum(c.y - middle, 0) / np.float32(82 * a.depth)
    ahead = np.maximum(middle - c.y, 0) / np.float32(68 * a.depth)
    curve = np.float32(a.dome_curve)
    fall = curve * (52 * lateral**2 + 20 * medial**2 + 68 * behind**2 + 26 * ahead**2)
    top = np.float32(a.z(a.right_dome_level))
    side = np.clip(c.x / np.float32(60) + np.float32(0.5), 0, 1)
    dome = top - np.float32(a.left_dome_drop_mm) * side - fall.astype(np.float32)
    return np.asarray((z - dome) * np.float32(0.75), dtype=np.float32)


def draw_abdomen(c: Canvas, a: Anatomy, inside: Floats, above: Floats) -> None:
    """Liver, stomach with its gas, spleen, bowel gas and kidneys in visceral fat."""
    z = c.z
    # The cavity widens into the flanks, where there is no rib cage any more.
    cavity = np.maximum(inside, above + np.float32(2))
    c.paint(cavity, a.tissue.fat + 105, Label.BODY)
    back = np.float32(float(a.at(0, 0, 12)[1]))
    liver_top = above + np.float32(3)
    edge = np.float32(0.55) * (c.x - np.float32(52 * a.width)) + np.float32(0.6) * (np.float32(a.z(13.5)) - z)
    hollow = np.float32(0.5) * (c.y - back + np.float32(8)) + np.float32(0.7) * (c.x + np.float32(45))
    liver = smooth_max(smooth_max(np.maximum(inside + np.float32(2), liver_top), edge, 15), hollow, 15)
    c.paint(liver, a.tissue.liver, Label.LIVER)
    left_top = float(a.z(a.right_dome_level)) - a.left_dome_drop_mm
    room = smooth_max(inside + np.float32(3), above + np.float32(3), 6)
    stomach = c.empty_field()
    fundus = np.array([62 * a.width, float(a.at(0, 46, 10)[1]), left_top - 42])
    c.add_ellipsoid(stomach, fundus, [42 * a.width, 38 * a.depth, 38])
    c.add_tube(stomach, [fundus, shifted(fundus, -8, -22, -45), shifted(fundus, -55, -38, -70)], [30, 26, 16])
    stomach = np.maximum(stomach, room)
    c.paint(stomach, 30.0, Label.STOMACH)
    gas = stomach + np.float32(4)
    fluid = fundus[2] + a.gas_level_mm - z if a.upright_gas else c.y - np.float32(fundus[1] - a.gas_level_mm)
    c.paint(np.maximum(gas, fluid).astype(np.float32), -990.0, Label.GAS)
    spleen = c.empty_field()
    c.add_ellipsoid(spleen, [96 * a.width, float(a.at(0, -8, 11)[1]), left_top - 48], [26, 34, 50])
    c.paint(np.maximum(spleen, room), a.tissue.liver - 8, Label.BODY)
    kidneys = c.empty_field()
    for side in SIDES:
        c.add_ellipsoid(kidneys, a.at(side * 58, -14, 13.6 if side < 0 else 13.1), [25, 23, 54])
    c.paint(np.maximum(kidneys, room), 35.0, Label.BODY)
    bowel = c.empty_field()
    flexure = np.array([98 * a.width, float(a.at(0, 58, 11)[1]), left_top - 78])
    c.add_tube(bowel, [flexure, shifted(flexure, -4, 10, -60)], [15, 12])
    c.add_tube(bowel, [a.at(-70, 88, 14.6), a.at(-10, 98, 15.2), a.at(60, 90, 14.4)], [9, 13, 10])
    c.paint(np.maximum(bowel, room), -700.0, Label.GAS, within=c.labels == Label.BODY)


def mediastinum(c: Canvas, a: Anatomy, inside: Floats, organs: Floats) -> Floats:
    """What lies between the lungs: the organs in their fat, the spine, and the septum behind the sternum."""
    z = c.z
    spine_x, spine_y = a.spine_x(z), a.spine_y(z)
    column = np.sqrt((c.x - spine_x) ** 2 + (c.y - spine_y - np.float32(6)) ** 2) - a.profile(
        z, [1, 6, 12], [19, 20, 24]
    )
    septum = np.abs(c.x - np.float32(5)) - a.profile(z, [1, 3, 5, 7, 10], [26, 16, 7, 8, 16])
    hilum = (
        np.abs(c.y - spine_y + np.float32(48)) * np.float32(0.5)
        + np.abs(c.x)
        - a.profile(z, [0, 2, 4, 6, 9, 11], [40, 40, 38, 34, 26, 26])
    )
    field = smooth_min(smooth_min(column, septum, 14), hilum * np.float32(0.85), 14)
    return np.asarray(smooth_min(field, organs - np.float32(2.5), 14), dtype=np.float32)


def draw_lungs(c: Canvas, a: Anatomy, inside: Floats, above: Floats, middle: Floats) -> None:
    """Lung parenchyma, a little denser towards the back and the bases."""
    lung = smooth_max(smooth_max(inside, -middle, 10), -above, 5)
    behind = (c.y - np.float32(a.at(0, 50, 7)[1])) * np.float32(0.35)
    down = c.z * np.float32(-0.12)
    c.paint(lung, np.float32(a.tissue.lung) + behind + down, Label.LUNG)


def heart_fields(c: Canvas, a: Anatomy) -> dict[str, Floats]:
    """Distance fields of heart, great vessels and airways, before anything is painted."""
    heart = c.empty_field()
    s = a.heart_scale
    floor = float(a.z(a.right_dome_level)) - 12 - 0.4 * a.left_dome_drop_mm
    tilt = np.deg2rad(a.heart_axis_deg)
    long_axis = np.array([np.cos(tilt) * 0.80, -np.cos(tilt) * 0.60, -np.sin(tilt)])
    across = np.cross(long_axis, [0.0, 0.0, 1.0])
    across /= np.linalg.norm(across)
    axes = np.stack([long_axis, across, np.cross(long_axis, across)])
    base_y = float(a.at(0, 66, 8)[1])
    ventricles = np.array([29 * a.width, base_y - 6, floor + 30 * s])
    c.add_ellipsoid(heart, ventricles, np.array([69, 45, 42]) * s, axes)
    c.add_ellipsoid(heart, [-17, base_y + 6, floor + 40 * s], np.array([29, 32, 42]) * s, blend_mm=18)
    c.add_ellipsoid(heart, [8, base_y + 22, floor + 56 * s], np.array([34, 22, 27]) * s, blend_mm=10)
    vessels = c.empty_field()
    r = a.aorta_radius_mm
    root = np.array([2, base_y, floor + 66 * s])
    arch = a.arch_level
    aorta = [
        root, a.at(-12, 62, arch + 1.6), a.at(-9, 56, arch + 0.6), a.at(3, 42, arch),
        a.at(20, 27, arch + 0.1), a.at(29, 16, arch + 0.7), a.at(30, 12, arch + 1.6),
        a.at(26, 14, 8), a.at(15, 22, 10), a.at(7, 27, 12), a.at(5, 29, 17),
    ]  # fmt: skip
    c.add_tube(vessels, aorta, r * np.array([1.15, 1.15, 1.1, 1, 1, 1, 0.95, 0.9, 0.85, 0.8, 0.75]))
    c.add_tube(vessels, [shifted(root, 16, -6, 0), a.at(24, 58, 5.8), a.at(26, 46, 5.2)], [14, 14, 13])
    for side, level in ((-1, 5.9), (1, 5.3)):
        c.add_tube(vessels, [a.at(20, 48, 5.5), a.at(side * 26, 40, level - 0.1), a.at(side * 46, 32, level),
                             a.at(side * 54, 26, level + 1.1)], [12, 11, 9.5, 7])  # fmt: skip
        for vein_level in (6.6, 7.4):
            c.add_tube(vessels, [[8, base_y + 22, floor + 56 * s], a.at(side * 44, 34, vein_level)], [8, 6])
        c.add_tube(vessels, [a.at(side * 8, 44, arch - 0.3), a.at(side * 17, 38, 1.8), a.at(side * 22, 26, -6)], 4.2)
        c.add_tube(vessels, [a.at(side * 12, 42, 2.6), a.at(side * 30, 38, 0.9), a.at(side * 75, 30, 1.0)], 4.6)
        c.add_tube(vessels, [a.at(side * 26, 50, 1.8), a.at(side * 32, 34, -6)], 6)
    c.add_tube(vessels, [a.at(26, 52, 1.8), a.at(-24, 54, 3.2)], 6.5)
    c.add_tube(vessels, [a.at(-26, 50, 1.8), a.at(-25, 54, 3.2), [-22, base_y + 8, floor + 60 * s]], [7, 9, 10])
    c.add_tube(vessels, [[-20, base_y + 14, floor + 20], [-20, base_y + 24, floor - 25], a.at(-18, 30, 17)], 10.5)
    airways = c.empty_field()
    c.add_tube(airways, [a.at(0, 34, -6), a.at(0, 30, 0), a.at(-2, 33, 4.8)], [8.5, 8, 8.5])
    c.add_tube(
        airways,
        [a.at(-2, 33, 4.8), a.at(-22, 33, 5.6), a.at(-40, 31, 6.4), a.at(-52, 24, 7.6)],
        [8, 7, 5.5, 3],
    )
    c.add_tube(airways, [a.at(-2, 33, 4.8), a.at(26, 33, 5.9), a.at(46, 31, 6.5), a.at(56, 24, 7.8)], [7.5, 6, 5, 3])
    return {"heart": heart, "vessels": vessels, "airways": airways}


def draw_mediastinum(c: Canvas, a: Anatomy, fields: dict[str, Floats], inside: Floats, above: Floats,
                     middle: Floats) -> None:  # fmt: skip
    chest = np.maximum(smooth_max(inside, middle, 6), -above)
    c.paint(chest, 0.35 * a.tissue.fat + 0.25 * a.tissue.muscle, Label.MEDIASTINUM)
    heart = np.maximum(fields["heart"], -above)
    c.paint(heart, a.tissue.blood, Label.HEART)
    muscle = np.float32(55)
    wall = np.abs(heart + np.float32(6)) - np.float32(4)
    c.paint(wall, float(muscle + 0.25 * (a.tissue.blood - muscle)), Label.HEART)
    c.paint(fields["vessels"], a.tissue.blood, Label.VESSEL)
    esophagus = c.empty_field()
    c.add_tube(esophagus, [a.at(3, 20, -6), a.at(4, 20, 3), a.at(4, 23, 7), a.at(14, 32, 10.5)], 7)
    c.paint(esophagus, 35.0, Label.MEDIASTINUM)
    c.paint(fields["airways"] - np.float32(1.8), 40.0, Label.MEDIASTINUM)
    c.paint(fields["airways"], -990.0, Label.AIRWAY)


def draw_lung_vessels(c: Canvas, a: Anatomy, rng: np.random.Generator) -> None:
    """A tree of tapering, forking tubes from each hilum to the pleura."""
    field = c.empty_field()
    for side in SIDES:
        hilum = a.at(side * 48, 32, 6.1)
        for heading in _headings(rng, 9):
            heading[0] = side * abs(heading[0])
            _grow(c, field, rng, hilum, heading, radius=4.2, length=34.0 * a.height, generation=0)
    c.paint(field, a.tissue.blood, Label.VESSEL, within=c.labels == Label.LUNG)


def _headings(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Directions spread over the sphere (Fibonacci), jittered, flattened along y like the lung."""
    n = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * n / count), np.pi * (1 + 5**0.5) * n
    v = np.stack([0.35 + np.abs(np.sin(polar) * np.cos(turn)), np.sin(polar) * np.sin(turn), np.cos(polar)], axis=1)
    return np.asarray(v + rng.normal(0, 0.12, v.shape))


def _grow(c: Canvas, field: Floats, rng: np.random.Generator, start: NDArray[np.float64],
          heading: NDArray[np.float64], radius: float, length: float, generation: int) -> None:  # fmt: skip
    heading = heading / np.linalg.norm(heading)
    end = start + heading * length * rng.uniform(0.75, 1.2)
    c.add_tube(field, [start, end], [radius, radius * 0.72])
    if generation < 3:
        spread = rng.normal(0, 0.45, 3)
        for way in (spread, -spread):
            _grow(c, field, rng, end, heading + way, radius * 0.66, length * 0.82, generation + 1)
