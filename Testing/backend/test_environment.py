"""A backend's environment: made with a real pip, from small wheels, in folders with blanks and umlauts."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import textwrap
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from svdrr import __version__
from svdrr.backend import installation as module
from svdrr.backend.driver import Gpu, Gpus, choose_build, driver_problem, find_gpus, fitting_build
from svdrr.backend.environment import BackendEnvironment, clean_environment
from svdrr.backend.installation import Plan, set_up
from svdrr.backend.requirements import Requirements
from svdrr.errors import SVDRRError

ROOT = Path(__file__).parents[2]
TINY = Requirements("2.13.0", {"core": ("svdrr-tiny>=1,<2", "rich>=13")})


def make_wheel(folder: Path, name: str, version: str, requires: tuple[str, ...] = ()) -> Path:
    module_name, stem = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}"
    files = {
        f"{module_name}/__init__.py": f"__version__ = {version!r}\n",
        f"{stem}.dist-info/METADATA": "\n".join(
            [
                "Metadata-Version: 2.1",
                f"Name: {name}",
                f"Version: {version}",
                *(f"Requires-Dist: {r}" for r in requires),
            ]
        ),
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{stem}.dist-info/RECORD"
    hashes = {
        path: base64.urlsafe_b64encode(hashlib.sha256(t.encode()).digest()).rstrip(b"=").decode()
        for path, t in files.items()
    }
    files[record] = (
        "".join(f"{path},sha256={hashes[path]},{len(t.encode())}\n" for path, t in files.items()) + f"{record},,\n"
    )
    wheel = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Räder und Röntgen")
    make_wheel(folder, "torch", "2.13.0+cpu")
    make_wheel(folder, "svdrr-tiny", "1.5", ("svdrr-tiny-helper",))
    make_wheel(folder, "svdrr-tiny", "2.0")
    make_wheel(folder, "svdrr-tiny-helper", "0.1")
    # Newer than any that the interpreter of these tests has itself.
    make_wheel(folder, "rich", "99.0")
    return folder


@pytest.fixture(autouse=True)
def _pip_without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """This computer's own indexes would have the real torch."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.fixture(scope="module")
def slicer_like_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter like Slicer's, simulated: it can't make a venv, and puts its own packages before PYTHONPATH."""
    script = tmp_path_factory.mktemp("Slicer 5") / "PythonSlicer"
    script.write_text(
        textwrap.dedent(f"""\
        #!/bin/sh
        case "$*" in "-m venv"*) echo "no ensurepip here" >&2; exit 1;; esac
        PYTHONPATH="{sysconfig.get_path("purelib")}:$PYTHONPATH" exec "{sys.executable}" "$@"
        """)
    )
    script.chmod(0o755)
    return str(script)


def make(folder: Path, wheels: Path | None, **more: object) -> BackendEnvironment:
    arguments = {"confirm": lambda plan: True, "on_line": lambda line: None, "requirements": TINY, "wheels": wheels}
    return set_up(folder, "cpu", **{**arguments, **more})  # type: ignore[arg-type]


def run(environment: BackendEnvironment, code: str, **variables: str) -> str:
    base = {**os.environ, **variables}
    return subprocess.run(
        environment.script(code), env=environment.environment(base), check=True, capture_output=True, text=True
    ).stdout.strip()


IMPORTS = """
import svdrr, svdrr_tiny, svdrr_tiny_helper, rich
print(svdrr.__version__, svdrr_tiny.__version__, rich.__version__)"""


def test_a_venv_with_what_was_planned_and_nothing_of_the_parent(tmp_path: Path, wheels: Path) -> None:
    folder = tmp_path / "Bäckend für Röntgen"
    plans: list[Plan] = []
    told: list[str] = []

    made = make(folder, wheels, confirm=lambda plan: not plans.append(plan), on_line=told.append)  # type: ignore[func-returns-value]

    (plan,) = plans
    used = ("torch-", "svdrr_tiny-1.5", "svdrr_tiny_helper", "rich")
    assert plan.packages == 4
    assert plan.download_bytes == sum(file.stat().st_size for file in wheels.iterdir() if file.name.startswith(used))
    assert plan.of_unknown_size == 0
    assert str(folder) in str(plan)
    assert "2.13.0+cpu" in str(plan)
    assert (made.kind, made.torch, made.torch_build) == ("venv", "2.13.0+cpu", "cpu")
    assert BackendEnvironment.read(folder) == made
    assert not (folder / "cache").exists()
    assert not (folder / "temporary").exists()
    parents = {"PYTHONPATH": sysconfig.get_path("purelib"), "PYTHONHOME": "/nowhere"}
    assert run(made, IMPORTS, **parents) == f"{__version__} 1.5 99.0"
    assert (
        run(made, "import importlib.util as u; print(u.find_spec('numpy'), u.find_spec('pytest'))", **parents)
        == "None None"
    )
    assert (
        Path(run(made, "import svdrr.errors; print(svdrr.errors.__file__)")) == ROOT / "SVDRRExtension/svdrr/errors.py"
    )

    asked: list[Plan] = []
    assert make(folder, wheels, confirm=lambda plan: not asked.append(plan)) == made  # type: ignore[func-returns-value]
    assert asked == []


def test_packages_beside_an_interpreter_that_cannot_make_a_venv(
    tmp_path: Path, wheels: Path, slicer_like_python: str
) -> None:
    own_packages = sorted(path.name for path in Path(sysconfig.get_path("purelib")).iterdir())

    here = partial(make, tmp_path / "Slicer's backend", wheels, python=slicer_like_python)

    def meanwhile(plan: Plan) -> bool:
        with pytest.raises(SVDRRError, match="Another set-up is at work"):
            here()
        return True

    made = here(confirm=meanwhile)

    assert made.kind == "target"
    assert str(made.python) == slicer_like_python
    assert sorted(path.name for path in Path(sysconfig.get_path("purelib")).iterdir()) == own_packages
    assert run(made, IMPORTS) == f"{__version__} 1.5 99.0"


def test_a_set_up_that_was_killed_is_finished_by_the_next(
    tmp_path: Path, wheels: Path, slicer_like_python: str
) -> None:
    folder = tmp_path / "backend"
    code = textwrap.dedent(f"""
        from pathlib import Path
        from svdrr.backend.installation import set_up
        from svdrr.backend.requirements import Requirements
        set_up(Path({str(folder)!r}), "cpu", wheels=Path({str(wheels)!r}), python={slicer_like_python!r},
               requirements=Requirements("2.13.0", {dict(TINY.groups)!r}),
               confirm=lambda plan: True, on_line=lambda line: print(line, flush=True))
    """)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "unpacking" in line:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL

    with pytest.raises(SVDRRError, match="not complete; finish it with 'svdrr setup-backend"):
        BackendEnvironment.read(folder)
    assert run(make(folder, wheels, python=slicer_like_python), IMPORTS) == f"{__version__} 1.5 99.0"


@pytest.mark.parametrize("answer", ["no", "Ctrl-C"])
def test_nothing_stays_of_a_set_up_that_was_declined(
    tmp_path: Path, wheels: Path, slicer_like_python: str, answer: str
) -> None:
    def confirm(plan: Plan) -> bool:
        if answer == "Ctrl-C":
            raise KeyboardInterrupt
        return False

    with pytest.raises(SVDRRError, match="nothing was installed"):
        make(tmp_path / "backend", wheels, confirm=confirm, python=slicer_like_python)
    assert list(tmp_path.iterdir()) == []


def test_a_complete_environment_outlives_a_declined_and_gives_way_to_an_accepted_renewal(
    tmp_path: Path, wheels: Path, slicer_like_python: str
) -> None:
    here = partial(make, tmp_path / "backend", wheels, python=slicer_like_python)
    old = here()
    newer = Requirements("2.13.0", {"core": ("svdrr-tiny>=2",)})

    with pytest.raises(SVDRRError, match="nothing was installed"):
        here(requirements=newer, confirm=lambda plan: False)
    assert BackendEnvironment.read(old.folder) == old
    assert run(old, "import svdrr_tiny; print(svdrr_tiny.__version__)") == "1.5"

    new = here(requirements=newer)
    assert run(new, "import svdrr_tiny; print(svdrr_tiny.__version__)") == "2.0"
    assert len(list(old.folder.glob("environment-*"))) == 1


def test_from_an_index_on_the_network(tmp_path: Path, wheels: Path, slicer_like_python: str, simple_index: str) -> None:
    plans: list[Plan] = []
    made = make(
        tmp_path / "backend",
        None,
        index=simple_index,
        python=slicer_like_python,
        confirm=lambda plan: not plans.append(plan),  # type: ignore[func-returns-value]
    )
    used = ("torch-", "svdrr_tiny-1.5", "svdrr_tiny_helper", "rich")
    assert plans[0].download_bytes == sum(f.stat().st_size for f in wheels.iterdir() if f.name.startswith(used))
    assert run(made, IMPORTS) == f"{__version__} 1.5 99.0"


@pytest.fixture
def simple_index(tmp_path: Path, wheels: Path) -> Iterator[str]:
    """A package index on this computer: one folder of wheels for each name, listed by a plain web server."""
    for wheel in wheels.iterdir():
        name = wheel.name.split("-")[0].replace("_", "-")
        place = tmp_path / "served" / "simple" / name / wheel.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(wheel.read_bytes())
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()
        thread.join()


def test_what_pip_cannot_find_is_named_and_the_log_has_the_rest(
    tmp_path: Path, wheels: Path, slicer_like_python: str
) -> None:
    folder = tmp_path / "backend"
    requirements = Requirements("2.13.0", {"core": ("svdrr-nowhere>=1",)})
    with pytest.raises(SVDRRError, match=r"No matching distribution found for svdrr-nowhere.*setup\.log"):
        make(folder, wheels, requirements=requirements, python=slicer_like_python)
    assert "svdrr-nowhere" in (folder / "setup.log").read_text(encoding="utf-8")
    with pytest.raises(SVDRRError, match=r"torch 2\.13\.0 \(cu126\) was not found"):
        set_up(folder, "cu126", confirm=lambda plan: True, on_line=print, wheels=wheels, python=slicer_like_python)


def test_a_disk_that_is_too_small(
    tmp_path: Path, wheels: Path, slicer_like_python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage._replace(free=1000))  # Simulated.
    with pytest.raises(SVDRRError, match="GB are free; free some"):
        make(tmp_path / "backend", wheels, python=slicer_like_python)


def test_folders_that_are_not_ours(tmp_path: Path, wheels: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").write_text("mine")
    for folder, sentence in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "papers", "holds other files"),
        (tmp_path / "file" / "below", "cannot be written"),
        (Path("/proc/svdrr"), "cannot be written"),
        (tmp_path / "a:b", "choose another"),
    ):
        with pytest.raises(SVDRRError, match=sentence):
            make(folder, wheels)
    assert [path.name for path in (tmp_path / "papers").iterdir()] == ["thesis.txt"]
    with pytest.raises(SVDRRError, match="folder of wheels"):
        make(tmp_path / "backend", tmp_path / "no wheels")
    with pytest.raises(SVDRRError, match="no Python interpreter"):
        make(tmp_path / "backend", wheels, python="/nowhere/python")
    with pytest.raises(SVDRRError, match="There is no backend"):
        BackendEnvironment.read(tmp_path / "papers")
    assert not (tmp_path / "backend").exists()


def test_an_environment_that_lost_its_interpreter(tmp_path: Path) -> None:
    lost = BackendEnvironment(tmp_path, "target", tmp_path / "gone", tmp_path, "2.13.0", "cpu", ())
    lost.write()
    with pytest.raises(SVDRRError, match="has lost its Python"):
        BackendEnvironment.read(tmp_path)
    (tmp_path / "backend.json").write_text("{}")
    with pytest.raises(SVDRRError, match="cannot be read"):
        BackendEnvironment.read(tmp_path)


def test_what_the_launcher_of_slicer_set_is_set_back() -> None:
    base = {
        "APPLAUNCHER_LEVEL": "1",
        "APPLAUNCHER_0_PATH": "/usr/bin",
        "PATH": "/opt/Slicer/bin:/usr/bin",
        "LD_LIBRARY_PATH": "/opt/Slicer/lib",
        "PYTHONHOME": "/opt/Slicer/lib/Python",
        "HTTPS_PROXY": "http://proxy:3128",
    }
    assert clean_environment(base) == {"PATH": "/usr/bin", "HTTPS_PROXY": "http://proxy:3128"}
    mine = {"LD_LIBRARY_PATH": "/usr/local/cuda/lib64", "PYTHONPATH": "/elsewhere"}
    assert clean_environment(mine) == {"LD_LIBRARY_PATH": "/usr/local/cuda/lib64"}


def test_the_requirements_are_those_of_the_package() -> None:
    """The extension has no ``pyproject.toml`` when it is installed, so its requirements are written down twice."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    def listed(name: str) -> set[Requirement]:
        match = re.search(rf"^{name} = (\[.*?\])$", text, re.MULTILINE | re.DOTALL)
        assert match is not None
        lines = json.loads(re.sub(r",\s*\]", "]", match[1]))
        return {Requirement(line) for line in lines} - {Requirement("torch>=2.4"), Requirement("torch>=2.5")}

    requirements = Requirements.of_backend()
    for group, lines in requirements.groups.items():
        assert {Requirement(line) for line in lines} == listed("dependencies" if group == "core" else group)
    assert f"torch=={requirements.torch}\n" in (ROOT / "constraints.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("driver", "capability", "build", "says"),
    [
        ("580.65.06", (9, 0), "cu130", "runs CUDA 13.0"),
        ("610.12", (12, 1), "cu130", "runs CUDA 13.0"),
        ("560.35.05", (8, 9), "cu126", "runs CUDA 12.6"),
        ("580.65.06", (6, 1), "cu126", "runs CUDA 12.6"),
        ("570.86.15", (12, 0), "cpu", "update it to 580"),
        ("515.43.04", (8, 6), "cpu", "update it to 525.60.13"),
        ("580.65.06", (3, 5), "cpu", "not among the GPUs that torch supports"),
    ],
)
def test_the_build_that_fits_the_driver(driver: str, capability: tuple[int, int], build: str, says: str) -> None:
    gpu = Gpu("NVIDIA X", driver, capability, 16000)
    chosen = fitting_build(Gpus((gpu,)))
    assert chosen.name == build
    assert says in chosen.reason
    assert (driver_problem(gpu) == "") == (build != "cpu")


