"""The store of jobs: exclusive claims, lost workers, expiry, limits, and nothing left behind."""

from __future__ import annotations

import hashlib
import multiprocessing
import resource
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from svdrr.backend.arrays import to_npy
from svdrr.backend.jobs import EchoJob, EnhanceJob, RenderJob
from svdrr.backend.store import (
    LOST_AFTER_S,
    DiskFullError,
    JobStore,
    Limits,
    QueueFullError,
    UnknownPixelsError,
)
from svdrr.backend.validation import read_job
from svdrr.geometry import CArmPose, Detector

EYE = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
NOBODY = "0" * 32


def npy(value: float = 0.0, side: int = 16) -> bytes:
    return to_npy(np.full((side, side), value, np.float32))


def digest(pixels: bytes) -> str:
    return hashlib.sha256(pixels).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    with closing(JobStore(tmp_path / "spool", Limits())) as opened:
        yield opened


@dataclass
class Clock:
    """What the store takes for the time."""

    now: float = 1_000_000.0

    def time(self) -> float:
        return self.now

    def module(self) -> SimpleNamespace:
        """In the place of `time`: the hour is the clock's, waiting is real."""
        return SimpleNamespace(time=self.time, monotonic=time.monotonic, sleep=time.sleep)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("svdrr.backend.store.time", clock.module())
    return clock


def all_claims(store: JobStore, owner: str) -> list[str]:
    """The ids of all waiting jobs, now running on `owner`; of no more than a test adds."""
    return [claimed.id for claimed in islice(iter(lambda: store.claim(owner), None), 200)]


def inputs(store: JobStore) -> set[str]:
    return {path.name for path in store._inputs.iterdir()}


def test_a_job_from_its_beginning_to_its_end(store: JobStore) -> None:
    changed: list[str] = []
    store.changed = changed.append
    job = RenderJob(EYE, tuple(CArmPose(5.0 * index) for index in range(3)), Detector.square(16, 100.0))
    job_id = store.add(job, npy())
    status = store.status(job_id)
    assert status is not None
    assert (status.id, status.kind, status.state, status.attempt) == (job_id, "render", "queued", 0)
    assert (status.views_done, status.views_total, status.position) == (0, 3, 0)

    claimed = store.claim("here")
    assert claimed is not None
    assert claimed.id == job_id
    assert read_job(claimed.job) == job
    assert claimed.pixels.read_bytes() == npy()
    assert claimed.results.is_dir()

    store.progress(job_id, "here", "Rendering", 1, 3, 2.5)
    store.view_done(job_id, "here", 1)
    status = store.status(job_id)
    assert status is not None
    assert (status.state, status.stage, status.step, status.steps) == ("running", "Rendering", 1, 3)
    assert (status.eta_s, status.views_done, status.attempt) == (2.5, 1, 1)

    store.finish(job_id, "here")
    status = store.status(job_id)
    assert status is not None
    assert status.finished
    assert (status.state, status.eta_s, status.message) == ("done", None, "")
    assert store.counts() == {"done": 1}
    assert changed == [job_id] * 5
    assert store.delete(job_id)
    assert not store.delete(job_id)
    assert store.status(job_id) is None
    assert not claimed.results.exists()


def test_jobs_are_done_in_the_order_they_came_in(store: JobStore) -> None:
    ids = [store.add(EchoJob(), npy(0.1 * index)) for index in range(4)]
    positions = [store.status(job_id).position for job_id in ids]  # type: ignore[union-attr]
    assert positions == [0, 1, 2, 3]
    store.delete(ids[1])
    assert all_claims(store, "here") == [ids[0], ids[2], ids[3]]


