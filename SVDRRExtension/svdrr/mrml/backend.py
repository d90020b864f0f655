"""Which backend the user has chosen, and work that it does for the scene."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import slicer

from svdrr.backend.client import ArrivedView, BackendClient, RunningJob
from svdrr.backend.environment import BackendEnvironment
from svdrr.backend.local import LocalBackend
from svdrr.backend.request import Request
from svdrr.errors import SVDRRError
from svdrr.mrml.task import Progress, Say, Steps, in_background

ENVIRONMENT_VARIABLE = "SVDRR_BACKEND"
_HOME = Path.home() / ".svdrr"
_SETTINGS = "SVDRR/"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

# One for each environment and as long as the application lives, since every panel shares it.
_local_backends: dict[Path, LocalBackend] = {}
_starting = threading.Lock()
_local_urls: set[str] = set()
# Without an application there are no settings that last.
_session_settings: dict[str, str] = {}


@dataclass(frozen=True)
class BackendChoice:
    """Where jobs go. url: of a backend that runs already, or "" for one on this computer that is started when needed.

    token: what a running backend asks for. certificate_authority: a file with the authority to trust, or "".
    environment: the folder of `svdrr setup-backend` that a backend on this computer is started from.
    """

    url: str = ""
    token: str = ""
    certificate_authority: str = ""
    environment: Path = _HOME / "backend"

    @property
    def host(self) -> str:
        """The name of the other computer, or "" where images stay on this one."""
        host = urlsplit(self.url).hostname or ""
        return "" if host in _LOOPBACK else host


def chosen_backend() -> BackendChoice:
    """The user's choice in Slicer's settings. The environment variable SVDRR_BACKEND names another environment."""
    environment = os.environ.get(ENVIRONMENT_VARIABLE) or _setting("environment")
    return BackendChoice(
        url=_setting("url"),
        token=_setting("token"),
        certificate_authority=_setting("certificateAuthority"),
        environment=Path(environment) if environment else BackendChoice.environment,
    )


def choose_backend(choice: BackendChoice) -> None:
    """Remember the user's choice in Slicer's settings, or for this session where there are none."""
    _set("url", choice.url)
    _set("token", choice.token)
    _set("certificateAuthority", choice.certificate_authority)
    _set("environment", "" if choice.environment == BackendChoice.environment else str(choice.environment))


def uploads_allowed(choice: BackendChoice) -> bool:
    """Whether images may go to the backend: always on this computer, else once the user has agreed."""
    return not choice.host or _setting(f"UploadsAllowed/{choice.host}") == "yes"


def allow_uploads(choice: BackendChoice, allowed: bool = True) -> None:
    """Remember that the user agrees, or no longer agrees, that pixels, spacing and poses go to the backend's host."""
    if choice.host:
        _set(f"UploadsAllowed/{choice.host}", "yes" if allowed else "")


def client_of(choice: BackendChoice, sends_images: bool = True) -> Steps[BackendClient]:
    """Steps to a client of the backend; one on this computer is started if it does not run.

    SVDRRError with the reason where there is none, and where the client is to send images to another computer before
    the user has agreed to that.
    """
    if not choice.url:
        backend = _local_backend(choice.environment)

        starting = Progress("Starting the backend on this computer")

        def start(say: Say) -> BackendClient:
            with _starting:
                client = backend.start(lambda sentence: say(starting))
                _local_urls.add(client.url)
                return client

        return (yield from in_background(start, starting.stage))
    if sends_images and not uploads_allowed(choice):
        raise SVDRRError(
            f"The images would go to {choice.host}, and you have not agreed to that; agree in the backend's line of "
            "the panel, or with svdrr.mrml.allow_uploads."
        )
    return BackendClient(choice.url, choice.token or None, choice.certificate_authority or True)


def stop_local_backends() -> None:
    """End every backend that was started on this computer."""
    while _local_backends:
        _local_backends.popitem()[1].stop()


def follow(client: BackendClient, request: Request, on_view: Callable[[ArrivedView], None]) -> Steps[None]:
    """Steps of a job; on_view puts each view into the scene as it arrives. Closing them cancels the job.

    SVDRRError with the reason if the job fails.
    """
    job = client.start(request)
    progress = Progress("Sending the image to the backend")
    try:
        while not job.finished:
            for event in job.poll():
                if isinstance(event, ArrivedView):
                    on_view(event)
                    # One view a step, since each takes time to show.
                    yield progress
                else:
                    progress = Progress.of_job(event)
            yield progress
    finally:
        job.cancel()
    require_success(client, job)


def require_success(client: BackendClient, job: RunningJob) -> None:
    """SVDRRError with the reason if the job, which has ended, failed."""
    if not job.error:
        return
    # Where a user has not started a server by hand, advice to do so would be odd.
    if client.url in _local_urls and not any(backend.running for backend in _local_backends.values()):
        raise SVDRRError("The backend on this computer has ended; the next job starts it again.")
    raise SVDRRError(job.error)


def _local_backend(folder: Path) -> LocalBackend:
    if folder not in _local_backends:
        environment = BackendEnvironment.read(folder)
        _local_backends[folder] = LocalBackend(
            environment.command(), _HOME / "run", environment=environment.environment(os.environ)
        )
    return _local_backends[folder]


def _settings() -> Any | None:
    return slicer.app.userSettings() if hasattr(slicer, "app") else None


def _setting(name: str) -> str:
    settings = _settings()
    if settings is None:
        return _session_settings.get(name, "")
    return str(settings.value(_SETTINGS + name) or "")


def _set(name: str, value: str) -> None:
    settings = _settings()
    if settings is None:
        _session_settings[name] = value
    elif value:
        settings.setValue(_SETTINGS + name, value)
    else:
        settings.remove(_SETTINGS + name)
