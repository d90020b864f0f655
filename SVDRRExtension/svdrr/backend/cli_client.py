"""The options with which commands do their work on a backend."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svdrr.errors import SVDRRError, counted

if TYPE_CHECKING:
    from svdrr.backend.jobs import JobStatus
    from svdrr.backend.request import Request
    from svdrr.radiograph import Radiograph

BackendURL = Annotated[
    str | None, typer.Option("--backend", help="Do it on this backend, such as http://127.0.0.1:8650, not here.")
]
TokenFile = Annotated[Path | None, typer.Option(help="File with the backend's token; or set SVDRR_TOKEN.")]
Authority = Annotated[
    Path | None, typer.Option("--certificate-authority", help="PEM file to trust, for a backend's own certificate.")
]


def given_token(file: Path | None) -> str | None:
    """The token in `file`, or that of the environment, or None. SVDRRError if the file cannot be read."""
    if file is None:
        return os.environ.get("SVDRR_TOKEN")
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise SVDRRError(f"The token cannot be read from '{file}': {reason}.") from None


def on_backend(
    url: str,
    token_file: Path | None,
    authority: Path | None,
    request: Request,
    on_status: Callable[[JobStatus], None] | None = None,
) -> list[Radiograph]:
    """What the backend at `url` makes of the request."""
    try:
        from svdrr.backend.client import BackendClient
        from svdrr.backend.jobs import view_count
    except ImportError as error:
        raise SVDRRError(
            f"--backend needs the package '{error.name}'; install it with: pip install 'svdrr[backend]'."
        ) from error
    images = BackendClient(url, given_token(token_file), authority or True).run(request, on_status)
    wanted = view_count(request.job)
    if len(images) != wanted:
        made = counted(len(images), "image")
        raise SVDRRError(f"The backend at {url} has made {made} where {wanted} were asked for; update it.")
    return images
