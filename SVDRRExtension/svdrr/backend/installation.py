"""Makes a backend's environment: asks pip what it would fetch, asks the user, and has pip install it.

Standard library only, as in `svdrr.backend.environment`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from svdrr.backend.driver import TorchBuild, choose_build, find_gpus
from svdrr.backend.environment import (
    README,
    README_FILE,
    BackendEnvironment,
    Kind,
    clean_environment,
    is_ours,
)
from svdrr.backend.requirements import Requirements
from svdrr.errors import SVDRRError

OnLine = Callable[[str], None]

LOG_FILE = "setup.log"
_TORCH_INDEX = "https://download.pytorch.org/whl"
_INDEX_PATIENCE = ("--retries", "1", "--timeout", "15")
_SIZE_TIMEOUT_S = 5
_SIZE_THREADS = 16
# Measured with the CPU build: 0.42 GB of wheels become 1.9 GB, and lie in pip's cache as well until the end.
_DISK_PER_DOWNLOAD = 6


@dataclass(frozen=True)
class Plan:
    """What a set-up would do, for the user to agree to.

    download_bytes: of the packages whose size is known; of_unknown_size counts the others.
    """

    folder: Path
    kind: Kind
    torch: str
    reason: str
    packages: int
    download_bytes: int
    of_unknown_size: int
    free_bytes: int

    def __str__(self) -> str:
        at_least = "at least " * (self.of_unknown_size > 0)
        return (
            f"{self.packages} packages, {at_least}{_gigabytes(self.download_bytes)} GB, will be fetched and installed "
            f"in {self.folder} ({_gigabytes(self.free_bytes)} GB are free); nothing outside it changes. "
            f"Among them is torch {self.torch}: {self.reason}"
        )


def set_up(
    folder: Path,
    torch_build: str = "auto",
    *,
    confirm: Callable[[Plan], bool],
    on_line: OnLine,
    wheels: Path | None = None,
    index: str | None = None,
    python: str = sys.executable,
    requirements: Requirements | None = None,
) -> BackendEnvironment:
    """Make a backend's environment in `folder`, or finish or renew the one that is there.

    confirm: is asked once, before anything large is fetched; where it says no, nothing stays behind. To learn what is
    needed, pip itself (2 MB) and lists of packages are fetched before that. on_line: is told how it goes, a sentence
    at a time. wheels: a folder of wheels to install from, without any network. index: a package index to use instead
    of pip's own settings and torch's index. Whatever a set-up needs lies in `folder`, pip's cache too; one that was
    interrupted is taken up again by the next, and a complete environment stays as it is until a new one is complete.

    Raises SVDRRError, in one sentence, if the folder is not one to install into, the disk is too small, a package
    cannot be found, or the user said no; pip's whole output is in ``setup.log``.
    """
    folder = Path(folder).expanduser().absolute()
    requirements = requirements or Requirements.of_backend()
    build = choose_build(torch_build, find_gpus())
    if wheels is not None and not Path(wheels).is_dir():
        raise SVDRRError(f"The folder of wheels {wheels} does not exist.")
    if shutil.which(python) is None:
        raise SVDRRError(f"There is no Python interpreter {python}.")
    options = _pip_sources(wheels, index)
    existed = folder.exists()
    _claim(folder)
    try:
        with _locked(folder), (folder / LOG_FILE).open("w", encoding="utf-8") as log:
            return _SetUp(folder, build, requirements, options, python, log, on_line, confirm).run()
    except _DeclinedError:
        _remove_contents(folder)
        if not existed:
            folder.rmdir()
        raise


class _DeclinedError(SVDRRError):
    """The user said no, and there was nothing in the folder before."""


@dataclass(frozen=True)
class _Source:
    """Where torch comes from: the exact requirement, and pip's options that lead to it."""

    torch: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class _Package:
    name: str
    version: str
    url: str


@dataclass(frozen=True)
class _Place:
    """Where packages go. pip: arguments of `python` that run it. newest: whether this pip was fetched for it."""

    kind: Kind
    python: Path
    packages: Path | None
    pip: tuple[str, ...] = ("-m", "pip")
    newest: bool = False

    @property
    def destination(self) -> tuple[str, ...]:
        return () if self.packages is None else ("--target", str(self.packages))


