"""The command ``svdrr prepare``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from svdrr.errors import SVDRRError

_TURNS = (0, 90, 180, 270)


def prepare_command(
    image: Annotated[Path, typer.Argument(help="One radiograph: DICOM (CR, DX), PNG, TIFF, NRRD, …")],
    output: Annotated[Path, typer.Argument(help="The prepared radiograph, .png (16 bit) or .nrrd (float).")],
    turn: Annotated[int, typer.Option(help="Degrees clockwise: 0, 90, 180 or 270.")] = 0,
    flip: Annotated[bool, typer.Option("--flip", help="Left and right change places, after the turn.")] = False,
    crop: Annotated[
        str, typer.Option(help="Pixels to cut off then, TOP,BOTTOM,LEFT,RIGHT, or auto: what shutters seem to cover.")
    ] = "0,0,0,0",
    invert: Annotated[bool, typer.Option("--invert", help="Bone is dark: make it bright.")] = False,
    linear: Annotated[
        bool,
        typer.Option("--linear", help="Values are linear in the exposure; DICOM that says so needs no option."),
    ] = False,
    spacing: Annotated[
        str | None, typer.Option(help="Pixel spacing ROW,COLUMN in mm, used where the image states none.")
    ] = None,
    show: Annotated[
        Path | None, typer.Option(help="Also write a PNG: the radiograph beside what the model will get.")
    ] = None,
    model: Annotated[str, typer.Option(help="For --show: a model's name or folder.")] = "demo-256",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one machine-readable result on standard output.")
    ] = False,
) -> None:
    """Put a radiograph right for `svdrr synthesize`, and look at it as the model will get it."""
    from svdrr.cli import _placed, _report
    from svdrr.files import require_other_file, whole_file
    from svdrr.images import read_radiograph, require_radiograph_suffix, write_png, write_radiograph
    from svdrr.models import find_model
    from svdrr.preparation import Preparation, looks_inverted, prepare, propose_margins
    from svdrr.radiograph import Radiograph
    from svdrr.synthesis.preparation import beside

    require_radiograph_suffix(output)
    require_other_file(output, image)
    if show is not None:
        require_other_file(show, image)
        if show.suffix.lower() != ".png":
            raise SVDRRError(f"Cannot write '{show}': the name of the picture must end in .png.")
        if show.resolve() == output.resolve():
            raise SVDRRError(f"The image and the picture cannot both be written to {output}; give one another name.")
    if turn not in _TURNS:
        raise SVDRRError(f"A radiograph can be turned by {', '.join(map(str, _TURNS))} degrees, not by {turn}.")
    description = find_model(model) if show is not None else None
    given = None if crop == "auto" else _numbers(crop, int, 4, "crop", "auto or TOP,BOTTOM,LEFT,RIGHT in pixels")
    distances = None if spacing is None else _numbers(spacing, float, 2, "spacing", "ROW,COLUMN in mm")
    turning = Preparation(quarter_turns=turn // 90, flip=flip)
    # What is wrong with the numbers shows before the image is read.
    Preparation(margins=_four(given), pixel_spacing_mm=_two(distances))
    radiograph = read_radiograph(image)
    if radiograph.view is not None and (turn or flip):
        raise SVDRRError(
            f"'{image}' says where it was taken from, which would be wrong once it is turned or flipped; leave --turn "
            "and --flip out, or turn the file that it was made from."
        )
    turned = prepare(radiograph, turning).pixels
    margins = _four(given) if given is not None else propose_margins(1.0 - turned if invert else turned)
    preparation = Preparation(
        quarter_turns=turning.quarter_turns,
        flip=flip,
        margins=margins,
        invert=invert,
        linear=linear,
        pixel_spacing_mm=_two(distances),
    )
    prepared = prepare(radiograph, preparation)
    with _placed(whole_file, output) as file, _placed(whole_file, show) if show else nullcontext() as picture:
        write_radiograph(file, prepared)
        if picture is not None and description is not None:
            pixels = beside(radiograph, prepared, description)
            # Without the view, which is another detector's; what says that an image was computed stays.
            write_png(picture, Radiograph(pixels, provenance=prepared.provenance))
    dark = looks_inverted(prepared.pixels)
    rows, columns = prepared.pixels.shape
    result = {
        "output": str(output),
        "rows": rows,
        "columns": columns,
        "pixel_spacing_mm": prepared.pixel_spacing_mm,
        "cut_off": dict(zip(("top", "bottom", "left", "right"), margins, strict=True)),
        "bone_seems_dark": dark,
    }
    sentence = f"{rows} x {columns} pixels written to {output}; cut off: top, bottom, left, right {margins}."
    advice = f" Bone seems to be dark here: {'leave out --invert?' if invert else '--invert?'}" if dark else ""
    _report(as_json, result, sentence + advice)


def _numbers(text: str, kind: type[int] | type[float], count: int, name: str, form: str) -> list[float]:
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise SVDRRError(f"Cannot read the {name} '{text}'; give {form}.")
    return numbers


def _two(numbers: list[float] | None) -> tuple[float, float] | None:
    return None if numbers is None else (numbers[0], numbers[1])


def _four(numbers: list[float] | None) -> tuple[int, int, int, int]:
    top, bottom, left, right = map(int, numbers or (0, 0, 0, 0))
    return top, bottom, left, right
