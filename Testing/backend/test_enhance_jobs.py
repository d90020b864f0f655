"""Super-resolution as a job: learned methods in a server's worker, the uncertainty map, what is refused at once.

The networks have learned nothing, which makes no difference to the backend.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run_svdrr
from fake_backends import JobServer, site, sse, status
from sentences import assert_one_sentence
from server_process import TOKEN, Server, server_process
from test_client import assert_same, radiograph, zipped_view
from test_enhance_cli import read_map
from test_server_faults import SMALL, changed, refused
from untrained_networks import write_untrained_networks

from svdrr.backend.arrays import to_npy
from svdrr.backend.client import ArrivedView, BackendClient, BackendError
from svdrr.backend.jobs import EchoJob, EnhanceJob, job_to_json, view_count
from svdrr.backend.request import enhancement_request
from svdrr.backend.store import DiskFullError, JobStore, Limits
from svdrr.backend.validation import read_job, require_possible
from svdrr.errors import SVDRRError
from svdrr.images import read_radiograph, write_png
from svdrr.models import registry
from svdrr.provenance import SYNTHETIC_LABEL, Provenance
from svdrr.radiograph import Radiograph
from svdrr.superres import METHODS, SCALES, enhance, uncertainty

LEARNED = ("regression", "lcmsr", "deltadiff")
DRR = Provenance("DRR (siddon)", "CT with voxels", seed=3, settings={"Enhancement": "bicubic x2"})


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, networks: Path) -> Iterator[Server]:
    with server_process(tmp_path_factory.mktemp("server") / "spool", "--models", str(networks)) as running:
        yield running


@pytest.fixture(scope="module")
def backend(server: Server) -> BackendClient:
    return BackendClient(server.url, server.token)


@pytest.fixture
def here(networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's networks are those of this process too."""
    monkeypatch.setenv("SVDRR_MODELS", str(networks))


# There as here


def test_capabilities_list_the_methods_whose_weights_are_there(server: Server) -> None:
    offered = server.get("/v1/capabilities").json()["super_resolution"]
    assert offered == {"methods": list(METHODS), "scales": list(SCALES)}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("method", "seed"), [("lcmsr", 7), ("lcmsr", None), ("deltadiff", 0), ("regression", 0)])
def test_a_learned_job_there_is_the_method_here(
    backend: BackendClient, method: str, seed: int | None, scale: int
) -> None:
    image = radiograph()
    theirs = backend.run(enhancement_request(image, method, scale, seed))
    ours = enhance(image, method, scale, seed, device="cpu")
    assert_same(theirs, [ours])
    assert ours.provenance is not None
    assert ours.provenance.weights_sha256
    assert not np.array_equal(ours.pixels, enhance(image, "bicubic", scale).pixels)
    if method == "lcmsr":
        assert not np.array_equal(ours.pixels, enhance(image, method, scale, 8, device="cpu").pixels)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("origin", [None, DRR], ids=["taken", "DRR"])
def test_consistency_there_is_consistency_here(backend: BackendClient, origin: Provenance | None) -> None:
    """In the gray scale of a DRR, too, for which the server must know that it is one."""
    image = radiograph(provenance=origin)
    theirs = backend.run(enhancement_request(image, "lcmsr", 2, 1, consistent=True))
    assert_same(theirs, [enhance(image, "lcmsr", 2, 1, consistent=True, device="cpu")])
    assert theirs[0].provenance is not None
    assert theirs[0].provenance.settings["Projection"] == "iterative back-projection"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("seed", [4, None])
@pytest.mark.parametrize("origin", [None, DRR], ids=["taken", "computed"])
def test_the_uncertainty_map_is_the_second_view(
    backend: BackendClient, origin: Provenance | None, seed: int | None
) -> None:
    image = radiograph(provenance=origin)
    theirs = backend.run(enhancement_request(image, "lcmsr", 2, seed, uncertainty_seeds=3))
    ours = [enhance(image, "lcmsr", 2, seed, device="cpu"), uncertainty(image, 2, 3, seed or 0, "cpu")]
    assert_same(theirs, ours)
    larger, deviation = theirs
    assert larger.provenance is not None
    assert larger.provenance.method == ("DRR (siddon)" if origin else "lcmsr x2")
    assert "DataConsistencyResidual" in larger.provenance.settings
    assert deviation.provenance is not None
    assert deviation.provenance.method == "uncertainty of lcmsr x2"
    assert deviation.provenance.settings["Quantity"] == "standard deviation over 3 seeds, parts of the gray range"
    assert deviation.provenance.attributes()["SVDRR.Synthetic"] == SYNTHETIC_LABEL
    assert 0.0 < deviation.pixels.mean() < 0.1


