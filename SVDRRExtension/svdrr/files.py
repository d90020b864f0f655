"""Outputs that appear whole or not at all: written beside their destination, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from svdrr.errors import SVDRRError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` with the same suffixes; it becomes `path` if the block succeeds.

    If the block or the disk fails, the temporary file goes and a file that was at `path` stays as it was.
    Raises SVDRRError with the reason if the file cannot be written (missing or read-only folder, full disk).
    """
    temporary = _sibling(path)
    with _write_errors(path):
        if path.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        # Created before the block runs, so that an unwritable folder is found before the work, not after it.
        temporary.touch(exist_ok=False)
        try:
            yield temporary
            _flush_to_disk(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling directory of `path`; it becomes `path` if the block succeeds.

    Where `path` is a directory already, the new files replace those of the same name, each by one rename
    and only after all have been written; other files in it stay. If the block or the disk fails, nothing at
    `path` has changed. Raises SVDRRError with the reason if the directory cannot be written, before the block runs
    where that shows by then.
    """
    temporary = _sibling(path)
    with _write_errors(path):
        if path.exists() and not path.is_dir():
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if path.is_dir():
            # Its own permissions need not be those of the folder that it is in.
            trial = path / temporary.name
            trial.touch(exist_ok=False)
            trial.unlink()
        temporary.mkdir()
        try:
            yield temporary
            _move_contents(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def require_other_file(output: Path, source: Path) -> None:
    """SVDRRError if writing `output` would replace `source`, whatever names or links the two are given by."""
    if os.path.exists(output) and os.path.exists(source) and os.path.samefile(output, source):
        raise SVDRRError(f"Cannot write {output}: it is the input itself; give the output another name.")


def _sibling(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(6)}{''.join(path.suffixes)}")


def _move_contents(source: Path, destination: Path) -> None:
    files = [file for file in source.rglob("*") if file.is_file()]
    for file in files:
        _flush_to_disk(file)
    if not destination.exists():
        os.replace(source, destination)
        return
    targets = [destination / file.relative_to(source) for file in files]
    for target in targets:
        if target.is_dir():
            raise OSError(errno.EISDIR, f"{target.name} in it is a folder")
        target.parent.mkdir(parents=True, exist_ok=True)
    for file, target in zip(files, targets, strict=True):
        os.replace(file, target)


def _flush_to_disk(file: Path) -> None:
    """Make a delayed 'disk full' show now, before the rename, and survive a power cut after it."""
    with file.open("r+b") as handle:
        os.fsync(handle.fileno())


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of writing `path` into one sentence; a network's errors are OSErrors too and pass."""
    try:
        if not path.parent.is_dir():
            raise SVDRRError(f"Cannot write {path}: the folder {path.parent} does not exist; create it first.")
        yield
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise SVDRRError(f"Cannot write {path}: {reason}; nothing was written.") from error
