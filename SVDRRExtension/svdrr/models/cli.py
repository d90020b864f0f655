"""The commands ``svdrr models …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Model folders: what training begins with.")


@app.callback()
def _group() -> None:
    """Without a callback, a group of one command would be that command."""


@app.command("import-pixart")
def import_pixart_command(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="PixArt-Sigma as on Hugging Face: its folder, or `transformer` in it.")
    ],
    out: Annotated[Path, typer.Argument(help="New model folder.")],
    vae: Annotated[Path, typer.Option(help="The SDXL VAE: its folder, or one that has `vae` in it.")],
    clip: Annotated[Path, typer.Option(help="The CLIP image encoder (ViT-L/14): its folder.")],
    config: Annotated[str, typer.Option(help="Model configuration that it is made for.")] = "paper-256",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one machine-readable result on standard output.")
    ] = False,
) -> None:
    """Make the model that training on X-rays begins with, from local safetensors. It has seen no X-ray yet."""
    from svdrr.cli import _optional_package, _report, _working

    with _optional_package("synthesis"):
        from svdrr.models.import_pixart import import_pixart, untrained_description
        from svdrr.models.write import require_new_folder, write_model
        from svdrr.synthesis.configuration import load_configuration
    configuration = load_configuration(config)
    require_new_folder(out)
    with _working("Importing"):
        pipeline = import_pixart(configuration, directory, vae, clip)
        write_model(out, pipeline, untrained_description(configuration))
    count = sum(parameter.numel() for parameter in pipeline.vcdit.parameters())
    _report(as_json, {"model": str(out), "parameters": count}, f"VCDiT of {count:,} parameters written to {out}.")
