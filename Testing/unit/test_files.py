"""Outputs appear whole or not at all; the disk's refusals here are real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from svdrr.errors import SVDRRError
from svdrr.files import require_other_file, whole_directory, whole_file

# A process that may write only 64 kB to a file: the kernel then refuses as it does when a disk is full.
LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"


def run_limited(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LIMITED + code], capture_output=True, text=True, timeout=60)


def test_file_appears_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "scan.1.nii.gz"
    with whole_file(path) as temporary:
        assert temporary.name.endswith(".nii.gz")
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_failing_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), whole_file(path) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise KeyError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(SVDRRError, match="nowhere does not exist"),
        whole_file(tmp_path / "nowhere" / "a.png"),
    ):
        pytest.fail("the block must not run")


def test_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(SVDRRError, match="Is a directory"), whole_file(tmp_path / "a.png"):
        pytest.fail("the block must not run")


@contextmanager
def nobody() -> Iterator[None]:
    """Root may write everywhere, so someone else tries."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with nobody(), pytest.raises(SVDRRError, match="Permission denied"), whole_file(tmp_path / "a.png"):
        pytest.fail("the block must not run")


def test_read_only_folder_in_one_that_is_not(tmp_path: Path) -> None:
    """Found before the work, not after it."""
    path = tmp_path / "views"
    path.mkdir(mode=0o500)
    tmp_path.chmod(0o777)
    with nobody(), pytest.raises(SVDRRError, match="Permission denied"), whole_directory(path):
        pytest.fail("the block must not run")
    assert list(tmp_path.iterdir()) == [path]
    assert not list(path.iterdir())


def test_the_input_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"mine")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    for output, source in (("a.png", "a.png"), ("link.png", "a.png"), ("a.png", "link.png")):
        with pytest.raises(SVDRRError, match="is the input itself"):
            require_other_file(tmp_path / output, tmp_path / source)
    with pytest.raises(SVDRRError, match="is the input itself"):
        require_other_file(tmp_path / "." / ".." / tmp_path.name / "a.png", tmp_path / "a.png")
    require_other_file(tmp_path / "b.png", tmp_path / "a.png")
    require_other_file(tmp_path / "b.png", tmp_path / "b.png")  # There is nothing to lose.


def test_errors_of_the_network_pass(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError), whole_file(tmp_path / "a.png"):
        raise ConnectionRefusedError
    assert not list(tmp_path.iterdir())


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    done = run_limited(
        "from pathlib import Path\n"
        "from svdrr.errors import SVDRRError\n"
        "from svdrr.files import whole_file\n"
        "try:\n"
        f"    with whole_file(Path({str(tmp_path / 'a.bin')!r})) as temporary:\n"
        "        temporary.write_bytes(bytes(100_000))\n"
        "except SVDRRError as error:\n"
        "    print(error)\n"
    )
    assert done.stdout.strip() == f"Cannot write {tmp_path / 'a.bin'}: File too large; nothing was written."
    assert not list(tmp_path.iterdir())


def test_directory_appears_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "views"
    with whole_directory(path) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "0.png").write_bytes(b"0")
        assert not path.exists()
    assert (path / "deep" / "0.png").read_bytes() == b"0"
    assert list(tmp_path.iterdir()) == [path]


def test_directory_replaces_namesakes_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "views"
    path.mkdir()
    (path / "0.png").write_bytes(b"old")
    (path / "notes.txt").write_bytes(b"mine")
    with whole_directory(path) as temporary:
        (temporary / "0.png").write_bytes(b"new")
        (temporary / "1.png").write_bytes(b"new")
        assert (path / "0.png").read_bytes() == b"old"
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {
        "0.png": b"new",
        "1.png": b"new",
        "notes.txt": b"mine",
    }
    assert list(tmp_path.iterdir()) == [path]


def test_failing_block_leaves_the_directory_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "views"
    path.mkdir()
    (path / "0.png").write_bytes(b"old")
    with pytest.raises(KeyError), whole_directory(path) as temporary:  # noqa: PT012
        (temporary / "0.png").write_bytes(b"half")
        raise KeyError
    assert (path / "0.png").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_directory_that_would_overwrite_a_folder_by_a_file(tmp_path: Path) -> None:
    path = tmp_path / "views"
    (path / "0.png").mkdir(parents=True)
    with pytest.raises(SVDRRError, match=r"0\.png in it is a folder"), whole_directory(path) as temporary:  # noqa: PT012
        (temporary / "0.png").write_bytes(b"new")
        (temporary / "1.png").write_bytes(b"new")
    assert [file.name for file in path.iterdir()] == ["0.png"]


def test_file_in_the_way_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "views").write_bytes(b"mine")
    with pytest.raises(SVDRRError, match="Not a directory"), whole_directory(tmp_path / "views"):
        pytest.fail("the block must not run")
