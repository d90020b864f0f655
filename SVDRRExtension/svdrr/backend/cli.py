"""``svdrr serve``."""

from __future__ import annotations

import os
import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from svdrr.backend.cli_client import given_token
from svdrr.errors import SVDRRError


def serve_command(
    host: Annotated[str, typer.Option(help="Address to listen on; another than loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8650,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token that clients must send, made if there is none; or set SVDRR_TOKEN."),
    ] = None,
    models: Annotated[Path | None, typer.Option(help="Folder of models beside the bundled ones.")] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, or GPUs such as cuda:0,cuda:1; one worker process each.")
    ] = "auto",
    spool: Annotated[Path | None, typer.Option(help="Folder for jobs; by default ~/.svdrr/jobs.")] = None,
    keep_minutes: Annotated[float, typer.Option(help="Jobs that nobody asks for are dropped after so long.")] = 60.0,
    max_queued: Annotated[int, typer.Option(help="Jobs that may wait.")] = 64,
    max_request_mb: Annotated[int, typer.Option(help="Largest request, MiB.")] = 1024,
    max_spool_gb: Annotated[float, typer.Option(help="Disk space that jobs may fill, GiB.")] = 20.0,
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate chain, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    compile_model: Annotated[
        bool,
        typer.Option("--compile", help="Compile the model with torch.compile: a slow first job, faster ones after it."),
    ] = False,
    ray: Annotated[
        bool, typer.Option("--ray", help="Run as replicas on Ray Serve, each with a GPU, that stand in for each other.")
    ] = False,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="How many, with --ray; by default one for each GPU.")
    ] = None,
    address_file: Annotated[Path | None, typer.Option(help="Write the URL here once the server listens.")] = None,
    exit_with_parent: Annotated[bool, typer.Option("--exit-with-parent", help="End when standard input ends.")] = False,
    discard_jobs: Annotated[bool, typer.Option("--discard-jobs", help="Remove the spool at the end.")] = False,
) -> None:
    """Run a backend: it renders, synthesizes and enlarges for the panels in Slicer and for --backend, as jobs."""
    try:
        from svdrr.backend.server import ServerSettings, serve
    except ImportError as error:
        raise SVDRRError(
            f"The backend needs the package '{error.name}'; install it with: pip install 'svdrr[backend]'."
        ) from error
    from svdrr.backend.store import Limits

    if models is not None:
        if not models.is_dir():
            raise SVDRRError(f"There is no folder of models '{models}'.")
        # In the environment, so that the workers see it too.
        os.environ["SVDRR_MODELS"] = os.pathsep.join(filter(None, [str(models), os.environ.get("SVDRR_MODELS", "")]))
    if not (keep_minutes > 0.0 and max_queued > 0 and max_request_mb > 0 and max_spool_gb > 0.0):
        raise SVDRRError("--keep-minutes, --max-queued, --max-request-mb and --max-spool-gb must be above 0.")
    if replicas is not None and not ray:
        raise SVDRRError("--replicas needs --ray.")
    if ray and device not in ("auto", "cpu"):
        raise SVDRRError("With --ray, --device is auto or cpu: Ray gives each replica a GPU.")
    settings = ServerSettings(
        host=host,
        port=port,
        token=_token(token_file),
        spool=spool or Path.home() / ".svdrr" / "jobs",
        devices=_devices(device),
        limits=Limits(max_queued, int(max_spool_gb * 2**30), keep_minutes * 60.0),
        max_request_bytes=max_request_mb * 2**20,
        certificate=_file(certificate),
        key=_file(key),
        address_file=address_file,
        exit_with_parent=exit_with_parent,
        discard_jobs=discard_jobs,
        compile_model=compile_model,
    )
    if ray:
        from svdrr.backend.ray_serve import serve_on_ray

        serve_on_ray(settings, replicas)
    else:
        serve(settings)


def _token(file: Path | None) -> str | None:
    # Workers have no use for it, and must not show it in a crash report.
    from_environment = os.environ.pop("SVDRR_TOKEN", None)
    if file is None:
        return from_environment
    if not file.exists():
        _write_new_token(file)
        typer.echo(f"A new token is in {file}; clients need a copy of it.", err=True)
    return given_token(file)


def _write_new_token(file: Path) -> None:
    try:
        # For this user alone, from its first moment.
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as new:
            new.write(secrets.token_urlsafe(32) + "\n")
    except OSError as error:
        raise SVDRRError(f"The token file '{file}' cannot be written: {error.strerror}.") from None


def _file(path: Path | None) -> Path | None:
    if path is not None and not path.is_file():
        raise SVDRRError(f"There is no file '{path}'.")
    return path


def _devices(names: str) -> tuple[str, ...]:
    devices = tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    if devices == ("cpu",):
        return devices
    count = _cuda_devices()
    present = tuple(f"cuda:{index}" for index in range(count))
    if devices == ("auto",):
        return present or ("cpu",)
    for device in devices:
        if device not in (*present, "cpu"):
            found = ", ".join(present) or "no GPU that PyTorch can use"
            raise SVDRRError(f"There is no device '{device}'; this computer has: cpu, {found}.")
    return devices


def _cuda_devices() -> int:
    if find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count()