def test_only_the_owner_of_a_running_job_changes_it(store: JobStore) -> None:
    job_id = store.add(EchoJob(), npy())
    store.claim("here")
    before = store.status(job_id)
    store.progress(job_id, "elsewhere", "Nonsense", 9, 9, 9.0)
    store.view_done(job_id, "elsewhere", 1)
    store.finish(job_id, "elsewhere")
    store.give_back(job_id, "elsewhere", "It burned down.")
    assert store.status(job_id) == before
    assert not store.still_running(job_id, "elsewhere")
    assert store.still_running(job_id, "here")
    store.delete(job_id)
    assert not store.still_running(job_id, "here")


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    with closing(JobStore(tmp_path, Limits())) as store:
        done, waiting = store.add(EchoJob(), npy(0.1)), store.add(EchoJob(), npy(0.2))
        claimed = store.claim("here")
        assert claimed is not None
        (claimed.results / "view_00000.npy").write_bytes(b"pixels")
        store.finish(done, "here")
        before = [store.status(done), store.status(waiting)]
    with closing(JobStore(tmp_path, Limits())) as store:
        assert [store.status(done), store.status(waiting)] == before
        assert (store.results(done) / "view_00000.npy").read_bytes() == b"pixels"
        claimed = store.claim("here")
        assert claimed is not None
        assert claimed.id == waiting
        assert claimed.pixels.read_bytes() == npy(0.2)


def test_folders_are_for_this_user_alone(store: JobStore) -> None:
    store.add(EchoJob(), npy())
    claimed = store.claim("here")
    assert claimed is not None
    for folder in (store._folder, claimed.results, claimed.pixels.parent):
        assert folder.stat().st_mode & 0o077 == 0


def test_one_job_is_claimed_once_among_threads(tmp_path: Path) -> None:
    with closing(JobStore(tmp_path, Limits(200))) as one, closing(JobStore(tmp_path, Limits(200))) as other:
        ids = [one.add(EchoJob(), npy(index / 100)) for index in range(100)]

        def claim_all(store: JobStore) -> list[str]:
            return all_claims(store, threading.current_thread().name)

        with ThreadPoolExecutor(8) as threads:
            claimed = [job_id for found in threads.map(claim_all, [one, other] * 4) for job_id in found]
        assert sorted(claimed) == sorted(ids)


def _add_and_claim(folder: Path) -> tuple[list[str], list[str]]:
    """In a process of its own: what it added, and what it claimed."""
    with closing(JobStore(folder, Limits(500))) as store:
        added = [store.add(EchoJob(), npy(index / 100)) for index in range(40)]
        return added, all_claims(store, folder.name)


def test_one_job_is_claimed_once_among_processes_that_start_together(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        found = list(processes.map(_add_and_claim, [tmp_path / "spool"] * 2, timeout=120.0))
    added = [job_id for ids, _ in found for job_id in ids]
    claimed = Counter(job_id for _, ids in found for job_id in ids)
    assert claimed == Counter(added)


def test_many_open_the_same_new_folder_at_once(tmp_path: Path) -> None:
    gate = threading.Barrier(8)

    def open_it(number: int) -> str:
        gate.wait(20.0)
        with closing(JobStore(tmp_path / f"spool-{number // 8}", Limits())) as store:
            return store.add(EchoJob(), npy())

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(open_it, range(80)))) == 80


def test_a_job_whose_server_has_gone_is_given_to_another_once(tmp_path: Path, clock: Clock) -> None:
    with closing(JobStore(tmp_path, Limits())) as store:
        job_id = store.add(EchoJob(), npy())
        store.claim("first")
        store.view_done(job_id, "first", 1)
        clock.now += LOST_AFTER_S - 0.1
        store.housekeeping()
        assert store.still_running(job_id, "first")

        clock.now += LOST_AFTER_S + 0.1
        store.housekeeping()
        status = store.status(job_id)
        assert status is not None
        assert (status.state, status.attempt) == ("queued", 1)
        assert not store.still_running(job_id, "first")
        claimed = store.claim("second")
        assert claimed is not None
        assert claimed.id == job_id
        status = store.status(job_id)
        assert status is not None
        assert (status.state, status.attempt, status.views_done) == ("running", 2, 0)

        clock.now += LOST_AFTER_S + 0.1
        store.housekeeping()
        status = store.status(job_id)
        assert status is not None
        assert status.state == "failed"
        assert "server that worked on this job has gone" in status.message
        assert "twice" in status.message


