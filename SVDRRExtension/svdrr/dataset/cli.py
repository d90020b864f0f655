"""The commands ``svdrr dataset …``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svdrr.errors import SVDRRError, counted

if TYPE_CHECKING:
    from svdrr.dataset.build import Watcher
    from svdrr.dataset.discover import Source
    from svdrr.dataset.one_ct import Outcome

app = typer.Typer(no_args_is_help=True, help="Training sets of DRRs from many CTs, as WebDataset shards.")

Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable result on standard output.")]
Folder = Annotated[Path, typer.Argument(help="A data set that `svdrr dataset build` has finished.")]


@app.command()
def build(
    cts: Annotated[
        list[Path],
        typer.Argument(help="CTs: files, or folders that hold DICOM, NIfTI, NRRD or MetaImage CTs at any depth."),
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the data set; an interrupted build of it goes on.")],
    views: Annotated[
        str, typer.Option(help="simple, hemisphere:N, sweep:FROM:TO:STEP (degrees), or a views JSON file.")
    ] = "hemisphere:1500",
    sizes: Annotated[str, typer.Option(help="Pixels per side, each rendered for itself.")] = "256,512,1024",
    max_slice_thickness: Annotated[
        float | None, typer.Option(help="Skip CTs whose slices lie farther apart (mm).")
    ] = None,
    split: Annotated[str, typer.Option(help="Shares of train, val and test; patients stay whole.")] = "80,10,10",
    engine: Annotated[str | None, typer.Option(help="DRR engine; by default the first that svdrr has.")] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Ray: local, HOST:PORT or ray://HOST:PORT; CTs and OUT must be on a disk that all its computers "
            "share under the same path, and svdrr must be installed there."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove each CT's table and render all views at every size into WebDataset shards.

    No patient data is written: keys are hashes of voxels, and patients are told apart by PatientID, or where
    there is none, by the folder directly below CTS. A CT that cannot be used is named on standard error, with its
    path, and skipped. The same input gives the same bytes, however often the build was interrupted.
    """
    from svdrr.cli import _report
    from svdrr.dataset.build import build_dataset
    from svdrr.dataset.cluster import check_cluster
    from svdrr.dataset.discover import describe_left_out
    from svdrr.dataset.settings import SPLITS, make_settings
    from svdrr.drr import ENGINES

    engine = engine or ENGINES[0]
    if cluster is not None:
        check_cluster(cluster)
    settings = make_settings(views, sizes, engine, max_slice_thickness, split)
    with _watching() as watcher:
        summary = build_dataset(cts, out, settings, views, engine, cluster, watcher)
    counts = ", ".join(f"{count:,} {name}" for name, count in summary.samples.items())
    total = sum(summary.samples.values())
    sentence = (
        f"{counted(summary.cts, 'CT')}, {counted(total, 'SYNTHETIC image')} ({counts}) in {out}: "
        f"{summary.rendered:,} written now, {total - summary.rendered:,} found in place."
    )
    empty = [name for name, share in zip(SPLITS, settings.split, strict=True) if share and not summary.samples[name]]
    if summary.left_out:
        typer.echo(f"svdrr: Left out what is no CT: {describe_left_out(summary.left_out)}.", err=True)
    if empty:
        typer.echo(
            f"svdrr: Warning: {' and '.join(empty)} came out empty: a hash of each patient's key draws the split, and "
            "few patients can miss a share; add CTs, or build into a new folder with larger shares.",
            err=True,
        )
    if summary.skipped:
        typer.echo(f"svdrr: Warning: {summary.skipped} of the CTs skipped; {out / 'manifest.json'} says why.", err=True)
    result = {"outdir": str(out), "cts": summary.cts, "skipped": summary.skipped, "samples": summary.samples}
    result["written_now"] = summary.rendered
    _report(as_json, result, sentence)


@app.command()
def show(
    out: Folder,
    output: Annotated[Path | None, typer.Option(help="Folder for the figures; by default the data set's.")] = None,
    as_json: Json = False,
) -> None:
    """Draw a contact sheet and the hemisphere of the views of a data set."""
    from svdrr.cli import _optional_package, _report

    if not out.is_dir():
        raise SVDRRError(f"There is no data set {out}; make one with svdrr dataset build.")
    folder = out if output is None else output
    if not folder.is_dir():
        raise SVDRRError(f"There is no folder {folder}; create it first.")
    with _optional_package("train"):
        from svdrr.dataset.figures import contact_sheet, hemisphere_plot
    sheet, plot = folder / "contact_sheet.png", folder / "hemisphere.png"
    contact_sheet(out, sheet)
    hemisphere_plot(out, plot)
    _report(as_json, {"contact_sheet": str(sheet), "hemisphere": str(plot)}, f"Look at {sheet} and {plot}.")


@app.command("verify")
def verify_command(out: Folder, as_json: Json = False) -> None:
    """Compare every file of a data set with its manifest."""
    from svdrr.cli import _report
    from svdrr.dataset.build import verify

    wrong = verify(out)
    if wrong:
        raise SVDRRError(
            f"{counted(len(wrong), 'file')} of {out} missing or changed (the first: {wrong[0]}); build again with the "
            "same CTs and settings, which renews what is wrong and keeps the rest."
        )
    _report(as_json, {"outdir": str(out), "verified": True}, f"All files of {out} are as they were written.")


@contextmanager
def _watching() -> Iterator[Watcher]:
    """A bar with the time left, by pixels, since a view of 1024² takes 16 times as long as one of 256²."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from svdrr.dataset.build import Watcher

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, speed_estimate_period=600) as progress:
        task = progress.add_task("Looking for CTs", total=None)
        count = done = 0

        def on_total(cts: int, pixels: int) -> None:
            nonlocal count
            count = cts
            progress.update(task, total=pixels, description=f"Rendering CT 1 of {count}")

        def on_ct(number: int, source: Source, outcome: Outcome) -> None:
            nonlocal done
            done += 1
            progress.update(task, description=f"Rendering CT {min(done + 1, count)} of {count}")
            if outcome.entry is None:
                series = f", series {source.series}" if source.series else ""
                # Through the bar's console, which would else be overdrawn; as it is, for paths may hold brackets.
                progress.console.print(
                    f"svdrr: Skipped CT {number} of {count} ({source.path}{series}): {outcome.sentence}",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )

        yield Watcher(on_total=on_total, on_pixels=lambda pixels: progress.update(task, completed=pixels), on_ct=on_ct)
