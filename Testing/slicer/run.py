"""Runs the self-tests of the four modules inside a real 3D Slicer: python Testing/slicer/run.py /path/to/Slicer

It uses the backend of the Python that runs this script, and the bundled model. Slicer's own settings stay as they are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTING = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTING / "support"))

from backend_environment import write_backend_environment  # noqa: E402

TIMEOUT_S = 1800


def main(slicer: str) -> int:
    """Starts Slicer, waits for it and prints a line for each module; returns the exit status."""
    modules = sorted(path.parent for path in (TESTING.parent / "SlicerModules").glob("*/*.py"))
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.json")
        environment = {
            **os.environ,
            "SVDRR_RESULTS": str(results),
            "SVDRR_BACKEND": str(write_backend_environment(Path(folder, "backend"))),
        }
        command = [
            *(slicer, "--no-splash", "--ignore-slicerrc", "--disable-settings"),
            *("--additional-module-paths", *map(str, modules)),
            *("--python-script", str(TESTING / "slicer" / "self_tests.py")),
        ]
        process = subprocess.run(
            command, env=environment, timeout=TIMEOUT_S, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if not results.is_file():
            print(process.stdout)
            print(f"Slicer ended with code {process.returncode} and left no results.")
            return 1
        found = json.loads(results.read_text(encoding="utf-8"))
    failed = 0
    for result in found["results"]:
        failed += bool(result["problem"])
        print(f"{'FAILED' if result['problem'] else 'passed'} {result['module']} ({result['seconds']} s)")
        print(result["problem"], end="")
    print(f"3D Slicer {found['slicer']}: {len(found['results']) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: run.py /path/to/Slicer")
    sys.exit(main(sys.argv[1]))
