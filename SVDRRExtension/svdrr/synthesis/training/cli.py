"""The command ``svdrr train``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svdrr.errors import SVDRRError

if TYPE_CHECKING:
    from svdrr.models import ModelDescription
    from svdrr.synthesis.configuration import ModelConfiguration
    from svdrr.synthesis.pipeline import SVDRRPipeline
    from svdrr.synthesis.training.latents import LatentSet

RUN_FILE = "run.json"
_FEW_STEPS = "choice of --few-steps"
_SOURCES_FOR_GRAY_LEVELS = 64


def train_command(
    data: Annotated[Path, typer.Argument(help="A data set of `svdrr dataset build`, PA its first view.")],
    run: Annotated[Path, typer.Argument(help="Folder of the run; started again, an interrupted run goes on.")],
    config: Annotated[str, typer.Option(help="Model configuration: paper-256, paper-512, … or a .json file.")],
    start: Annotated[
        str, typer.Option("--from", help="Where the weights begin: a model's name or folder, or the folder of a run.")
    ],
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    mixed_precision: Annotated[str, typer.Option(help="no, or bf16: on GPUs, twice as fast or more.")] = "no",
    save_every: Annotated[int, typer.Option(help="Steps between two saved states, of which two are kept.")] = 2000,
    few_steps: Annotated[
        bool, typer.Option("--few-steps", help="Distil the model of --from to 1, 2 or 4 steps instead.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one machine-readable result on standard output.")
    ] = False,
) -> None:
    """Train VCDiT on a data set; VAE and CLIP image encoder stay as --from has them.

    Several GPUs share each batch: accelerate launch --num_processes 4 -m svdrr train … The run ends with RUN/model,
    for `svdrr synthesize --model` and for --from of the next resolution.
    """
    from svdrr.cli import _optional_package, _progress, _report

    with _optional_package("train"):
        from accelerate import PartialState

        from svdrr.synthesis.configuration import load_configuration
        from svdrr.synthesis.synthesize import load_pipeline
        from svdrr.synthesis.training.consistency import distill, few_step_configuration
        from svdrr.synthesis.training.latents import cache_back_projections, dataset_latents, training_cts
        from svdrr.synthesis.training.loop import check_options, share
        from svdrr.synthesis.training.vcdit import begin_from, train_vcdit
    from svdrr.dataset.settings import read_manifest
    from svdrr.models.write import write_model
    from svdrr.synthesis.sampling import MAX_SEED

    configuration = load_configuration(config)
    stage = "consistency" if few_steps else "vcdit"
    schedule = configuration.training.get(stage)
    if schedule is None:
        raise SVDRRError(f"The configuration '{config}' has no schedule '{stage}'; add one, or choose another.")
    if not 0 <= seed <= MAX_SEED:
        raise SVDRRError(f"The seed must lie in 0 to {MAX_SEED}, not {seed}.")
    check_options(mixed_precision, save_every)
    model = _start(start)
    cts = training_cts(data, configuration.resolution)
    processes = PartialState()
    share(schedule.batch_size)
    pipeline = load_pipeline(model)
    if few_steps:
        _require_a_teacher(model, pipeline, configuration)
    pipeline = begin_from(configuration, pipeline)
    pipeline.vcdit.float()
    side_mm, seen_mm = _side_mm(data, cts[0], configuration), pipeline.vcdit.config.back_projection_mm
    if seen_mm not in (None, side_mm):
        raise SVDRRError(
            f"The detector of {data} has sides of {side_mm:g} mm, and the configuration back-projects from one of "
            f"{seen_mm:g} mm; make them equal."
        )
    dataset = read_manifest(data)["index_sha256"]
    settings = {
        "configuration": hashlib.sha256(json.dumps(asdict(configuration), sort_keys=True).encode()).hexdigest(),
        "data set": dataset,
        "initial weights": model.weights_sha256(),
        "seed": seed,
        "mixed precision": mixed_precision,
        _FEW_STEPS: few_steps,
    }
    with processes.main_process_first():
        _begin(run, settings)
    with _progress("Encoding CTs", len(cts)) as advance:
        latents = dataset_latents(pipeline.vae, data, configuration.resolution, run / "latents", advance)
    if seen_mm is not None:
        with _progress("Back-projecting", len(cts)) as advance:
            latents = cache_back_projections(
                pipeline.vae,
                latents,
                seen_mm,
                run / "back-projections",
                {"data set": dataset},
                pipeline.lifting,
                advance,
            )
    with _progress("Training", schedule.steps) as advance:
        if few_steps:
            pipeline = distill(pipeline, configuration, latents, run, seed, save_every, mixed_precision, advance)
            configuration = few_step_configuration(configuration)
        else:
            train_vcdit(configuration, pipeline, latents, run, seed, save_every, mixed_precision, advance)
    if processes.is_main_process:
        description = _description(configuration, latents, side_mm, model, dataset)
        write_model(run / "model", pipeline, description)
        result = {"model": str(run / "model"), "steps": schedule.steps}
        _report(as_json, result, f"Trained for {schedule.steps:,} steps; the model is in {run / 'model'}.")
    processes.wait_for_everyone()
    processes.destroy_process_group()


def _start(name: str) -> ModelDescription:
    """The model called `name`, or in the folder `name`, or that a run in the folder `name` has ended with."""
    from svdrr.models import find_model
    from svdrr.models.registry import DESCRIPTION_FILE

    trained = Path(name) / "model"
    if (trained / DESCRIPTION_FILE).is_file():
        return find_model(str(trained))
    if (Path(name) / RUN_FILE).is_file():
        raise SVDRRError(f"The run in '{name}' has not ended with a model yet; let it go on first.")
    return find_model(name)


def _require_a_teacher(model: ModelDescription, pipeline: SVDRRPipeline, configuration: ModelConfiguration) -> None:
    """SVDRRError unless the model can show what many steps lead to, at the resolution of the configuration."""
    from diffusers import LCMScheduler

    if isinstance(pipeline.scheduler, LCMScheduler):
        raise SVDRRError(f"The model '{model.name}' takes few steps already; give the one that it was made from.")
    if model.resolution != configuration.resolution:
        raise SVDRRError(
            f"The model '{model.name}' has {model.resolution} pixels, and the configuration '{configuration.name}' "
            f"{configuration.resolution}; for --few-steps give a model that was trained with that configuration."
        )


def _begin(run: Path, settings: dict[str, Any]) -> None:
    """SVDRRError if the run was begun with other settings: its states would go on as something else."""
    from svdrr.files import whole_file

    if not run.parent.is_dir():
        raise SVDRRError(f"Cannot write {run}: the folder {run.parent} does not exist; create it first.")
    file = run / RUN_FILE
    if run.is_dir() and not file.exists() and any(not path.name.startswith(".") for path in run.iterdir()):
        raise SVDRRError(f"The folder {run} is not empty and no run; choose a new folder.")
    try:
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else settings
    except (OSError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise SVDRRError(f"'{file}' is damaged; train in a new folder.")
    # Runs from before there was a choice say nothing of it.
    before = {_FEW_STEPS: False, **before}
    changed = sorted(name for name in settings if before.get(name) != settings[name])
    if changed:
        raise SVDRRError(
            f"The run in {run} was begun with another {' and '.join(changed)}; repeat that or train in a new folder."
        )
    try:
        run.mkdir(exist_ok=True)
    except OSError as error:
        raise SVDRRError(f"Cannot write {run}: {error.strerror}.") from None
    with whole_file(file) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _side_mm(data: Path, ct: dict[str, Any], configuration: ModelConfiguration) -> float:
    """Side of the detector that the data set was rendered on."""
    from svdrr.dataset.read import read_views_of

    detector = read_views_of(data, ct, configuration.resolution)[0].detector
    return detector.rows * detector.pixel_spacing_mm[0]


def _description(
    configuration: ModelConfiguration, latents: LatentSet, side_mm: float, start: ModelDescription, dataset: str
) -> dict[str, Any]:
    import numpy as np

    from svdrr.synthesis.preparation import body_gray_levels

    sources = latents.sources[:_SOURCES_FOR_GRAY_LEVELS, 0].astype(np.float32) / np.float32(65535.0)
    volumes, views = latents.latents.shape[:2]
    return {
        "name": configuration.name,
        "resolution": configuration.resolution,
        "field_of_view_mm": side_mm,
        **configuration.sampling,
        "source_gray_levels": np.round(body_gray_levels(sources), 4).tolist(),
        "trained_on": (
            f"{volumes * views:,} DRRs of {volumes:,} CTs (data set {dataset[:12]}), beginning with the weights of "
            f"'{start.name}'"
        ),
        "intended_use": "research; not for diagnosis",
        "license": "depends on the CTs and on the weights that training began with",
    }
