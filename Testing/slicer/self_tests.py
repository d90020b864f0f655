"""Runs inside 3D Slicer, started by run.py: opens each panel, runs each module's self-test, writes what came out."""

import json
import os
import time
import traceback

import slicer

MODULES = ("CTTableRemoval", "DRRGenerator", "SingleViewSynthesis", "RadiographSuperResolution")


def run(name: str) -> dict[str, str | float]:
    began = time.monotonic()
    try:
        slicer.util.selectModule(name)
        slicer.app.processEvents()
        module = __import__(name)
        getattr(module, f"{name}Test")().runTest()
        problem = ""
    except BaseException:
        problem = traceback.format_exc()
    return {"module": name, "problem": problem, "seconds": round(time.monotonic() - began, 1)}


def main() -> None:
    version = f"{slicer.app.majorVersion}.{slicer.app.minorVersion}"
    results = [run(name) for name in MODULES]
    with open(os.environ["SVDRR_RESULTS"], "w", encoding="utf-8") as file:
        json.dump({"slicer": version, "results": results}, file)
    slicer.util.exit(1 if any(result["problem"] for result in results) else 0)


if __name__ == "__main__":
    main()
