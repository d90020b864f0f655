"""The jobs of a backend: their state in SQLite, their arrays in files beside it, so that both outlive the server.

Several servers may share one folder on one computer; whichever is asked knows every job.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from svdrr.backend.jobs import EnhanceJob, Job, JobStatus, RenderJob, SynthesizeJob, job_to_json, view_count
from svdrr.errors import SVDRRError, counted

# A running job whose server has not been heard of for so long has lost it.
LOST_AFTER_S = 5.0
_MAX_ATTEMPTS = 2
_SPARE_BYTES = 200 * 2**20
# For how long one process waits for another to be done with the database.
_PATIENCE_S = 10.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    job TEXT NOT NULL,
    pixels_sha256 TEXT NOT NULL,
    pixels_bytes INTEGER NOT NULL,
    result_bytes INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued',
    stage TEXT NOT NULL DEFAULT 'Waiting',
    step INTEGER NOT NULL DEFAULT 0,
    steps INTEGER NOT NULL DEFAULT 0,
    eta_s REAL,
    views_done INTEGER NOT NULL DEFAULT 0,
    views_total INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT '',
    owner TEXT NOT NULL DEFAULT '',
    heard REAL NOT NULL DEFAULT 0,
    asked REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, number);
"""


class QueueFullError(SVDRRError):
    """As many jobs wait as may wait."""


class DiskFullError(SVDRRError):
    """No room for the job's pixels or its result."""


class UnknownPixelsError(SVDRRError):
    """A job names pixels that the store does not hold."""


@dataclass(frozen=True)
class Limits:
    """max_queued: jobs waiting. max_bytes: of all arrays. keep_s: for how long a job is kept that nobody asks for."""

    max_queued: int = 64
    max_bytes: int = 20 * 2**30
    keep_s: float = 3600.0


@dataclass(frozen=True)
class ClaimedJob:
    """A job for a worker: its JSON text, the file of its pixels, the folder of its results."""

    id: str
    job: str
    pixels: Path
    results: Path


