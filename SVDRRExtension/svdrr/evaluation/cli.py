"""The command ``svdrr evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from svdrr.errors import counted


def evaluate_command(
    model: Annotated[str, typer.Argument(help="A model's name or folder.")],
    data: Annotated[
        str,
        typer.Argument(help="phantoms:N (held out), a CT, or a data set of `svdrr dataset build` (its test part)."),
    ],
    outdir: Annotated[Path, typer.Argument(help="Folder for results.csv, table.md, figures.json and plots.")],
    views: Annotated[
        list[str] | None,
        typer.Option(
            help="simple (the default), hemisphere:N, sweep:FROM:TO:STEP (degrees), or a views JSON file; several "
            "times for several."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; by default what the model recommends.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale; by default what the model recommends.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    lpips: Annotated[
        Path | None, typer.Option(help="Also measure LPIPS: the AlexNet weights of the package lpips, as safetensors.")
    ] = None,
    fid: Annotated[
        Path | None, typer.Option(help="Also measure FID: the Inception weights of pytorch-fid, as safetensors.")
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="Which DICOM series of a CT folder: its number or SeriesInstanceUID.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one machine-readable result on standard output.")
    ] = False,
) -> None:
    """Measure a model's views against true DRRs, with every baseline in the same run; the source view is PA.

    PSNR, SSIM, MS-SSIM and SVDRR's own perceptual distance of every view, with confidence intervals over volumes.
    """
    from svdrr.cli import _optional_package, _placed, _progress, _report, _working
    from svdrr.evaluation.benchmark import without_source
    from svdrr.files import whole_directory
    from svdrr.geometry import parse_views
    from svdrr.models import find_model
    from svdrr.synthesis.sampling import Sampling

    # What is wrong with the data or the views is said before torch is loaded, which takes long.
    description = find_model(model)
    sampling = Sampling.of(description, steps, guidance, seed)
    asked = {name: parse_views(name, (0.0, 0.0, 0.0)) for name in views or ["simple"]}
    view_sets = {name: without_source(poses) for name, poses in asked.items()}
    poses = [pose for of_set in view_sets.values() for pose in of_set]
    with _optional_package("demo"):
        from svdrr.evaluation.volumes import one_ct, open_volumes
    volumes = open_volumes(data, description, poses, one_ct(series))
    with _optional_package("demo"):
        from svdrr.evaluation.evaluate import Evaluation
        from svdrr.synthesis.synthesize import Synthesizer
    evaluation = Evaluation(description, volumes, view_sets, sampling, lpips, fid)
    with _placed(whole_directory, outdir) as folder:
        with _working(f"Loading {description.name}"):
            synthesizer = Synthesizer(description)
        with _progress("Views", evaluation.total) as advance:
            figures = evaluation.run(synthesizer, folder, advance)
    left_out = ", without PA, the source view" if len(poses) < sum(map(len, asked.values())) else ""
    _report(
        as_json,
        figures,
        f"{counted(len(poses), 'view')} of {counted(len(volumes.volumes), 'volume')} measured by "
        f"{len(evaluation.methods)} methods{left_out}; read {outdir / 'table.md'}.",
    )
