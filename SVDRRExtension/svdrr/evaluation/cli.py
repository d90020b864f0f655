"""The command ``svdrr evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate_command(
    model: Annotated[str, typer.Argument(help="A model's name or folder.")],
    data: Annotated[
        str,
        typer.Argument(help="phantoms:N (held out), a CT, or a data set of `svdrr dataset build` (its test part)."),
    ],
    outdir: Annotated[Path, typer.Argument(help="Folder for results.csv, table.md, figures.json and plots.")],
    views: Annotated[
        list[str] | None, typer.Option(help="simple (the default) or hemisphere:N; several times for several.")
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
    from svdrr.files import whole_directory
    from svdrr.models import find_model

    description = find_model(model)
    with _optional_package("demo"):
        from svdrr.evaluation.evaluate import Evaluation
        from svdrr.synthesis.synthesize import Sampling, Synthesizer
    sampling = Sampling.of(description, steps, guidance, seed)
    evaluation = Evaluation(description, data, views or ["simple"], sampling, lpips, fid, series)
    with _placed(whole_directory, outdir) as folder:
        with _working(f"Loading {description.name}"):
            synthesizer = Synthesizer(description)
        with _progress("Views", evaluation.total) as advance:
            figures = evaluation.run(synthesizer, folder, advance)
    _report(as_json, figures, f"{evaluation.total:,} views measured; read {outdir / 'table.md'}.")