def test_one_build_for_all_gpus() -> None:
    old, new = Gpu("P100", "580.65.06", (6, 0), 16000), Gpu("A100", "580.65.06", (8, 0), 40000)
    assert fitting_build(Gpus((old, new))).name == "cu126"
    assert "nanodrr==0.1.7" in Requirements.of_backend().beside_torch(choose_build("cu126", Gpus()))
    assert "nanodrr==0.1.7" not in Requirements.of_backend().beside_torch(choose_build("auto", Gpus()))
    with pytest.raises(SVDRRError, match="available: auto, cpu, cu130, cu126"):
        choose_build("cu999", Gpus())


def fake_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str, status: int = 0) -> None:
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\nexit {status}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, "580.65.06, NVIDIA GB10, 12.1, [N/A]\n560.1, Tesla T4, 7.5, 15360")
    assert find_gpus().devices == (
        Gpu("NVIDIA GB10", "580.65.06", (12, 1), 0),
        Gpu("Tesla T4", "560.1", (7, 5), 15360),
    )
    fake_nvidia_smi(tmp_path, monkeypatch, "Failed to initialize NVML: Driver/library version mismatch", 18)
    assert find_gpus() == Gpus(problem="nvidia-smi fails: Failed to initialize NVML: Driver/library version mismatch")
    fake_nvidia_smi(tmp_path, monkeypatch, "hello")
    assert "something unexpected" in find_gpus().problem
