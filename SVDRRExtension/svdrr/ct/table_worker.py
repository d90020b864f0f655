"""Finds the body of a CT in a process of its own: ``python -m svdrr.ct.table_worker FOLDER``.

For 3D Slicer, whose window must go on while this computes, and whose own Python has all that it needs.
FOLDER holds ``hu.npy``, float32 (k, j, i), and ``ijk_to_ras.npy``; ``body.npy``, bool (k, j, i), is added. Every line
of the output is JSON: ``{"stage": ..., "part": ...}``, or ``{"error": ...}``, after which the process ends with code 2.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import svdrr
from svdrr.ct.table import OnStage, body_mask
from svdrr.ct.volume import CTVolume
from svdrr.errors import SVDRRError
from svdrr.interpreter import python_executable

_HU, _IJK_TO_RAS, _BODY = "hu.npy", "ijk_to_ras.npy", "body.npy"
_LOOK_S = 0.1
_NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows only


def body_mask_elsewhere(ct: CTVolume, on_stage: OnStage) -> NDArray[np.bool_]:
    """`svdrr.ct.table.body_mask` in another process; waits for it. What `on_stage` raises ends the process.

    SVDRRError also if the process is killed, or if there is no room for its files in the temporary folder.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="svdrr-table-") as folder:
            return _body_mask_from(Path(folder), ct, on_stage)
    except OSError as error:
        needed = f"{ct.hu.nbytes // 2**20 + 1} MiB in {tempfile.gettempdir()}"
        raise SVDRRError(f"Table removal needs {needed}: {error.strerror or error}.") from None


def _body_mask_from(folder: Path, ct: CTVolume, on_stage: OnStage) -> NDArray[np.bool_]:
    np.save(folder / _HU, ct.hu)
    np.save(folder / _IJK_TO_RAS, ct.ijk_to_ras)
    library = str(Path(svdrr.__file__).parents[1])
    search = os.pathsep.join(filter(None, [library, os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen(
        [python_executable(), "-m", "svdrr.ct.table_worker", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": search},
        creationflags=_NO_WINDOW,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    try:
        last_words = _watch(process, on_stage)
    finally:
        process.kill()
        process.wait()
    if not (folder / _BODY).is_file():
        raise SVDRRError(f"Table removal ended early: {last_words or 'its process was killed'}.")
    return np.asarray(np.load(folder / _BODY))


def _watch(process: subprocess.Popen[str], on_stage: OnStage) -> str:
    """Passes on what the process says until it ends; returns the last line that it did not understand."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    stage, part, last_words = "Starting", 0.0, ""
    while True:
        # Said again and again, because that is how the caller can stop this.
        on_stage(stage, part)
        try:
            line = lines.get(timeout=_LOOK_S)
        except queue.Empty:
            continue
        if line is None:
            return last_words
        try:
            news = json.loads(line)
        except ValueError:
            last_words = line.strip().rstrip(".") or last_words
            continue
        if "error" in news:
            raise SVDRRError(news["error"])
        stage, part = news["stage"], news["part"]


def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def _main(folder: Path) -> int:
    try:
        ct = CTVolume(np.load(folder / _HU), np.load(folder / _IJK_TO_RAS))
        body = body_mask(ct, lambda stage, part: print(json.dumps({"stage": stage, "part": part}), flush=True))
    except SVDRRError as error:
        print(json.dumps({"error": str(error)}))
        return 2
    # Under another name first, so that half a mask is never taken for a whole one.
    partial = folder / f"partial-{_BODY}"
    np.save(partial, body)
    partial.replace(folder / _BODY)
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