class JobStore:
    """Jobs in `folder`, which it makes, for this user only. Safe to use from several threads and processes.

    changed: called with a job's id, from any thread, after each change that this process made to it.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.limits = limits
        self.changed: Callable[[str], None] = lambda job_id: None
        self._inputs, self._results = folder / "inputs", folder / "results"
        try:
            for place in (folder, self._inputs, self._results):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SVDRRError(f"The folder for jobs {folder} cannot be made: {error.strerror}.") from None
        self._folder = folder
        # Readers never wait for a writer in this mode, if each has a connection of its own.
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._writer, self._reader = self._connect(), self._connect()
        self._writer.executescript(_SCHEMA)
        self._remove_strays()

    def close(self) -> None:
        """Closes the database; jobs stay."""
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()

    def add(self, job: Job, pixels: bytes | None) -> str:
        """The id of the new job. pixels: a .npy file, or None where `job` names those of an earlier job.

        Raises QueueFullError, DiskFullError, UnknownPixelsError.
        """
        job_id = secrets.token_hex(16)
        digest = hashlib.sha256(pixels).hexdigest() if pixels is not None else str(job.pixels_sha256)
        pixels_size = len(pixels) if pixels is not None else self._input_bytes(digest)
        result_size = _result_bytes(job, pixels_size)
        size = result_size + (pixels_size if pixels is not None else 0)
        if shutil.disk_usage(self._folder).free < size + _SPARE_BYTES:
            raise DiskFullError(f"The backend's disk has no room for this job, which needs {_gigabytes(size)}.")
        arriving = self._inputs / f".{job_id}"
        try:
            if pixels is not None:
                arriving.write_bytes(pixels)
            with self._transaction() as database:
                self._require_room(database, size)
                if pixels is not None:
                    os.replace(arriving, self._input(digest))
                elif not self._input(digest).is_file():
                    raise UnknownPixelsError("The backend does not hold these pixels any more; send them again.")
                database.execute(
                    "INSERT INTO jobs (id, kind, job, pixels_sha256, pixels_bytes, result_bytes, views_total, asked) "
                    "VALUES (?,?,?,?,?,?,?,?)",
                    (
                        *(job_id, job.kind, json.dumps(job_to_json(job)), digest, pixels_size, result_size),
                        *(view_count(job), time.time()),
                    ),
                )
        except (OSError, sqlite3.OperationalError) as error:
            raise DiskFullError(f"The backend cannot store this job ({error}).") from error
        finally:
            arriving.unlink(missing_ok=True)
        self.changed(job_id)
        return job_id

    def status(self, job_id: str) -> JobStatus | None:
        """The job as it stands; None where there is none of that id."""
        with self._reading:
            row = self._reader.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if row is None:
                return None
            before = 0
            if row["state"] == "queued":
                query = "SELECT COUNT(*) FROM jobs WHERE state = 'queued' AND number < ?"
                before = self._reader.execute(query, (row["number"],)).fetchone()[0]
        return JobStatus(
            id=row["id"],
            kind=row["kind"],
            state=row["state"],
            stage=row["stage"],
            step=row["step"],
            steps=row["steps"],
            eta_s=row["eta_s"],
            views_done=row["views_done"],
            views_total=row["views_total"],
            position=before,
            attempt=row["attempt"],
            message=row["message"],
        )

    def asked_for(self, job_id: str) -> None:
        """Notes that a client still wants the job."""
        now = time.time()
        # Not at every request: a write costs more than the read that brought us here.
        with suppress(sqlite3.OperationalError):  # A full disk must not keep a client from its result.
            self._write("UPDATE jobs SET asked = ? WHERE id = ? AND asked < ?", now, job_id, now - 1.0)

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state that any is in."""
        with self._reading:
            return dict(self._reader.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall())

    def results(self, job_id: str) -> Path:
        """The folder of the job's views: ``view_00000.npy``, ``.json``, ``.png`` and so on."""
        return self._results / job_id

    def delete(self, job_id: str) -> bool:
        """Cancels and forgets; whether there was such a job. A worker on it learns it by `progress`."""
        with self._transaction() as database:
            row = database.execute("DELETE FROM jobs WHERE id = ? RETURNING pixels_sha256", (job_id,)).fetchone()
            if row is None:
                return False
            digest = row["pixels_sha256"]
            if database.execute("SELECT 1 FROM jobs WHERE pixels_sha256 = ? LIMIT 1", (digest,)).fetchone() is None:
                self._input(digest).unlink(missing_ok=True)
        # A worker that is still at it loses the folder first: what it writes now must not be left behind.
        forgotten = self._results / f".{job_id}"
        with suppress(OSError):
            self.results(job_id).rename(forgotten)
        shutil.rmtree(forgotten, ignore_errors=True)
        self.changed(job_id)
        return True

    def claim(self, owner: str) -> ClaimedJob | None:
        """The next waiting job, now running on `owner`; None where none waits."""
        with self._reading:
            # Asked ten times a second, and a transaction would keep the other servers waiting.
            if self._reader.execute("SELECT 1 FROM jobs WHERE state = 'queued' LIMIT 1").fetchone() is None:
                return None
        with self._transaction() as database:
            row = database.execute(
                "UPDATE jobs SET state = 'running', stage = 'Starting', owner = ?, heard = ?, attempt = attempt + 1, "
                "step = 0, steps = 0, eta_s = NULL, views_done = 0 "
                "WHERE number = (SELECT number FROM jobs WHERE state = 'queued' ORDER BY number LIMIT 1) "
                "RETURNING id, job, pixels_sha256",
                (owner, time.time()),
            ).fetchone()
            if row is None:
                return None
            # Before anyone else can know that the job runs, and delete it.
            results = self.results(row["id"])
            shutil.rmtree(results, ignore_errors=True)
            results.mkdir(mode=0o700)
        self.changed(row["id"])
        return ClaimedJob(row["id"], row["job"], self._input(row["pixels_sha256"]), results)

    def still_running(self, job_id: str, owner: str) -> bool:
        """Notes that `owner` is at work; False if the job is not its own any more: cancelled, or taken for lost."""
        query = "UPDATE jobs SET heard = ? WHERE id = ? AND owner = ? AND state = 'running'"
        return self._write(query, time.time(), job_id, owner) == 1

    def progress(self, job_id: str, owner: str, stage: str, step: int, steps: int, eta_s: float | None) -> None:
        """Notes how far `owner` is."""
        query = "UPDATE jobs SET stage=?, step=?, steps=?, eta_s=?, heard=? WHERE id=? AND owner=? AND state='running'"
        self._write(query, stage, step, steps, eta_s, time.time(), job_id, owner)
        self.changed(job_id)

    def view_done(self, job_id: str, owner: str, count: int) -> None:
        """Notes that the first `count` views lie in the results' folder."""
        query = "UPDATE jobs SET views_done = ?, heard = ? WHERE id = ? AND owner = ? AND state = 'running'"
        self._write(query, count, time.time(), job_id, owner)
        self.changed(job_id)

    def finish(self, job_id: str, owner: str, failure: str = "") -> None:
        """Done, or failed for the reason given; what has ended stays as it is."""
        self._write(
            "UPDATE jobs SET state = ?, stage = ?, message = ?, eta_s = NULL "
            "WHERE id = ? AND owner = ? AND state = 'running'",
            *("failed" if failure else "done", "Failed" if failure else "Done", failure, job_id, owner),
        )
        self.changed(job_id)

    def give_back(self, job_id: str, owner: str, lost: str = "") -> None:
        """Puts the job back into the queue. lost: what befell the worker; a second time, that is why the job fails."""
        with self._transaction() as database:
            row = database.execute(
                "SELECT attempt FROM jobs WHERE id = ? AND owner = ? AND state = 'running'", (job_id, owner)
            ).fetchone()
            if row is None:
                return
            if lost and row["attempt"] >= _MAX_ATTEMPTS:
                query = "UPDATE jobs SET state = 'failed', stage = 'Failed', message = ?, eta_s = NULL WHERE id = ?"
                database.execute(query, (f"{lost} It happened twice with this job, so it was given up.", job_id))
            else:
                stage = "Waiting, after its worker was lost" if lost else "Waiting"
                database.execute(
                    "UPDATE jobs SET state = 'queued', stage = ?, attempt = attempt - ?, owner = '' WHERE id = ?",
                    (stage, 0 if lost else 1, job_id),
                )
        self.changed(job_id)

    def housekeeping(self) -> None:
        """Gives lost jobs back to the queue, and drops those that nobody has asked for in `Limits.keep_s`."""
        now = time.time()
        with self._reading:
            lost = self._reader.execute(
                "SELECT id, owner FROM jobs WHERE state = 'running' AND heard < ?", (now - LOST_AFTER_S,)
            ).fetchall()
            forgotten = self._reader.execute(
                "SELECT id FROM jobs WHERE asked < ?", (now - self.limits.keep_s,)
            ).fetchall()
        for row in lost:
            self.give_back(row["id"], row["owner"], "The server that worked on this job has gone.")
        for row in forgotten:
            self.delete(row["id"])

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(
            self._folder / "jobs.sqlite3", timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False
        )
        database.row_factory = sqlite3.Row
        _write_ahead(database)
        # A power cut may lose the last moments; a crash of the server loses nothing.
        database.execute("PRAGMA synchronous = NORMAL")
        return database

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                # SQLite has done so by itself after some errors, such as a full disk.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _write(self, query: str, *values: object) -> int:
        with self._writing:
            return self._writer.execute(query, values).rowcount

    def _require_room(self, database: sqlite3.Connection, size: int) -> None:
        waiting = database.execute("SELECT COUNT(*) FROM jobs WHERE state = 'queued'").fetchone()[0]
        if waiting >= self.limits.max_queued:
            raise QueueFullError(f"The backend is busy: {counted(waiting, 'job')} waiting already; try again later.")
        # Jobs with the same pixels share one file of them.
        taken = database.execute(
            "SELECT COALESCE(SUM(result_bytes), 0) + (SELECT COALESCE(SUM(size), 0) FROM "
            "(SELECT MAX(pixels_bytes) AS size FROM jobs GROUP BY pixels_sha256)) FROM jobs"
        ).fetchone()[0]
        if taken + size > self.limits.max_bytes:
            raise DiskFullError(
                f"This job needs {_gigabytes(size)}, and of the {_gigabytes(self.limits.max_bytes)} that the backend "
                f"may fill, {_gigabytes(taken)} are taken by jobs; fetch and forget some, or ask for less."
            )

    def _input_bytes(self, digest: str) -> int:
        try:
            return self._input(digest).stat().st_size
        except FileNotFoundError:
            return 0

    def _input(self, digest: str) -> Path:
        return self._inputs / f"{digest}.npy"

    def _remove_strays(self) -> None:
        """Arrays without a job, from a server that was killed between file and database."""
        an_hour_ago = time.time() - 3600.0
        with self._reading:
            rows = self._reader.execute("SELECT id, pixels_sha256 FROM jobs").fetchall()
        known = {row["id"] for row in rows} | {f"{row['pixels_sha256']}.npy" for row in rows}
        for path in (*self._inputs.iterdir(), *self._results.iterdir()):
            with suppress(FileNotFoundError):  # Another server may be at work here.
                if path.name not in known and path.stat().st_mtime < an_hour_ago:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write_ahead(database: sqlite3.Connection) -> None:
    """Into this mode SQLite does not wait its turn by itself, as where several processes open a new file at once."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def _result_bytes(job: Job, pixels_size: int) -> int:
    """About what the job's result takes: float32 values and a little beside them."""
    if isinstance(job, RenderJob):
        return len(job.poses) * (4 * job.detector.rows * job.detector.columns + 20_000)
    if isinstance(job, SynthesizeJob):
        return len(job.poses) * (4 * 1024 * 1024 + 20_000)
    scale = job.scale if isinstance(job, EnhanceJob) else 1
    return view_count(job) * (pixels_size * scale * scale + 20_000)


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.2g} GiB"