@dataclass(frozen=True)
class _SetUp:
    """One run of a set-up.

    Each run installs into a new folder within `folder`: what an earlier one left, or still does after its parent was
    killed, cannot get in its way.
    """

    folder: Path
    build: TorchBuild
    requirements: Requirements
    options: tuple[str, ...]
    python: str
    log: IO[str]
    on_line: OnLine
    confirm: Callable[[Plan], bool]
    attempt: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attempt", self.folder / f"environment-{secrets.token_hex(3)}")

    def run(self) -> BackendEnvironment:
        present = self._present()
        if present is not None and self._fits(present):
            self.on_line(f"The backend in {self.folder} is complete already.")
            return present
        self._remove_leftovers(keep=present)
        self.attempt.mkdir()
        try:
            environment = self._make(present)
            environment.write()
        except BaseException:
            _remove(self.attempt)
            raise
        self._remove_leftovers(keep=environment)
        for leftover in (self.attempt / "pip", self.folder / "cache", self.folder / "temporary"):
            _remove(leftover)
        return environment

    def _present(self) -> BackendEnvironment | None:
        try:
            return BackendEnvironment.read(self.folder)
        except SVDRRError:
            return None

    def _fits(self, present: BackendEnvironment) -> bool:
        return present.torch_build == self.build.name and present.requirements == self._wanted()

    def _wanted(self) -> tuple[str, ...]:
        return (f"torch=={self.requirements.torch}", *self.requirements.beside_torch(self.build))

    def _remove_leftovers(self, keep: BackendEnvironment | None) -> None:
        for entry in self.folder.glob("environment-*"):
            if keep is None or not (keep.packages or keep.python).is_relative_to(entry):
                _remove(entry)

    def _make(self, present: BackendEnvironment | None) -> BackendEnvironment:
        self.on_line("Preparing the environment and asking which packages it needs.")
        place = self._with_newest_pip(self._place())
        source, torch = self._find_torch(place)
        packages = self._resolve(place, source)
        plan = self._plan(place, torch, packages)
        self._ask(plan, nothing_before=present is None)
        self._install(place, source, packages, plan.download_bytes)
        environment = BackendEnvironment(
            self.folder, place.kind, place.python, place.packages, torch.version, self.build.name, self._wanted()
        )
        self._check(environment)
        return environment

    def _place(self) -> _Place:
        """A venv if one can be made that works, else a folder for pip's --target; both are found by trying."""
        venv = self.attempt / "venv"
        python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        made = self._run([self.python, "-m", "venv", str(venv)])[0] == 0
        if made and self._run([str(python), "-c", "import pip, ssl"])[0] == 0:
            return _Place("venv", python, None)
        _remove(venv)
        code, lines = self._run([self.python, "-m", "pip", "--version"])
        if code != 0:
            raise SVDRRError(f"{self.python} can neither make a venv nor run pip ({_reason(lines)}); name another one.")
        interpreter = Path(shutil.which(self.python) or self.python).absolute()
        return _Place("target", interpreter, self.attempt / "packages")

    def _with_newest_pip(self, place: _Place) -> _Place:
        """`place` with a pip that plans without fetching whole packages, where one can be fetched (2 MB).

        It goes into a folder of its own, because the interpreter's pip may be Slicer's.
        """
        if "--no-index" in self.options:
            return place
        folder = self.attempt / "pip"
        code, _ = self._pip(place, "install", "--target", str(folder), "--no-deps", *_INDEX_PATIENCE, "pip")
        return place if code != 0 else replace(place, pip=(str(folder / "pip"),), newest=True)

    def _find_torch(self, place: _Place) -> tuple[_Source, _Package]:
        """The first source that has the build of torch, in the right version for this interpreter."""
        lines: list[str] = []
        for source in self._torch_sources():
            code, said, packages = self._dry_run(place, source, "--no-deps", *_INDEX_PATIENCE, source.torch)
            if code == 0:
                # torch came from elsewhere; asking an index in vain for each of its companions would take minutes.
                return (replace(source, options=self.options) if _unreachable(said) else source), packages[0]
            lines += said
        raise self._pip_error(f"torch {self.requirements.torch} ({self.build.name}) was not found", lines)

    def _torch_sources(self) -> list[_Source]:
        version, build = self.requirements.torch, self.build.name
        of_torch = () if self.options else ("--extra-index-url", f"{_TORCH_INDEX}/{build}")
        sources = [_Source(f"torch=={version}+{build}", (*self.options, *of_torch))]
        if build == "cpu":
            # Any build computes on the CPU.
            sources.append(_Source(f"torch=={version}", self.options))
        elif build == "cu130" and sys.platform == "linux":
            # That is what general indexes hold for Linux; "===" because "==" would take a "+cpu" as well.
            sources.append(_Source(f"torch==={version}", self.options))
        return sources

    def _resolve(self, place: _Place, source: _Source) -> list[_Package]:
        wanted = (source.torch, *self.requirements.beside_torch(self.build))
        code, lines, packages = self._dry_run(place, source, *wanted)
        if code != 0:
            raise self._pip_error("The packages of the backend were not found", lines)
        return packages

    def _dry_run(self, place: _Place, source: _Source, *arguments: str) -> tuple[int, list[str], list[_Package]]:
        report = self.attempt / "report.json"
        code, lines = self._pip(
            place,
            *("install", "--dry-run", "--ignore-installed", "--report", str(report)),
            # Wheels only: they have a size, and run no code of theirs on being installed.
            *("--only-binary", ":all:"),
            # Reads what a wheel needs without fetching all of it; older ones then fetch it nevertheless.
            *(("--use-feature", "fast-deps") if place.newest else ()),
            *source.options,
            *arguments,
        )
        if code != 0:
            return code, lines, []
        installs = json.loads(report.read_text(encoding="utf-8"))["install"]
        return code, lines, [_package(entry) for entry in installs]

    def _plan(self, place: _Place, torch: _Package, packages: list[_Package]) -> Plan:
        with ThreadPoolExecutor(_SIZE_THREADS) as threads:
            sizes = list(threads.map(_size_bytes, [package.url for package in packages]))
        known = [size for size in sizes if size is not None]
        free = shutil.disk_usage(self.folder).free
        needed = _DISK_PER_DOWNLOAD * sum(known)
        if needed > free:
            raise SVDRRError(
                f"The backend needs about {_gigabytes(needed)} GB on the disk of {self.folder}, "
                f"and {_gigabytes(free)} GB are free; free some or choose another folder."
            )
        return Plan(
            folder=self.folder,
            kind=place.kind,
            torch=torch.version,
            reason=self.build.reason,
            packages=len(packages),
            download_bytes=sum(known),
            of_unknown_size=len(sizes) - len(known),
            free_bytes=free,
        )

    def _ask(self, plan: Plan, nothing_before: bool) -> None:
        sentence = "The backend was not set up: nothing was installed."
        try:
            if self.confirm(plan):
                return
        except (SVDRRError, KeyboardInterrupt) as error:
            sentence = str(error) or sentence
        raise (_DeclinedError if nothing_before else SVDRRError)(sentence)

    def _install(self, place: _Place, source: _Source, packages: list[_Package], total_bytes: int) -> None:
        """Install exactly what the plan lists; torch by its exact requirement, so that no other build slips in."""
        pinned = [source.torch if p.name == "torch" else f"{p.name}=={p.version}" for p in packages]
        listed = self.attempt / "packages.txt"
        listed.write_text("\n".join(pinned), encoding="utf-8")
        progress = _Progress(total_bytes, self.on_line)
        bar = "raw" if place.newest else "off"  # Older ones have none that a program can read.
        self.on_line(f"Installing {len(packages)} packages.")
        code, lines = self._pip(
            place,
            *("install", "--no-deps", "--only-binary", ":all:", "--progress-bar", bar),
            *place.destination,
            *source.options,
            *("--requirement", str(listed)),
            read=progress.read,
        )
        if code != 0:
            raise self._pip_error("Installing the backend failed", lines)

    def _check(self, environment: BackendEnvironment) -> None:
        """Start the environment once: libraries that torch misses on this computer show now and not in a job."""
        self.on_line("Checking that torch loads.")
        code, lines = self._run(environment.script("import svdrr, torch"), environment.environment(os.environ))
        if code != 0:
            raise SVDRRError(f"The backend is installed but torch does not load: {_reason(lines)}. {self._see_log()}")

    def _pip(self, place: _Place, *arguments: str, read: OnLine | None = None) -> tuple[int, list[str]]:
        temporary = self.folder / "temporary"
        temporary.mkdir(exist_ok=True)
        environment = {
            **clean_environment(os.environ),
            # All of it on the disk that has been found large enough, and gone with the folder.
            "PIP_CACHE_DIR": str(self.folder / "cache"),
            **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary)),
            # A user's settings for other environments would lead the packages elsewhere.
            "PIP_USER": "0",
            "PIP_REQUIRE_VIRTUALENV": "0",
            "PIP_NO_INPUT": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONNOUSERSITE": "1",
        }
        for name in ("PIP_TARGET", "PIP_PREFIX"):
            environment.pop(name, None)
        return self._run([str(place.python), *place.pip, *arguments], environment, read)

    def _run(
        self, command: list[str], environment: dict[str, str] | None = None, read: OnLine | None = None
    ) -> tuple[int, list[str]]:
        """(exit status, lines of output); the output goes to the log, and line by line to `read`."""
        self.log.write(f"$ {' '.join(command)}\n")
        lines: list[str] = []
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**(environment or clean_environment(os.environ)), "PYTHONUTF8": "1"},
            encoding="utf-8",
            errors="replace",
        ) as process:
            try:
                for line in process.stdout or ():
                    if read is not None:
                        read(line)
                    if not line.startswith("Progress "):
                        self.log.write(line)
                        self.log.flush()
                        lines.append(line.strip())
            except BaseException:
                process.kill()
                raise
        return process.returncode, lines

    def _pip_error(self, what: str, lines: list[str]) -> SVDRRError:
        hint = " An index cannot be reached; a folder of wheels works without." * _unreachable(lines)
        return SVDRRError(f"{what}: {_reason(lines)}.{hint} {self._see_log()}")

    def _see_log(self) -> str:
        return f"The details are in {self.folder / LOG_FILE}."