def test_a_server_that_ends_in_order_does_not_count(store: JobStore) -> None:
    job_id = store.add(EchoJob(), npy())
    for _ in range(5):
        assert store.claim("here") is not None
        store.give_back(job_id, "here")
    status = store.status(job_id)
    assert status is not None
    assert (status.state, status.attempt) == ("queued", 0)


def test_a_job_is_dropped_when_nobody_asks_for_it(tmp_path: Path, clock: Clock) -> None:
    with closing(JobStore(tmp_path, Limits(keep_s=60.0))) as store:
        left, followed = store.add(EchoJob(), npy(0.1)), store.add(EchoJob(), npy(0.2))
        for _ in range(3):
            clock.now += 29.0
            store.asked_for(followed)
            store.housekeeping()
        assert store.status(left) is None
        assert store.status(followed) is not None
        assert inputs(store) == {f"{digest(npy(0.2))}.npy"}


def test_pixels_go_with_the_last_job_that_needs_them(store: JobStore) -> None:
    first = store.add(EchoJob(), npy())
    second = store.add(EchoJob(pixels_sha256=digest(npy())), None)
    third = store.add(EchoJob(), npy())
    for job_id in (first, third):
        store.delete(job_id)
        assert inputs(store) == {f"{digest(npy())}.npy"}
    assert store.claim("here").id == second  # type: ignore[union-attr]
    store.delete(second)
    assert inputs(store) == set()
    with pytest.raises(UnknownPixelsError):
        store.add(EchoJob(pixels_sha256=digest(npy())), None)
    assert store.counts() == {}


def test_what_a_killed_server_left_is_removed_after_an_hour(tmp_path: Path, clock: Clock) -> None:
    clock.now = time.time()
    with closing(JobStore(tmp_path, Limits(keep_s=1e9))) as store:
        job_id = store.add(EchoJob(), npy())
        assert store.claim("here") is not None
        (tmp_path / "inputs" / f".{NOBODY}").write_bytes(b"half a file")
        (tmp_path / "results" / NOBODY).mkdir()
        (tmp_path / "results" / NOBODY / "view_00000.npy").write_bytes(b"pixels")
    JobStore(tmp_path, Limits(keep_s=1e9)).close()
    assert (tmp_path / "inputs" / f".{NOBODY}").exists()
    clock.now += 3700.0
    with closing(JobStore(tmp_path, Limits(keep_s=1e9))) as store:
        assert inputs(store) == {f"{digest(npy())}.npy"}
        assert [path.name for path in (tmp_path / "results").iterdir()] == [job_id]


def test_as_many_wait_as_may_wait(tmp_path: Path) -> None:
    with closing(JobStore(tmp_path, Limits(max_queued=2))) as store:
        first = store.add(EchoJob(), npy(0.1))
        store.add(EchoJob(), npy(0.2))
        with pytest.raises(QueueFullError, match="2 jobs waiting"):
            store.add(EchoJob(), npy(0.3))
        assert len(inputs(store)) == 2
        assert store.claim("here").id == first  # type: ignore[union-attr]
        store.add(EchoJob(), npy(0.3))


def test_jobs_fill_so_much_of_the_disk_and_no_more(tmp_path: Path) -> None:
    pixels = npy(side=256)
    with closing(JobStore(tmp_path, Limits(max_bytes=20 * len(pixels)))) as store:
        store.add(EnhanceJob("lanczos", 4), pixels)
        # Sixteen times as many bytes out as in; those that are here already count as much.
        with pytest.raises(DiskFullError, match="GiB"):
            store.add(EnhanceJob("lanczos", 4, pixels_sha256=digest(pixels)), None)
        by_name = store.add(EchoJob(pixels_sha256=digest(pixels)), None)
        store.delete(by_name)
        with pytest.raises(DiskFullError):
            store.add(RenderJob(EYE, (CArmPose(),) * 4, Detector.square(256, 100.0)), npy())
        assert store.counts() == {"queued": 1}


