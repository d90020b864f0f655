"""The ``svdrr`` command."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svdrr import __version__
from svdrr.backend.cli import serve_command
from svdrr.backend.cli_client import Authority, BackendURL, TokenFile, on_backend
from svdrr.backend.cli_setup import doctor_command, setup_backend_command
from svdrr.dataset.cli import app as dataset_app
from svdrr.errors import SVDRRError, counted
from svdrr.evaluation.cli import evaluate_command
from svdrr.evaluation.reader_study.cli import app as reader_study_app
from svdrr.models.cli import app as models_app
from svdrr.synthesis.prepare_cli import prepare_command
from svdrr.synthesis.training.cli import train_command

if TYPE_CHECKING:
    from svdrr.backend.request import Request
    from svdrr.radiograph import Radiograph

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Novel X-ray views from one radiograph, DRRs from CT, table removal. Synthetic images: not for diagnosis.",
)
app.add_typer(dataset_app, name="dataset")
app.add_typer(models_app, name="models")
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.add_typer(reader_study_app, name="reader-study")
app.command("prepare")(prepare_command)
app.command("serve")(serve_command)
app.command("setup-backend")(setup_backend_command)
app.command("doctor")(doctor_command)

Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable result on standard output.")]
Series = Annotated[str | None, typer.Option(help="Which DICOM series of a folder: its number or SeriesInstanceUID.")]
ViewSet = Annotated[str, typer.Option(help="simple, hemisphere:N, sweep:FROM:TO:STEP (degrees), or a views JSON file.")]


@app.command("remove-table")
def remove_table_command(
    ct: Annotated[Path, typer.Argument(help="CT: DICOM folder, NIfTI, NRRD or MetaImage.")],
    output: Annotated[Path, typer.Argument(help="CT without table: .nii, .nii.gz, .nrrd or .mha.")],
    mask: Annotated[Path | None, typer.Option(help="Also write the body mask here.")] = None,
    series: Series = None,
    as_json: Json = False,
) -> None:
    """Remove table, mattress and clutter from a CT; voxels inside the body stay untouched."""
    from svdrr.ct.io import read_ct, require_writable_suffix, write_volume
    from svdrr.ct.table import remove_table
    from svdrr.files import require_other_file, whole_file

    for path in (output, mask):
        if path is not None:
            require_writable_suffix(path)
            require_other_file(path, ct)
    if mask is not None and mask.resolve() == output.resolve():
        raise SVDRRError(f"The CT and the mask cannot both be written to {output}; give the mask another name.")
    volume = read_ct(ct, series)
    with _placed(whole_file, output) as ct_file, _placed(whole_file, mask) if mask else nullcontext() as mask_file:
        with _working("Removing the table"):
            removal = remove_table(volume)
        write_volume(ct_file, removal.ct.hu, volume.ijk_to_ras)
        if mask_file is not None:
            write_volume(mask_file, removal.body, volume.ijk_to_ras)
    result = {"output": str(output), "residual_voxels": removal.residual_voxels, "verdict": removal.verdict}
    _report(as_json, result, f"{removal.verdict} Written to {output}.")


@app.command()
def render(
    ct: Annotated[Path, typer.Argument(help="CT: DICOM folder, NIfTI, NRRD or MetaImage.")],
    outdir: Annotated[Path, typer.Argument(help="Folder for PNG (16 bit), NRRD (float values) and views.json.")],
    views: ViewSet = "simple",
    size: Annotated[int, typer.Option(help="Pixels per side of the square detector, 16 to 4096.")] = 512,
    side: Annotated[float, typer.Option(help="Side of the square detector, 10 to 2000 mm.")] = 480.0,
    engine: Annotated[str, typer.Option(help="Render engine; an unknown name, such as '?', lists them.")] = "auto",
    energy: Annotated[
        float | None, typer.Option(help="Photons of one energy, 10 to 150 keV; 73 unless --kvp is given.")
    ] = None,
    kvp: Annotated[
        int | None, typer.Option(help="Tube voltage, 40 to 150 kV: its whole spectrum, with beam hardening.")
    ] = None,
    material: Annotated[
        str, typer.Option(help="water (of any density), or water-bone (cortical bone above 100 HU).")
    ] = "water",
    photons: Annotated[
        float | None, typer.Option(help="Quantum noise: photons per pixel in air; none by default. No scatter.")
    ] = None,
    blur: Annotated[float, typer.Option(help="Detector blur, full width at half maximum, 0 to 50 mm.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the quantum noise.")] = 0,
    output: Annotated[
        str, typer.Option(help="Values of the NRRD: log (line integrals) or linear (transmission).")
    ] = "log",
    window: Annotated[str, typer.Option(help="Gray values of the PNG: full, chest, soft-tissue or bone.")] = "full",
    table_removal: Annotated[bool, typer.Option(help="Remove the CT's table first.")] = True,
    series: Series = None,
    backend: BackendURL = None,
    token_file: TokenFile = None,
    authority: Authority = None,
    as_json: Json = False,
) -> None:
    """Render DRRs of a CT, one per view, about the center of the CT. Only primary radiation: there is no scatter.

    Of a views JSON file only the poses are read, with their isocenters where it states them; the detector is that of
    --size and --side. From a --backend come the PNG files only.
    """
    from svdrr.ct.io import itk_warnings_silenced, read_ct
    from svdrr.ct.table import remove_table
    from svdrr.drr import check_engine
    from svdrr.drr.beam import monoenergetic, tube_beam
    from svdrr.drr.detector import DetectorModel
    from svdrr.files import whole_directory
    from svdrr.geometry import Detector, parse_views
    from svdrr.geometry.viewsets import views_document
    from svdrr.images import write_view
    from svdrr.render import Imaging, render_views, require_in_view

    if not 16 <= size <= 4096:
        raise SVDRRError(f"The size must lie in 16 to 4096 pixels, not {size}.")
    if not 10.0 <= side <= 2000.0:
        raise SVDRRError(f"The detector's side must lie in 10 to 2000 mm, not {side:g} mm.")
    check_engine(engine)
    if energy is not None and kvp is not None:
        raise SVDRRError("A beam has one energy or a tube voltage; give either --energy or --kvp.")
    beam = tube_beam(kvp) if kvp is not None else monoenergetic() if energy is None else monoenergetic(energy)
    imaging = Imaging(beam, material, DetectorModel(photons, blur), seed, output, window)
    parse_views(views, (0.0, 0.0, 0.0))
    volume = read_ct(ct, series)
    poses = parse_views(views, volume.isocenter_ras)
    detector = Detector.square(size, side)
    require_in_view(volume.corners_ras, poses, detector)
    source = f"CT with voxels SHA-256 {hashlib.sha256(volume.hu.data).hexdigest()}{', table removed' * table_removal}"
    with _placed(whole_directory, outdir) as folder:

        def write(index: int, radiograph: Radiograph, values: Any = None) -> dict[str, Any]:
            return write_view(folder, index, radiograph, values)

        if backend is None:
            if table_removal:
                with _working("Removing the table"):
                    volume = remove_table(volume).ct
            entries: list[dict[str, Any]] = []
            # Views are written on several threads; ITK's switch for warnings is global, so it is set once around them.
            with _progress("Rendering", len(poses)) as advance, itk_warnings_silenced():
                for entry in render_views(volume, poses, detector, write, engine, source, imaging):
                    entries.append(entry)
                    advance()
        else:
            from svdrr.backend.request import render_request

            request = render_request(
                volume,
                poses,
                detector,
                energy_kev=energy,
                kvp=kvp,
                material=material,
                air_photons_per_pixel=photons,
                blur_mm=blur,
                seed=seed,
                window=window,
                remove_table=table_removal,
                engine=engine,
            )
            drrs = _done_by(backend, token_file, authority, request, "Rendering")
            entries = [write(index, drr) for index, drr in enumerate(drrs)]
        (folder / "views.json").write_text(views_document(entries), encoding="utf-8")
    _report(
        as_json, {"outdir": str(outdir), "views": len(poses)}, f"{counted(len(poses), 'view')} written to {outdir}."
    )


@app.command()
def synthesize(
    image: Annotated[Path, typer.Argument(help="One radiograph, as of svdrr prepare: DICOM (CR, DX), PNG, NRRD, …")],
    outdir: Annotated[Path, typer.Argument(help="Folder for the synthetic views as PNG (16 bit) and views.json.")],
    views: ViewSet = "simple",
    model: Annotated[str, typer.Option(help="A model's name or folder.")] = "demo-256",
    steps: Annotated[int | None, typer.Option(help="Denoising steps; by default what the model recommends.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale; by default what the model recommends.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    backend: BackendURL = None,
    token_file: TokenFile = None,
    authority: Authority = None,
    as_json: Json = False,
) -> None:
    """Synthesize novel views of one radiograph. The images are synthetic and not for diagnosis."""
    from svdrr.files import whole_directory
    from svdrr.geometry import parse_views
    from svdrr.geometry.viewsets import views_document
    from svdrr.images import read_radiograph, write_view
    from svdrr.models import find_model
    from svdrr.synthesis.sampling import Sampling

    if backend is None:
        # What is wrong with the numbers shows before PyTorch is loaded.
        sampling = Sampling.of(find_model(model), steps, guidance, seed)
    radiograph = read_radiograph(image)
    source_pose = radiograph.source_pose
    poses = parse_views(views, source_pose.isocenter_ras)
    with _placed(whole_directory, outdir) as folder:
        if backend is None:
            with _optional_package("synthesis"):
                from svdrr.synthesis.synthesize import Synthesizer
            with _working(f"Loading {model}"):
                synthesizer = Synthesizer(model)
            with _progress("Synthesizing", None) as advance:
                radiographs = synthesizer.synthesize(radiograph, poses, sampling, source_pose, on_step=advance)
        else:
            from svdrr.backend.request import synthesis_request

            request = synthesis_request(radiograph, poses, model, steps, guidance, seed, source_pose)
            radiographs = _done_by(backend, token_file, authority, request, "Synthesizing")
        entries = [write_view(folder, number, synthetic) for number, synthetic in enumerate(radiographs)]
        (folder / "views.json").write_text(views_document(entries), encoding="utf-8")
    made = radiographs[0].provenance
    assert made is not None
    result = {
        "outdir": str(outdir),
        "views": len(poses),
        "synthetic": True,
        "model": made.model,
        "weights_sha256": made.weights_sha256,
        "seed": seed,
    }
    _report(as_json, result, f"{counted(len(poses), 'SYNTHETIC view')} (not for diagnosis) written to {outdir}.")


@app.command()
def enhance(
    image: Annotated[Path, typer.Argument(help="One radiograph.")],
    output: Annotated[Path, typer.Argument(help="The enlarged radiograph, .png (16 bit) or .nrrd (float).")],
    method: Annotated[
        str, typer.Option(help="lcmsr, deltadiff, regression (learned on phantoms); lanczos, bicubic.")
    ] = "lanczos",
    scale: Annotated[int, typer.Option(help="2 or 4.")] = 2,
    seed: Annotated[int | None, typer.Option(help="Seed of lcmsr's noise, 0 by default.")] = None,
    deterministic: Annotated[bool, typer.Option(help="lcmsr without noise, by its conditional network alone.")] = False,
    consistent: Annotated[
        bool, typer.Option(help="Remove what the result contradicts in the input, by iterative back-projection.")
    ] = False,
    fidelity_map: Annotated[
        Path | None,
        typer.Option(help="Also write, as .nrrd, how far the result, reduced again, is from the input, in percent."),
    ] = None,
    uncertainty_map: Annotated[
        Path | None,
        typer.Option(help="Also write, as .nrrd, the standard deviation of lcmsr's result over seeds, in percent."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Of the uncertainty map, 2 to 64; 8 by default.")] = None,
    backend: BackendURL = None,
    token_file: TokenFile = None,
    authority: Authority = None,
    as_json: Json = False,
) -> None:
    """Enlarge a radiograph; the physical extent stays, the pixel spacing shrinks. Says how faithful the result is.

    What is added between the pixels is computed, not measured, and is not for diagnosis.
    """
    from svdrr.files import require_other_file, whole_file
    from svdrr.images import pixel_to_ras, read_radiograph, require_radiograph_suffix, write_nrrd, write_png
    from svdrr.superres import check_enhancement, uncertainty
    from svdrr.superres import enhance as enhance_radiograph
    from svdrr.superres.degradation import gray_scale_of
    from svdrr.superres.enhance import UNCERTAINTY_SEEDS, check_seeds, finer_pixels
    from svdrr.superres.fidelity import data_fidelity

    if deterministic and seed is not None:
        raise SVDRRError("Without noise there is no seed; give either --deterministic or --seed.")
    if method != "lcmsr" and (deterministic or seed is not None):
        raise SVDRRError(f"Only lcmsr has noise; leave out --seed and --deterministic with '{method}'.")
    if uncertainty_map is None and seeds is not None:
        raise SVDRRError("The --seeds are those of an uncertainty map; give --uncertainty-map too.")
    sampled = None if deterministic else seed or 0
    map_seeds = 0
    if uncertainty_map is not None:
        map_seeds = UNCERTAINTY_SEEDS if seeds is None else seeds
        check_seeds(map_seeds)
    if backend is None:
        check_enhancement(method, scale, sampled, map_seeds)
    require_radiograph_suffix(output)
    written = [path for path in (output, fidelity_map, uncertainty_map) if path is not None]
    for path in written:
        require_other_file(path, image)
    if any(path.suffix.lower() != ".nrrd" for path in written[1:]):
        raise SVDRRError("The name of a map must end in .nrrd.")
    if len({path.resolve() for path in written}) < len(written):
        raise SVDRRError("The result and its maps cannot be written to one file; give them different names.")
    radiograph = read_radiograph(image)
    with ExitStack() as stack:
        files = {path: stack.enter_context(_placed(whole_file, path)) for path in written}
        if backend is None:
            with _progress("Enlarging", None) as advance:
                enlarged = enhance_radiograph(radiograph, method, scale, sampled, consistent, on_step=advance)
                results = [enlarged]
                if map_seeds:
                    results.append(
                        uncertainty(radiograph, scale, map_seeds, sampled or 0, consistent=consistent, on_step=advance)
                    )
        else:
            from svdrr.backend.request import enhancement_request

            request = enhancement_request(radiograph, method, scale, sampled, consistent, map_seeds)
            results = _done_by(backend, token_file, authority, request, "Enlarging")
            enlarged = results[0]
        place = pixel_to_ras(image, radiograph)
        finer_place = place @ finer_pixels(scale)
        if output.suffix.lower() == ".nrrd":
            write_nrrd(files[output], enlarged.pixels, enlarged, finer_place)
        else:
            write_png(files[output], enlarged)
        fidelity = data_fidelity(enlarged.pixels, radiograph.pixels, gray_scale_of(radiograph))
        if fidelity_map is not None:
            quantity = "absolute difference of the result, reduced again, from the input"
            of_input = replace(radiograph, provenance=enlarged.provenance)
            write_nrrd(files[fidelity_map], fidelity.difference_percent, _in_percent(of_input, quantity), place)
        if uncertainty_map is not None:
            deviation = _in_percent(results[1], f"standard deviation over {map_seeds} seeds")
            write_nrrd(files[uncertainty_map], 100.0 * deviation.pixels, deviation, finer_place)
    rows, columns = enlarged.pixels.shape
    result = {
        "output": str(output),
        "synthetic": True,
        "rows": rows,
        "columns": columns,
        "pixel_spacing_mm": enlarged.pixel_spacing_mm,
        "fidelity_mean_percent": fidelity.mean_percent,
        "fidelity_max_percent": fidelity.max_percent,
        "is_consistent": fidelity.is_consistent,
        "method": method,
        "scale": scale,
        "seed": sampled if method == "lcmsr" else None,
        "fidelity_map": fidelity_map and str(fidelity_map),
        "uncertainty_map": uncertainty_map and str(uncertainty_map),
    }
    sentence = f"{rows} x {columns} pixels, computed and not for diagnosis, written to {output}. {fidelity.verdict}"
    if consistent and not fidelity.is_consistent:
        sentence += (
            " Not all pixels could be made to agree: a detector with such blur would not have measured the input."
        )
    _report(as_json, result, sentence)


@app.command()
def demo(
    outdir: Annotated[Path, typer.Argument(help="Folder for scene.mrb, report.html and report.json.")],
    as_json: Json = False,
) -> None:
    """The whole system on a real chest CT and a real chest radiograph."""
    with _optional_package("demo"):
        from svdrr.demo.run import run_demo
    report = run_demo(outdir, lambda stage: typer.echo(stage, err=True))
    _report(as_json, report, f"Open {outdir / 'report.html'} in a browser and {outdir / 'scene.mrb'} in 3D Slicer.")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"svdrr {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: bad input ends in one sentence on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A path that the terminal's encoding lacks must not turn finished work into an error.
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="svdrr")
    except (SVDRRError, OSError) as error:
        typer.echo(f"svdrr: {error}", err=True)
        sys.exit(2)
    except MemoryError:
        typer.echo("svdrr: There is not enough memory; ask for fewer pixels or fewer views.", err=True)
        sys.exit(2)


def _report(as_json: bool, result: dict[str, Any], sentence: str) -> None:
    typer.echo(json.dumps(result) if as_json else sentence)


def _in_percent(radiograph: Radiograph, quantity: str) -> Radiograph:
    """The same, for a map: its provenance says what the values that are written for it are."""
    made = radiograph.provenance
    assert made is not None
    settings = {**made.settings, "Quantity": f"{quantity}, percent of the gray range"}
    return replace(radiograph, provenance=replace(made, settings=settings))


def _done_by(
    backend: str, token_file: Path | None, authority: Path | None, request: Request, what: str
) -> list[Radiograph]:
    with _progress(what, None) as advance:
        return on_backend(
            backend, token_file, authority, request, lambda status: advance(status.step, status.steps or None)
        )


@contextmanager
def _placed(open_whole: Callable[[Path], AbstractContextManager[Path]], path: Path) -> Iterator[Path]:
    """`whole_file` or `whole_directory`; errors inside name the destination, not its temporary sibling."""
    with open_whole(path) as temporary:
        try:
            yield temporary
        except SVDRRError as error:
            raise SVDRRError(str(error).replace(str(temporary), str(path))) from error


@contextmanager
def _optional_package(extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise SVDRRError(
            f"This command needs the package '{error.name}'; install it with: pip install 'svdrr[{extra}]'."
        ) from error


@contextmanager
def _working(what: str) -> Iterator[None]:
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A bar with the time left; the function that it yields takes (finished, total), or nothing for one more."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)

        def advance(finished: int | None = None, of: int | None = None) -> None:
            if finished is None:
                progress.advance(task)
            else:
                progress.update(task, completed=finished, total=of)

        yield advance


if __name__ == "__main__":
    main()
