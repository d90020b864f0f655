"""Fine structure that procedural phantoms lack, added to line integrals: trabeculae, vessels, tubes, devices, letters.

Everything is drawn from closed forms, such as the chord of a ray through a cylinder, at the image's own resolution.
Images are line integrals of μ (dimensionless), float32 (rows, columns), see `svdrr.drr.to_display`; lengths are pixels.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, rotate

Floats = NDArray[np.float32]
Draw = Callable[[tuple[int, int], np.random.Generator], Floats]

_SUPERSAMPLING = 4
# Wider than any structure's edge; keeps the antialiasing of thin ones.
_MARGIN = 2.0


def add_overlays(line_integrals: Floats, generator: np.random.Generator) -> Floats:
    """The image with a random choice of all kinds, each drawn as often as `_HOW_OFTEN` says on average."""
    image = line_integrals.copy()
    for draw, mean in _HOW_OFTEN.items():
        for _ in range(generator.poisson(mean)):
            image += draw(image.shape, generator)
    return np.maximum(image, np.float32(0.0))


def trabeculae(shape: tuple[int, int], generator: np.random.Generator) -> Floats:
    """A patch of spongy bone: noise of one dominant direction and width, fading out towards its border."""
    fine = generator.uniform(0.5, 1.6)
    coarse = fine * generator.uniform(1.6, 3.0)
    stretch = generator.uniform(1.0, 4.0)
    noise = generator.standard_normal(shape).astype(np.float32)
    texture = gaussian_filter(noise, (fine * stretch, fine)) - gaussian_filter(noise, (coarse * stretch, coarse))
    texture = rotate(texture, generator.uniform(0.0, 180.0), reshape=False, order=1, mode="mirror")
    texture *= np.float32(10.0 ** generator.uniform(-2.2, -0.9)) / texture.std()
    return texture * _blob(shape, generator)


def vessels(shape: tuple[int, int], generator: np.random.Generator) -> Floats:
    """A tree of cylinders that taper and branch, full of blood or of contrast medium."""
    density = np.float32(10.0 ** generator.uniform(-2.4, -0.6))
    tree = np.zeros(shape, np.float32)
    start = generator.uniform(0.1, 0.9, 2) * shape
    branches = [(start, generator.uniform(0.0, 2.0 * np.pi), generator.uniform(2.0, 7.0), generator.uniform(60, 260))]
    while branches:
        point, angle, radius, length = branches.pop()
        step = 10.0
        for _ in range(max(1, int(length / step))):
            angle += generator.normal(0.0, 0.18)
            end = point + step * np.array([np.sin(angle), np.cos(angle)])
            _deposit(tree, point, end, radius, partial(_chord, radius=radius))
            point, radius = end, radius * 0.985
        if radius > 0.7:
            for side in (-1.0, 1.0):
                turn = side * generator.uniform(0.2, 0.8)
                branches.append((point, angle + turn, radius * generator.uniform(0.6, 0.85), length * 0.75))
    return density * tree


def tube(shape: tuple[int, int], generator: np.random.Generator) -> Floats:
    """A catheter or drain: the wall of a pipe."""
    outer = generator.uniform(1.5, 8.0)
    inner = outer * generator.uniform(0.5, 0.85)
    wall = np.float32(generator.uniform(0.01, 0.12))
    return _along(shape, generator, outer, lambda distance: wall * (_chord(distance, outer) - _chord(distance, inner)))


def wire(shape: tuple[int, int], generator: np.random.Generator) -> Floats:
    """A lead, a guide wire or a suture: a thin cylinder of metal."""
    radius = generator.uniform(0.4, 1.8)
    density = np.float32(generator.uniform(0.1, 1.5))
    return _along(shape, generator, radius, lambda distance: density * _chord(distance, radius))


def device(shape: tuple[int, int], generator: np.random.Generator) -> Floats:
    """A pulse generator, an electrode, a clip or a screw: outlines filled with metal or plastic."""
    size = 10.0 ** generator.uniform(0.8, 2.0)
    thickness = np.float32(10.0 ** generator.uniform(-0.8, 0.8))

    def paint(draw: ImageDraw.ImageDraw, side: float) -> None:
        kind = generator.integers(4)
        if kind == 0:
            draw.rounded_rectangle((0.1 * side, 0.15 * side, 0.9 * side, 0.85 * side), 0.25 * side, fill=140)
            for _ in range(6):
                corner = generator.uniform(0.2, 0.7, 2) * side
                draw.rectangle((*corner, *(corner + generator.uniform(0.05, 0.2, 2) * side)), fill=255)
        elif kind == 1:
            draw.ellipse((0.1 * side, 0.1 * side, 0.9 * side, 0.9 * side), fill=50)
            draw.ellipse((0.4 * side, 0.4 * side, 0.6 * side, 0.6 * side), fill=255)
        elif kind == 2:
            draw.rectangle((0.05 * side, 0.42 * side, 0.95 * side, 0.58 * side), fill=255)
        else:
            teeth = np.linspace(0.05, 0.95, 2 * int(generator.integers(6, 16)) + 1) * side
            upper = [(x, (0.38 if i % 2 else 0.46) * side) for i, x in enumerate(teeth)]
            lower = [(x, (0.62 if i % 2 else 0.54) * side) for i, x in enumerate(teeth)][::-1]
            draw.polygon(upper + lower, fill=255)

    return thickness * _pasted(shape, generator, size, paint)


def letters(shape: tuple[int, int], generator: np.random.Generator) -> Floats:
    """Side markers and inscriptions in lead."""
    height = 10.0 ** generator.uniform(0.9, 1.7)
    alphabet = list(string.ascii_uppercase + string.digits)
    words = ["R", "L", "PA", "AP", "LAT", "".join(generator.choice(alphabet, int(generator.integers(1, 6))))]
    word = words[generator.integers(len(words))]
    thickness = np.float32(generator.uniform(0.5, 6.0))

    def paint(draw: ImageDraw.ImageDraw, side: float) -> None:
        font = ImageFont.load_default(side / max(1.2, 0.75 * len(word)))
        draw.text((0.5 * side, 0.5 * side), word, fill=255, font=font, anchor="mm")
        if generator.random() < 0.3:
            draw.ellipse((0.02 * side, 0.02 * side, 0.98 * side, 0.98 * side), outline=255, width=int(0.03 * side) + 1)

    return thickness * _pasted(shape, generator, height * max(1.2, 0.75 * len(word)), paint)


def grid(shape: tuple[int, int], generator: np.random.Generator) -> Floats:
    """Bars of a test pattern, or the lines of an antiscatter grid, of one frequency and direction."""
    period = generator.uniform(2.2, 16.0)
    angle = generator.choice([0.0, 0.5 * np.pi, generator.uniform(0.0, np.pi)])
    rows, columns = np.indices(shape, dtype=np.float32)
    wave = np.cos((2.0 * np.pi / period) * (np.sin(angle) * rows + np.cos(angle) * columns))
    # Edges of bars one pixel wide, as a pixel's own width leaves them.
    bars = np.clip(0.5 + wave * (period / 6.0), 0.0, 1.0)
    if generator.random() < 0.2:
        return np.float32(generator.uniform(0.005, 0.05)) * bars.astype(np.float32)
    size = generator.uniform(20.0, 120.0, 2)
    corner = generator.uniform(0.0, 1.0, 2) * (np.array(shape) - size)
    inside = np.zeros(shape, np.float32)
    inside[tuple(slice(int(first), int(first + length)) for first, length in zip(corner, size, strict=True))] = 1.0
    return np.float32(10.0 ** generator.uniform(-1.5, 0.5)) * bars.astype(np.float32) * inside


_HOW_OFTEN: dict[Draw, float] = {
    trabeculae: 6.0,
    vessels: 10.0,
    tube: 3.0,
    wire: 3.0,
    device: 4.0,
    letters: 5.0,
    grid: 0.8,
}


def _chord(distance: Floats, radius: float) -> Floats:
    """Length of a ray in a cylinder of `radius` that it passes at `distance` from the axis, averaged over a pixel."""
    offsets = np.array([-0.375, -0.125, 0.125, 0.375], np.float32)[:, None, None]
    return 2.0 * np.sqrt(np.maximum(np.float32(radius) ** 2 - (distance + offsets) ** 2, 0.0)).mean(axis=0)


def _deposit(
    image: Floats,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    radius: float,
    profile: Callable[[Floats], Floats],
) -> None:
    """Draws one straight piece in place; where pieces meet, the larger value stays."""
    reach = radius + _MARGIN
    low = np.maximum(np.floor(np.minimum(start, end) - reach).astype(int), 0)
    high = np.minimum(np.ceil(np.maximum(start, end) + reach).astype(int) + 1, image.shape)
    if (low >= high).any():
        return
    rows, columns = np.ogrid[low[0] : high[0], low[1] : high[1]]
    along = end - start
    part = ((rows - start[0]) * along[0] + (columns - start[1]) * along[1]) / max(float(along @ along), 1e-9)
    part = np.clip(part, 0.0, 1.0)
    distance = np.hypot(rows - start[0] - part * along[0], columns - start[1] - part * along[1]).astype(np.float32)
    window = image[low[0] : high[0], low[1] : high[1]]
    np.maximum(window, profile(distance), out=window)


def _along(
    shape: tuple[int, int], generator: np.random.Generator, radius: float, profile: Callable[[Floats], Floats]
) -> Floats:
    """A structure of this cross-section along a winding path."""
    image = np.zeros(shape, np.float32)
    point = generator.uniform(0.0, 1.0, 2) * shape
    angle, bend = generator.uniform(0.0, 2.0 * np.pi), generator.normal(0.0, 0.05)
    for _ in range(int(generator.integers(10, 80))):
        bend = 0.9 * bend + generator.normal(0.0, 0.03)
        angle += bend
        end = point + 12.0 * np.array([np.sin(angle), np.cos(angle)])
        _deposit(image, point, end, radius, profile)
        point = end
    return image


def _blob(shape: tuple[int, int], generator: np.random.Generator) -> Floats:
    """From 0 to 1: a soft ellipse anywhere in the image."""
    center = generator.uniform(0.0, 1.0, 2) * shape
    radii = generator.uniform(0.05, 0.35, 2) * shape
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    distance = ((rows - center[0]) / radii[0]) ** 2 + ((columns - center[1]) / radii[1]) ** 2
    return np.asarray(np.exp(-(distance**2)), np.float32)


def _pasted(
    shape: tuple[int, int],
    generator: np.random.Generator,
    size: float,
    paint: Callable[[ImageDraw.ImageDraw, float], None],
) -> Floats:
    """What `paint` draws in a square of `size` pixels, turned and put anywhere; 0 to 1, antialiased."""
    side = max(8, int(size))
    stamp = Image.new("L", (side * _SUPERSAMPLING,) * 2)
    paint(ImageDraw.Draw(stamp), float(side * _SUPERSAMPLING))
    turned = stamp.rotate(generator.choice([0.0, 90.0, generator.uniform(0.0, 360.0)]), Image.Resampling.BICUBIC)
    small = np.asarray(turned.resize((side, side), Image.Resampling.BOX), np.float32) / np.float32(255.0)
    image = np.zeros(shape, np.float32)
    row, column = (int(generator.integers(0, max(1, length - side))) for length in shape)
    part = image[row : row + side, column : column + side]
    part[...] = small[: part.shape[0], : part.shape[1]]
    return image
