"""`svdrr setup-backend` and `svdrr doctor`: functions that the command line attaches."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from svdrr.backend.cli_client import Authority, BackendURL, TokenFile, given_token
from svdrr.backend.doctor import findings
from svdrr.backend.driver import BUILDS
from svdrr.backend.installation import Plan, set_up
from svdrr.errors import SVDRRError

_ADVICE_INDENT = " " * 9


def setup_backend_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder; delete it to uninstall.")],
    torch: Annotated[
        str, typer.Option(help=f"Build of torch: auto (what the GPU's driver runs), {', '.join(BUILDS)}.")
    ] = "auto",
    wheels: Annotated[Path | None, typer.Option(help="Install from this folder of wheels, without a network.")] = None,
    index: Annotated[str | None, typer.Option(help="URL of a package index to use instead of the usual ones.")] = None,
    python: Annotated[str, typer.Option(help="Interpreter to build on.")] = sys.executable,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before downloading.")] = False,
) -> None:
    """Set up a backend in a folder of its own, with the build of torch that fits the GPU; asks before it downloads."""

    def confirm(plan: Plan) -> bool:
        typer.echo(str(plan), err=True)
        if yes:
            return True
        if not sys.stdin.isatty():
            raise SVDRRError("There is no terminal to ask on; add --yes to agree to the download.")
        return typer.confirm("Go on?", err=True)

    def say(line: str) -> None:
        typer.echo(line, err=True)

    environment = set_up(folder, torch, confirm=confirm, on_line=say, wheels=wheels, index=index, python=python)
    typer.echo(f"The backend in {environment.folder} is ready, with torch {environment.torch}.")


def doctor_command(
    backend: BackendURL = None,
    token_file: TokenFile = None,
    authority: Authority = None,
    environment: Annotated[Path | None, typer.Option(help="Folder of `svdrr setup-backend` to look at.")] = None,
    models: Annotated[Path | None, typer.Option(help="Folder of models, instead of those found by themselves.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one machine-readable result.")] = False,
) -> None:
    """Say what a backend needs, here or behind --backend: what is there, what is missing, and what to do about it."""
    found = findings(backend, given_token(token_file), environment, models, authority)
    complete = all(finding.ok for finding in found)
    if as_json:
        entries = [{"ok": f.ok, "sentence": f.sentence, "advice": f.advice} for f in found]
        typer.echo(json.dumps({"ok": complete, "findings": entries}))
    else:
        for finding in found:
            advice = f"\n{_ADVICE_INDENT}{finding.advice}" * bool(finding.advice)
            typer.echo(f"{'ok' if finding.ok else 'missing':9}{finding.sentence}{advice}")
    raise typer.Exit(0 if complete else 1)