def test_shared_pixels_count_once_and_until_the_last_job(tmp_path: Path) -> None:
    pixels = npy(side=256)
    with closing(JobStore(tmp_path, Limits(max_bytes=5 * len(pixels)))) as store:
        first = store.add(EchoJob(), pixels)
        store.add(EchoJob(pixels_sha256=digest(pixels)), None)
        store.add(EchoJob(pixels_sha256=digest(pixels)), None)
        with pytest.raises(DiskFullError):
            store.add(EchoJob(), npy(0.5, side=256))
        store.delete(first)  # a result's worth, and not the pixels
        with pytest.raises(DiskFullError):
            store.add(EchoJob(), npy(0.5, side=256))


def test_a_full_disk_is_said_before_anything_is_written(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10_000_000))
    with pytest.raises(DiskFullError, match="disk has no room"):
        store.add(EchoJob(), npy())
    assert inputs(store) == set()


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """Simulates a full disk: the operating system refuses to write files of this process beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_while_pixels_are_written(store: JobStore) -> None:
    with files_no_longer_than(100_000), pytest.raises(DiskFullError, match="cannot store"):
        store.add(EchoJob(), npy(side=256))
    assert inputs(store) == set()
    assert store.counts() == {}
    store.add(EchoJob(), npy(side=256))


def test_a_disk_that_fills_up_while_the_database_is_written(store: JobStore) -> None:
    job_id = store.add(EchoJob(), npy(0.1))
    used = (store._folder / "jobs.sqlite3-wal").stat().st_size
    with files_no_longer_than(used):
        with pytest.raises(DiskFullError):
            store.add(EchoJob(), npy(0.2))
        with pytest.raises(sqlite3.OperationalError):
            store.delete(job_id)
        with pytest.raises(sqlite3.OperationalError):
            store.claim("here")
        store.asked_for(job_id)
        assert store.status(job_id) is not None
    # Room again: everything goes on.
    assert store.counts() == {"queued": 1}
    assert store.claim("here") is not None
    assert store.delete(job_id)


def test_a_worker_that_writes_on_leaves_nothing_behind(store: JobStore) -> None:
    """A cancelled job's worker may be in the middle of a view."""
    for _ in range(20):
        job_id = store.add(EchoJob(), npy())
        claimed = store.claim("here")
        assert claimed is not None
        results, begun = claimed.results, threading.Event()

        def write(folder: Path, begun: threading.Event) -> None:
            for index in range(10_000):
                try:
                    (folder / f"view_{index:05d}.npy").write_bytes(b"pixels of a patient")
                except OSError:
                    return
                if index == 20:
                    begun.set()

        writer = threading.Thread(target=write, args=(results, begun))
        writer.start()
        assert begun.wait(20.0)
        store.delete(job_id)
        writer.join(20.0)
        assert list(results.parent.iterdir()) == []


@dataclass
class _Known:
    """What the model knows of a job."""

    pixels: int
    state: str = "queued"
    owner: str = ""
    attempt: int = 0
    heard: float = 0.0
    asked: float = 0.0
    order: int = field(default=0)


