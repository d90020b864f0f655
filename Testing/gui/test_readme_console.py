"""The README's examples for Slicer's Python console, word for word, with the bundled model and a real backend."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from panels import MODULES, ROOT

from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom

README = ROOT / "README.md"
NAMES = ("CTTableRemoval", "DRRGenerator", "SingleViewSynthesis", "RadiographSuperResolution")


def examples() -> list[str]:
    section = README.read_text(encoding="utf-8").partition("\n## In 3D Slicer\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_there_is_one_for_each_module() -> None:
    assert [re.match(r"from (\w+) import", example)[1] for example in examples()] == list(NAMES)  # type: ignore[index]
    assert all(len(example.split("\n\n")) == 2 and len(example.splitlines()) == 3 for example in examples())


@pytest.mark.usefixtures("backend_environment")
def test_they_run(host: Any) -> None:
    host.start([MODULES / name for name in NAMES])
    import SampleData
    import slicer

    from svdrr.mrml import ct_to_node

    ct_to_node(thorax_phantom(3, ThoraxOptions(table=True, spacing_mm=5.0)).ct, "CT")
    SampleData.SampleDataLogic().downloadSample("SVDRRPhantomRadiograph")
    (radiograph,) = [one for one in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if one.GetName() != "CT"]
    radiograph.SetName("Radiograph")
    console: dict[str, Any] = {"getNode": slicer.util.getNode}
    for example in examples():
        exec(compile(example, str(README), "exec"), console)
    assert console["bare"].GetName() == "CT without table"
    made = [console[name] for name in ("oblique", "lateral", "larger")]
    assert all(node.GetAttribute("SVDRR.Synthetic") for node in made)
    assert slicer.util.arrayFromVolume(console["larger"]).shape == (1, 1024, 1024)
    assert '"primary_deg": 90.0' in console["lateral"].GetAttribute("SVDRR.View")


def test_the_tutorials_show_pictures_that_are_there() -> None:
    for page in (Path("Docs") / f"{name}.md" for name in NAMES):
        text = (ROOT / page).read_text(encoding="utf-8")
        pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
        assert pictures
        assert all((ROOT / "Docs" / picture).is_file() for picture in pictures)