class _Progress:
    """Turns pip's "Progress 12 of 34" (bytes of the present file) into a sentence now and then."""

    _STEP = 0.05

    def __init__(self, total_bytes: int, on_line: OnLine) -> None:
        self._total = total_bytes
        self._on_line = on_line
        self._before = 0
        self._file = 0
        self._told = 0.0
        self._since = time.monotonic()

    def read(self, line: str) -> None:
        if line.startswith("Installing collected packages"):
            self._on_line("Everything is here; unpacking it.")
        match = re.fullmatch(r"Progress (\d+) of (\d+)\s*", line)
        if match is None:
            self._before += self._file
            self._file = 0
            return
        self._file = int(match[1])
        done = self._before + self._file
        if self._total and done / self._total >= self._told + self._STEP:
            self._told = done / self._total
            seconds = (time.monotonic() - self._since) * (self._total - done) / done
            self._on_line(f"{_gigabytes(done)} of {_gigabytes(self._total)} GB are here, {_minutes(seconds)} left.")


def _pip_sources(wheels: Path | None, index: str | None) -> tuple[str, ...]:
    if wheels is not None:
        return ("--no-index", "--find-links", str(Path(wheels).absolute()))
    return () if index is None else ("--index-url", index)


def _claim(folder: Path) -> None:
    """Make `folder` ours; SVDRRError if it is someone else's or cannot be written."""
    if folder.exists() and not folder.is_dir():
        raise SVDRRError(f"{folder} is a file; name a folder for the backend.")
    if os.pathsep in str(folder):
        raise SVDRRError(f"Python cannot use a folder with '{os.pathsep}' in its path; choose another than {folder}.")
    try:
        if folder.is_dir() and any(folder.iterdir()) and not is_ours(folder):
            raise SVDRRError(f"{folder} holds other files; name a new or empty folder for the backend.")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / README_FILE).write_text(README, encoding="utf-8")
    except OSError as error:
        raise SVDRRError(f"The folder {folder} cannot be written ({error.strerror or error}).") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder for one set-up at a time; the system lets go of it however the process ends."""
    with (folder / "setup.lock").open("w") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SVDRRError(f"Another set-up is at work in {folder}; wait until it ends.") from None
        yield


def _package(entry: dict[str, Any]) -> _Package:
    metadata = entry["metadata"]
    return _Package(metadata["name"], metadata["version"], entry["download_info"]["url"])


def _size_bytes(url: str) -> int | None:
    """The size of a file, or None where it does not tell."""
    parts = urlsplit(url)
    try:
        if parts.scheme == "file":
            return Path(url2pathname(parts.path)).stat().st_size
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_SIZE_TIMEOUT_S) as answer:
            return int(answer.headers["Content-Length"])
    except (OSError, ValueError, TypeError):
        return None


def _reason(lines: list[str]) -> str:
    """The line that says why: pip's last error, or the last line of all."""
    errors = [line.partition("ERROR: ")[2] for line in lines if line.startswith("ERROR: ")]
    return ([line for line in errors or lines if line] or ["no reason given"])[-1].rstrip(".")


def _unreachable(lines: list[str]) -> bool:
    return any("connection broken" in line or "Could not fetch URL" in line for line in lines)


def _remove(folder: Path) -> None:
    # What a running process holds open on Windows stays until the next set-up.
    shutil.rmtree(folder, ignore_errors=True)


def _remove_contents(folder: Path) -> None:
    for entry in folder.iterdir():
        _remove(entry) if entry.is_dir() else entry.unlink()


def _gigabytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.2g}" if size_bytes < 1e10 else f"{size_bytes / 1e9:.0f}"


def _minutes(seconds: float) -> str:
    return "less than a minute" if seconds < 60 else f"about {seconds / 60:.0f} min"