class StoreMachine(RuleBasedStateMachine):
    """Two stores on one folder, used in turn in any order, against a model in plain Python."""

    jobs = Bundle("jobs")
    KEEP_S = 100.0

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.clock = Clock()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("svdrr.backend.store.time", self.clock.module())
        limits = Limits(max_queued=4, keep_s=self.KEEP_S)
        self.stores = [JobStore(Path(self.folder.name), limits) for _ in range(2)]
        self.known: dict[str, _Known] = {}
        self.added = 0

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self.patch.undo()
        self.folder.cleanup()

    @rule(target=jobs, which=st.integers(0, 1), pixels=st.integers(0, 2), by_name=st.booleans())
    def add(self, which: int, pixels: int, by_name: bool) -> str:
        data = npy(pixels / 10)
        held = any(job.pixels == pixels for job in self.known.values())
        full = sum(job.state == "queued" for job in self.known.values()) >= 4
        try:
            job = EchoJob(pixels_sha256=digest(data)) if by_name else EchoJob()
            job_id = self.stores[which].add(job, None if by_name else data)
        except QueueFullError:
            assert full
            return NOBODY
        except UnknownPixelsError:
            assert by_name
            assert not held
            return NOBODY
        assert not full
        assert held or not by_name
        self.added += 1
        self.known[job_id] = _Known(pixels, asked=self.clock.now, order=self.added)
        return job_id

    @rule(which=st.integers(0, 1))
    def claim(self, which: int) -> None:
        claimed = self.stores[which].claim(f"worker-{which}")
        waiting = [job_id for job_id, job in self.known.items() if job.state == "queued"]
        if claimed is None:
            assert not waiting
            return
        assert claimed.id == min(waiting, key=lambda job_id: self.known[job_id].order)
        assert claimed.pixels.is_file()
        job = self.known[claimed.id]
        job.state, job.owner, job.attempt, job.heard = "running", f"worker-{which}", job.attempt + 1, self.clock.now

    @rule(job_id=jobs, which=st.integers(0, 1))
    def beat(self, job_id: str, which: int) -> None:
        job = self.known.get(job_id)
        own = job is not None and (job.state, job.owner) == ("running", f"worker-{which}")
        assert self.stores[which].still_running(job_id, f"worker-{which}") == own
        if job is not None and own:
            job.heard = self.clock.now

    @rule(job_id=jobs, which=st.integers(0, 1), failure=st.sampled_from(["", "It did not work."]))
    def finish(self, job_id: str, which: int, failure: str) -> None:
        job = self.known.get(job_id)
        self.stores[which].finish(job_id, f"worker-{which}", failure)
        if job is not None and (job.state, job.owner) == ("running", f"worker-{which}"):
            job.state = "failed" if failure else "done"

    @rule(job_id=jobs, which=st.integers(0, 1), lost=st.sampled_from(["", "Its worker ended."]))
    def give_back(self, job_id: str, which: int, lost: str) -> None:
        self.stores[which].give_back(job_id, f"worker-{which}", lost)
        job = self.known.get(job_id)
        if job is not None and (job.state, job.owner) == ("running", f"worker-{which}"):
            self._lose(job) if lost else self._hand_back(job)

    @rule(job_id=jobs, which=st.integers(0, 1))
    def ask(self, job_id: str, which: int) -> None:
        self.stores[which].asked_for(job_id)
        job = self.known.get(job_id)
        if job is not None and job.asked < self.clock.now - 1.0:
            job.asked = self.clock.now

    @rule(job_id=consumes(jobs), which=st.integers(0, 1))
    def delete(self, job_id: str, which: int) -> None:
        assert self.stores[which].delete(job_id) == (job_id in self.known)
        self.known.pop(job_id, None)

    @rule(which=st.integers(0, 1), seconds=st.sampled_from([0.5, 3.0, 6.0, 60.0]))
    def time_passes(self, which: int, seconds: float) -> None:
        self.clock.now += seconds
        self.stores[which].housekeeping()
        for job in self.known.values():
            if job.state == "running" and job.heard < self.clock.now - LOST_AFTER_S:
                self._lose(job)
        self.known = {i: job for i, job in self.known.items() if job.asked >= self.clock.now - self.KEEP_S}

    @staticmethod
    def _lose(job: _Known) -> None:
        job.state, job.owner = ("failed", job.owner) if job.attempt >= 2 else ("queued", "")

    @staticmethod
    def _hand_back(job: _Known) -> None:
        job.state, job.owner, job.attempt = "queued", "", job.attempt - 1

    @invariant()
    def agrees(self) -> None:
        for store in self.stores:
            for job_id, job in self.known.items():
                status = store.status(job_id)
                assert status is not None
                assert (status.state, status.attempt) == (job.state, job.attempt)
            assert store.counts() == Counter(job.state for job in self.known.values())
        assert inputs(self.stores[0]) == {f"{digest(npy(job.pixels / 10))}.npy" for job in self.known.values()}
        assert {path.name for path in self.stores[0]._results.iterdir()} <= set(self.known)


StoreMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestStoreAgainstAModel = StoreMachine.TestCase