@pytest.mark.usefixtures("here")
def test_a_panel_gets_both_views_where_they_belong(backend: BackendClient) -> None:
    job = backend.start(enhancement_request(radiograph(), "lcmsr", 4, 2, uncertainty_seeds=2))
    arrived: dict[int, Radiograph] = {}
    deadline = time.monotonic() + 60.0
    while not job.finished:
        assert time.monotonic() < deadline
        arrived |= {event.index: event.radiograph for event in job.poll() if isinstance(event, ArrivedView)}
        time.sleep(0.01)
    assert job.error == ""
    ours = [enhance(radiograph(), "lcmsr", 4, 2, device="cpu"), uncertainty(radiograph(), 4, 2, 2, "cpu")]
    assert_same([arrived[0], arrived[1]], ours)


@pytest.mark.usefixtures("here")
def test_the_command_gets_from_a_backend_what_it_makes_here(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(TOKEN, encoding="utf-8")
    write_png(tmp_path / "in.png", radiograph(provenance=DRR))
    said = []
    for place, where in (("here", ()), ("there", ("--backend", server.url, "--token-file", tmp_path / "token"))):
        maps = ("--fidelity-map", tmp_path / f"{place}-f.nrrd", "--uncertainty-map", tmp_path / f"{place}-u.nrrd")
        options = ("--method", "lcmsr", "--seed", 6, "--consistent", "--seeds", 2, *maps, "--json")
        code, out, err = run_svdrr(capfd, "enhance", tmp_path / "in.png", tmp_path / f"{place}.png", *options, *where)
        assert (code, err) == (0, "")
        said.append({**json.loads(out), "output": "", "fidelity_map": "", "uncertainty_map": ""})
    assert said[0] == said[1]
    assert_same([read_radiograph(tmp_path / "there.png")], [read_radiograph(tmp_path / "here.png")])
    for name in ("f.nrrd", "u.nrrd"):
        (theirs, *about_theirs), (ours, *about_ours) = (read_map(tmp_path / f"{at}-{name}") for at in ("there", "here"))
        np.testing.assert_array_equal(theirs, ours)
        for _, texts in (about_theirs, about_ours):
            texts.pop("SVDRR.TimeUTC")  # type: ignore[union-attr]
        assert about_theirs == about_ours


@pytest.mark.usefixtures("here")
def test_an_older_clients_job_without_the_new_fields_is_still_understood(server: Server) -> None:
    older: dict[str, Any] = {
        "kind": "enhance",
        "method": "lanczos",
        "scale": 2,
        "pixel_spacing_mm": [0.5, 0.6],
        "view": None,
        "pixels_sha256": None,
    }
    assert read_job(json.dumps(older)) == EnhanceJob("lanczos", 2, pixel_spacing_mm=(0.5, 0.6))
    answer = server.submit(older, SMALL)
    assert answer.status_code == 201
    assert answer.json()["views_total"] == 1
    assert server.finished(answer.json()["id"])["state"] == "done"
    # What it asks for by name it gets with seed 0.
    ((_, pixels),) = server.run(read_job(json.dumps({"kind": "enhance", "method": "lcmsr", "scale": 2})), SMALL)
    np.testing.assert_array_equal(pixels, enhance(Radiograph(SMALL), "lcmsr", 2, 0, device="cpu").pixels)


def test_a_backend_that_makes_fewer_images_than_were_asked_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_png(tmp_path / "in.png", radiograph())
    done = sse("status", status("done", views_done=1, views_total=1))
    options = ("--method", "lcmsr", "--uncertainty-map", tmp_path / "map.nrrd")
    with site(JobServer([[done]], {0: zipped_view(enhance(radiograph()))})) as server:
        code, out, err = run_svdrr(
            capfd, "enhance", tmp_path / "in.png", tmp_path / "out.png", *options, "--backend", server.url
        )
    assert (code, out) == (2, "")
    assert err.startswith(f"svdrr: The backend at {server.url} has made 1 image where 2 were asked for; ")
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


# On the way


def test_steps_rise_stage_by_stage(server: Server) -> None:
    pixels = np.random.default_rng(2).random((300, 290), dtype=np.float32)
    job_id = server.start(EnhanceJob("lcmsr", 2, uncertainty_seeds=8), pixels)
    events = list(server.events(job_id))
    statuses = [event.data for event in events if event.name == "status"]
    for stage, steps in (("Enlarging", 4), ("Measuring the uncertainty", 8 * 4)):
        seen = [status for status in statuses if status["stage"] == stage and status["steps"] == steps]
        numbers = [status["step"] for status in seen]
        assert numbers == sorted(numbers)
        assert len(set(numbers)) > 2
        assert all(0 <= number <= steps for number in numbers)
    assert any(status["eta_s"] for status in statuses if status["stage"] == "Measuring the uncertainty")
    assert [event.data["index"] for event in events if event.name == "view"] == [0, 1]
    assert (statuses[-1]["state"], statuses[-1]["views_done"], statuses[-1]["views_total"]) == ("done", 2, 2)


def test_each_step_of_deltadiff_counts(server: Server) -> None:
    pixels = np.random.default_rng(2).random((300, 290), dtype=np.float32)
    events = list(server.events(server.start(EnhanceJob("deltadiff", 2), pixels)))
    # 4 tiles of 4 steps each.
    numbers = [event.data["step"] for event in events if event.data.get("steps") == 16]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 4


@pytest.mark.parametrize(
    "job", [EnhanceJob("lcmsr", 2, uncertainty_seeds=64), EnhanceJob("deltadiff", 4)], ids=["lcmsr", "deltadiff"]
)
def test_a_cancelled_job_is_let_go_in_mid_work(server: Server, job: EnhanceJob) -> None:
    server.wait_until_ready()
    (worker,) = server.workers()
    # Steps are short, and there are many of them.
    side = 128 if job.method == "lcmsr" else 1600
    pixels = np.random.default_rng(2).random((side, side), dtype=np.float32)
    job_id = server.start(job, pixels)
    server.wait(job_id, lambda status: status["step"] >= 3 and status["step"] < status["steps"] / 2)
    started = time.monotonic()
    server.cancel(job_id)
    np.testing.assert_array_equal(server.run(EchoJob(), SMALL)[0][1], SMALL)
    assert time.monotonic() - started < 5.0
    assert server.get(f"/v1/jobs/{job_id}").status_code == 404
    # It let go by itself, after a step, and was not killed.
    assert server.workers() == [worker]


# What is refused before it has waited


REFUSED = [
    ({"method": "magic"}, "Unknown super-resolution method 'magic'"),
    ({"method": "LCMSR"}, "Unknown super-resolution method 'LCMSR'"),
    ({"scale": 3}, "The scale must be 2 or 4, not 3"),
    ({"method": "lanczos", "uncertainty_seeds": 8}, "Only lcmsr has an uncertainty map; 'lanczos' gives the same"),
    ({"method": "deltadiff", "uncertainty_seeds": 8}, "Only lcmsr has an uncertainty map"),
    ({"uncertainty_seeds": 1}, "An uncertainty map takes 2 to 64 seeds, not 1"),
    ({"uncertainty_seeds": 65}, "An uncertainty map takes 2 to 64 seeds, not 65"),
    ({"uncertainty_seeds": -8}, "An uncertainty map takes 2 to 64 seeds, not -8"),
    ({"uncertainty_seeds": 10**400}, "An uncertainty map takes 2 to 64 seeds, not 1000"),
    ({"uncertainty_seeds": None}, "uncertainty_seeds"),
    ({"uncertainty_seeds": True}, "uncertainty_seeds"),
    ({"uncertainty_seeds": 2.0}, "uncertainty_seeds"),
    ({"seed": -1}, "A seed lies in 0 to 2^63 - 1, and -1 does not"),
    ({"seed": 2**63}, "A seed lies in 0 to 2^63 - 1"),
    ({"seed": 0.5}, "seed"),
    ({"seed": "0"}, "seed"),
    ({"consistent": 1}, "consistent"),
    ({"consistent": "yes"}, "consistent"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED, ids=[str(fields)[:50] for fields, _ in REFUSED])
def test_a_job_that_cannot_be_is_refused_at_once(server: Server, fields: dict[str, Any], words: str) -> None:
    queued = server.get("/v1/capabilities").json()["queue"]
    sentence = refused(server.submit({**job_to_json(EnhanceJob("lcmsr", 2)), **fields}, SMALL))
    assert words in sentence
    assert_one_sentence(SVDRRError(sentence))
    assert server.get("/v1/capabilities").json()["queue"] == queued


def test_an_extra_field_is_refused(server: Server) -> None:
    assert "seeds" in refused(server.submit(changed(job_to_json(EnhanceJob("lcmsr", 2)), "seeds", 8), SMALL))


@pytest.mark.parametrize("method", LEARNED)
def test_weights_that_are_missing_are_missed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    # Those that come with the package would be found otherwise.
    monkeypatch.setattr(registry, "_BUNDLED", ())
    monkeypatch.setenv("SVDRR_MODELS", str(tmp_path))
    with pytest.raises(SVDRRError, match=f"The weights of '{method}' for scale 4 were not found") as caught:
        require_possible(EnhanceJob(method, 4))
    assert_one_sentence(caught.value)
    require_possible(EnhanceJob("bicubic", 4))


def test_damaged_weights_fail_the_job_in_a_sentence_and_nothing_else(tmp_path: Path) -> None:
    models = write_untrained_networks(tmp_path / "models")
    place = models / "super-resolution" / "deltadiff" / "x2"
    weights = next(place.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-9])
    with server_process(tmp_path / "spool", "--models", str(models)) as server:
        status = server.finished(server.start(EnhanceJob("deltadiff", 2), SMALL))
        assert (status["state"], status["attempt"], status["views_done"]) == ("failed", 1, 0)
        assert status["message"] == (
            f"The super-resolution model 'deltadiff' cannot be loaded; files in {place} are missing or damaged."
        )
        assert len(server.run(EnhanceJob("lcmsr", 2, uncertainty_seeds=2), SMALL)) == 2


# How much room they take


def test_the_uncertainty_map_is_an_image_more() -> None:
    assert view_count(EnhanceJob("lcmsr", 2)) == 1
    assert view_count(EnhanceJob("lcmsr", 2, uncertainty_seeds=2)) == 2
    assert view_count(EnhanceJob("lcmsr", 2, uncertainty_seeds=64)) == 2


def test_the_store_keeps_room_for_both_images(tmp_path: Path) -> None:
    pixels = to_npy(np.full((256, 256), 0.5, np.float32))
    # The pixels and an image with 16 times as many; not two.
    with closing(JobStore(tmp_path, Limits(max_bytes=20 * len(pixels)))) as store:
        with pytest.raises(DiskFullError, match=r"This job needs .* GiB, and of the") as caught:
            store.add(EnhanceJob("lcmsr", 4, uncertainty_seeds=8), pixels)
        assert_one_sentence(caught.value)
        store.delete(store.add(EnhanceJob("lcmsr", 4), pixels))
        store.add(EnhanceJob("lcmsr", 2, uncertainty_seeds=8), pixels)
    with closing(JobStore(tmp_path / "larger", Limits(max_bytes=34 * len(pixels)))) as store:
        store.add(EnhanceJob("lcmsr", 4, uncertainty_seeds=8), pixels)


@pytest.mark.usefixtures("here")
def test_a_large_image_beyond_the_limits_gets_its_sentence(tmp_path: Path, networks: Path) -> None:
    limits = ("--max-request-mb", "1", "--max-spool-gb", "0.01")

    def image(side: int) -> Radiograph:
        return Radiograph(np.random.default_rng(1).random((side, side), dtype=np.float32))

    with server_process(tmp_path / "spool", "--models", str(networks), *limits) as server:
        client = BackendClient(server.url, server.token)
        with pytest.raises(BackendError, match="These pixels have 2 MiB; the backend takes 1 MiB") as caught:
            client.run(enhancement_request(image(700), "lcmsr", 2, uncertainty_seeds=8))
        assert caught.value.code == "too_large"
        full = image(370)
        with pytest.raises(BackendError, match=r"This job needs .* GiB, and of the 0\.01 GiB") as caught:
            client.run(enhancement_request(full, "lcmsr", 4, uncertainty_seeds=8))
        assert caught.value.code == "disk_full"
        assert_one_sentence(caught.value)
        # One of both images would fit.
        (larger,) = client.run(enhancement_request(full, "regression", 4))
        assert larger.pixels.shape == (1480, 1480)


def test_more_pixels_than_a_radiograph_may_have(server: Server) -> None:
    wide = np.full((16, 8193), 0.5, np.float32)
    sentence = refused(server.submit(EnhanceJob("lcmsr", 4, uncertainty_seeds=64), wide))
    assert sentence == "The pixels must have 16 to 8192 rows and columns, not 16 x 8193."
