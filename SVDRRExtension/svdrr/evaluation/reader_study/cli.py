"""The commands ``svdrr reader-study …``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svdrr.errors import SVDRRError, counted

if TYPE_CHECKING:
    from svdrr.radiograph import Radiograph

app = typer.Typer(no_args_is_help=True, help="Can readers tell synthetic views from true DRRs? The paper's section 5.")

Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable result on standard output.")]


@app.command()
def make(
    model: Annotated[str, typer.Argument(help="A model's name or folder.")],
    data: Annotated[
        str, typer.Argument(help="phantoms:N (held-out), a data set's folder (its test CTs), a CT, or a folder of CTs.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for study.html, which goes to readers, and key.json.")],
    pairs: Annotated[int, typer.Option(help="Pairs of a true DRR and a synthetic view from the same angle.")] = 50,
    seed: Annotated[
        int | None, typer.Option(help="Of everything random; by default drawn, and kept in the key.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a study: a web page that holds everything, and the key to it, which readers must not have."""
    from svdrr.cli import _optional_package, _placed, _progress, _report, _working
    from svdrr.files import whole_directory
    from svdrr.models import find_model

    description = find_model(model)
    # What is wrong with a study is said before torch is loaded, which takes long.
    with _optional_package("train"):
        from svdrr.evaluation.reader_study.make import (
            KEY_FILE,
            PAGE_FILE,
            check_plan,
            draw_seed,
            make_pairs,
            write_study,
        )
        from svdrr.evaluation.volumes import open_volumes
    if any((out / name).exists() for name in (PAGE_FILE, KEY_FILE)):
        raise SVDRRError(f"{out} holds a study already, whose answers need its own key; give another folder.")
    seed = draw_seed() if seed is None else seed
    volumes = open_volumes(data, description).volumes
    check_plan(volumes, pairs, seed)
    with _optional_package("train"):
        from svdrr.synthesis.synthesize import Sampling, Synthesizer
    with _placed(whole_directory, out) as folder:
        with _working(f"Loading {description.name}"):
            synthesizer = Synthesizer(description)

        def synthesize(source: Radiograph, true: Sequence[Radiograph], noise_seed: int) -> list[Radiograph]:
            poses = [drr.view.pose for drr in true if drr.view is not None]
            return synthesizer.synthesize(source, poses, Sampling.of(description, seed=noise_seed))

        with _progress("Making pairs", None) as advance:
            made = make_pairs(volumes, synthesize, pairs, seed, advance)
        name = write_study(folder, made, seed)
    result = {"study": name, "page": str(out / PAGE_FILE), "key": str(out / KEY_FILE), "pairs": len(made)}
    _report(
        as_json,
        result,
        f"{counted(len(made), 'pair')}, one image of each SYNTHETIC (not for diagnosis): give {out / PAGE_FILE} to the "
        f"readers, and keep {out / KEY_FILE} from them.",
    )


@app.command()
def analyze(
    key: Annotated[Path, typer.Argument(help="The study's key.json.")],
    results: Annotated[list[Path], typer.Argument(help="The CSV files that readers have saved.")],
    as_json: Json = False,
) -> None:
    """Accuracy of each reader, t-test and binomial test against chance, as Markdown or JSON."""
    from svdrr.cli import _report
    from svdrr.evaluation.reader_study.analyze import analyze as analyze_readers
    from svdrr.evaluation.reader_study.analyze import markdown, read_key, read_results

    statistics = analyze_readers(read_results(read_key(key), results))
    _report(as_json, statistics.document(), markdown(statistics))
