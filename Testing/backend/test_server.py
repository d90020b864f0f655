"""A real server on a real socket, asked as any HTTP client would: each kind of job, its events, its result, its end."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
import typer
from fake_backends import certificate
from PIL import Image
from server_process import TOKEN, Server, refusal, server_process

import svdrr
from svdrr.backend.arrays import to_npy
from svdrr.backend.jobs import EchoJob, EnhanceJob, Job, RenderJob, SynthesizeJob
from svdrr.cli import app
from svdrr.ct import CTVolume
from svdrr.drr.beam import monoenergetic
from svdrr.drr.detector import DetectorModel
from svdrr.errors import SVDRRError
from svdrr.geometry import CArmPose, Detector, View
from svdrr.geometry.viewsets import view_from_json
from svdrr.provenance import Provenance
from svdrr.radiograph import Radiograph
from svdrr.render import Imaging, render_drrs
from svdrr.superres import enhance

ANGLES = (-40.0, 0.0, 25.0)
DETECTOR = Detector.square(64, 300.0)
UNKNOWN = "0123456789abcdef" * 2


def render_job(ct: CTVolume, detector: Detector = DETECTOR, angles: tuple[float, ...] = ANGLES, **more: object) -> Job:
    rows = tuple(tuple(map(float, row)) for row in ct.ijk_to_ras)
    poses = tuple(CArmPose(angle, 5.0, ct.isocenter_ras) for angle in angles)
    return RenderJob(rows, poses, detector, **more)  # type: ignore[arg-type]


def synthesize_job(angles: tuple[float, ...] = ANGLES, **more: object) -> SynthesizeJob:
    return SynthesizeJob(tuple(CArmPose(angle) for angle in angles), CArmPose(), "tiny", **more)  # type: ignore[arg-type]


def without_time(attributes: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in attributes.items() if name != "SVDRR.TimeUTC"}


def assert_same(entry: dict[str, object], pixels: np.ndarray, expected: Radiograph) -> None:
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, expected.pixels)
    spacing = entry["pixel_spacing_mm"]
    assert (None if spacing is None else tuple(spacing)) == expected.pixel_spacing_mm  # type: ignore[arg-type]
    view = entry["view"]
    assert (None if view is None else view_from_json(view)) == expected.view  # type: ignore[arg-type]
    assert expected.provenance is not None
    assert without_time(entry["provenance"]) == without_time(expected.provenance.attributes())  # type: ignore[arg-type]


def test_health_says_nothing_but_alive_and_the_version(server: Server) -> None:
    answer = requests.get(f"{server.url}/v1/health", timeout=10.0)
    assert answer.status_code == 200
    assert answer.json() == {"service": "svdrr", "version": svdrr.__version__, "api": "v1"}
    assert "server" not in answer.headers


def test_capabilities(server: Server) -> None:
    found = server.get("/v1/capabilities").json()
    assert found["version"] == svdrr.__version__
    (device,) = found["devices"]
    assert (device["name"], device["ready"], device["problem"]) == ("cpu", True, "")
    assert device["memory_total_bytes"] > device["memory_free_bytes"] > 0
    assert found["queue"]["max_queued"] == 64
    tiny = next(model for model in found["models"] if model["name"] == "tiny")
    assert (tiny["resolution"], tiny["num_inference_steps"], tiny["guidance_scale"]) == (32, 2, 1.5)
    assert tiny["source_gray_levels"] == sorted(tiny["source_gray_levels"])
    assert tiny["size_bytes"] > 0
    assert tiny["license"]
    assert found["super_resolution"]["scales"] == [2, 4]
    assert "joseph" in found["engines"]
    assert found["limits"]["max_request_bytes"] == 2**30


def test_the_api_documents_itself(server: Server) -> None:
    api = requests.get(f"{server.url}/openapi.json", timeout=10.0).json()
    assert {
        "/v1/health",
        "/v1/capabilities",
        "/v1/jobs",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/events",
        "/v1/jobs/{job_id}/result",
        "/v1/jobs/{job_id}/result/{index}",
    } == set(api["paths"])
    assert requests.get(f"{server.url}/docs", timeout=10.0).status_code == 200


def test_echo_gives_the_same_bytes_back(server: Server, radiograph_pixels: np.ndarray) -> None:
    ((entry, pixels),) = server.run(EchoJob(), radiograph_pixels)
    assert to_npy(pixels) == to_npy(radiograph_pixels)
    assert (entry["pixel_spacing_mm"], entry["view"], entry["provenance"]) == (None, None, {})


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_render_equals_the_local_renderer(server: Server, phantom: CTVolume, dtype: type) -> None:
    job = render_job(phantom, engine="siddon", air_photons_per_pixel=500.0, blur_mm=2.0, seed=7, energy_kev=70.0)
    results = server.run(job, phantom.hu.astype(dtype))
    imaging = Imaging(monoenergetic(70.0), detector_model=DetectorModel(500.0, 2.0), seed=7)
    source = f"CT with voxels SHA-256 {hashlib.sha256(phantom.hu.data).hexdigest()}"
    expected = render_drrs(phantom, job.poses, DETECTOR, "siddon", source, imaging)  # type: ignore[union-attr]
    for (entry, pixels), (radiograph, _) in zip(results, expected, strict=True):
        assert_same(entry, pixels, radiograph)
        assert radiograph.view is not None
        assert entry["label"] == radiograph.view.pose.label


def test_render_uses_the_ct_at_hand_for_the_next_views_and_not_for_another_ct(
    server: Server, phantom: CTVolume
) -> None:
    other = CTVolume(np.where(phantom.hu > 500.0, np.float32(40.0), phantom.hu), phantom.ijk_to_ras)
    for ct, angle in ((phantom, 10.0), (phantom, 20.0), (other, 10.0)):
        job = render_job(ct, engine="joseph", angles=(angle,))
        ((_, pixels),) = server.run(job, ct.hu)
        ((expected, _),) = render_drrs(ct, job.poses, DETECTOR, "joseph")  # type: ignore[union-attr]
        np.testing.assert_array_equal(pixels, expected.pixels)


def test_enhance_equals_the_local_one(server: Server, radiograph_pixels: np.ndarray) -> None:
    rows, columns = radiograph_pixels.shape
    view = View(CArmPose(12.0), Detector(rows, columns, (0.5, 0.6)))
    job = EnhanceJob("lanczos", 2, pixel_spacing_mm=(0.5, 0.6), view=view)
    ((entry, pixels),) = server.run(job, radiograph_pixels)
    assert_same(entry, pixels, enhance(Radiograph(radiograph_pixels, (0.5, 0.6), view), "lanczos", 2))


def test_synthesize_equals_the_local_model(server: Server, radiograph_pixels: np.ndarray, models: Path) -> None:
    from svdrr.models import find_model
    from svdrr.synthesis.sampling import Sampling
    from svdrr.synthesis.synthesize import Synthesizer

    job = synthesize_job(seed=3, steps=3, guidance=2.0, pixel_spacing_mm=(1.0, 1.0))
    results = server.run(job, radiograph_pixels, timeout_s=120.0)
    synthesizer = Synthesizer(find_model("tiny"), "cpu")
    views = synthesizer.views(
        Radiograph(radiograph_pixels, (1.0, 1.0)), job.poses, Sampling(3, 2.0, 3), job.source_pose
    )
    for (entry, pixels), expected in zip(results, views, strict=True):
        assert_same(entry, pixels, expected)
    # The same seed, the same images; and how many views are asked for together does not matter.
    again = server.run(
        synthesize_job(ANGLES[:1], seed=3, steps=3, guidance=2.0, pixel_spacing_mm=(1.0, 1.0)), radiograph_pixels
    )
    np.testing.assert_allclose(again[0][1], results[0][1], atol=1e-5)


def test_the_provenance_says_synthetic_and_names_no_file(server: Server, phantom: CTVolume) -> None:
    ((entry, _),) = server.run(render_job(phantom, angles=(0.0,)), phantom.hu)
    assert entry["provenance"]["SVDRR.Synthetic"] == "SYNTHETIC, not for diagnosis"
    provenance = Provenance.from_attributes(entry["provenance"])
    assert provenance is not None
    assert provenance.method.startswith("DRR (")
    assert "/" not in provenance.source


def test_pixels_that_the_server_holds_are_named_by_their_hash(server: Server) -> None:
    pixels = np.random.default_rng(11).random((20, 30), np.float32)
    named = hashlib.sha256(to_npy(pixels)).hexdigest()
    missing = server.submit(EchoJob(pixels_sha256=named))
    assert (missing.status_code, missing.json()["error"]["code"]) == (409, "pixels_unknown")
    first = server.start(EchoJob(), pixels)
    second = server.start(EchoJob(pixels_sha256=named))
    server.finished(first)
    server.cancel(first)
    assert server.finished(second)["state"] == "done"
    np.testing.assert_array_equal(server.result(second)[0][1], pixels)
    server.cancel(second)
    assert server.submit(EchoJob(pixels_sha256=named)).status_code == 409


def test_pixels_of_another_kind_of_job_fail_in_a_sentence(server: Server, phantom: CTVolume) -> None:
    held = server.start(render_job(phantom), phantom.hu)
    named = hashlib.sha256(to_npy(phantom.hu)).hexdigest()
    status = server.finished(server.start(EchoJob(pixels_sha256=named)))
    assert status["state"] == "failed"
    assert status["message"].startswith("The pixels must have 2 axes")
    server.cancel(held)


def test_views_come_one_by_one_while_the_job_runs(server: Server, phantom: CTVolume) -> None:
    job_id = server.start(render_job(phantom, Detector.square(256, 300.0), tuple(range(-80, 80))), phantom.hu)
    server.wait(job_id, lambda status: status["views_done"] >= 1)
    ((entry, pixels),) = server.result(job_id, 0)
    assert entry["array"] == "view_00000.npy"
    assert pixels.shape == (256, 256)
    early = server.get(f"/v1/jobs/{job_id}/result/159")
    whole = server.get(f"/v1/jobs/{job_id}/result")
    assert server.status(job_id)["state"] == "running"
    for answer in (early, whole):
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_finished")
    beyond = server.get(f"/v1/jobs/{job_id}/result/160")
    assert (beyond.status_code, beyond.json()["error"]["code"]) == (404, "not_found")
    server.cancel(job_id)


def test_events_tell_the_whole_story(server: Server, phantom: CTVolume) -> None:
    job = render_job(phantom, angles=tuple(range(0, 60, 10)))
    job_id = server.start(job, phantom.hu)
    events = list(server.events(job_id))
    statuses = [event.data for event in events if event.name == "status"]
    views = [event for event in events if event.name == "view"]
    assert {status["id"] for status in statuses} == {job_id}
    assert statuses[-1]["state"] == "done"
    assert events[-1].data == statuses[-1]
    done = [status["views_done"] for status in statuses]
    assert done == sorted(done)
    assert [event.id for event in views] == [str(number) for number in range(1, 7)]
    assert [event.data["index"] for event in views] == list(range(6))
    assert [event.data["label"] for event in views] == [pose.label for pose in job.poses]  # type: ignore[union-attr]
    for event in views:
        with Image.open(io.BytesIO(base64.b64decode(event.data["preview_png"]))) as picture:
            assert picture.format == "PNG"
            assert max(picture.size) <= 96
            assert len(picture.getcolors()) > 10

    later = [event.data["index"] for event in server.events(job_id, last_event_id=4) if event.name == "view"]
    assert later == [4, 5]
    for nonsense in ("-1", "x", "9" * 400):
        headers = {"Last-Event-ID": nonsense}
        text = server.get(f"/v1/jobs/{job_id}/events", headers=headers).text
        assert text.count("event: view") == 6


def test_progress_has_steps_and_the_time_left(server: Server, radiograph_pixels: np.ndarray) -> None:
    statuses = [
        event.data
        for event in server.events(server.start(synthesize_job(steps=100), radiograph_pixels))
        if event.name == "status"
    ]
    steps = [status for status in statuses if status["stage"] == "Synthesizing"]
    assert len(steps) > 5
    assert all(0 <= status["step"] <= status["steps"] for status in steps)
    assert [status["step"] for status in steps] == sorted(status["step"] for status in steps)
    assert any(status["eta_s"] is not None and status["eta_s"] > 0.0 for status in steps)
    assert statuses[-1]["state"] == "done"
    assert statuses[-1]["eta_s"] is None


def test_20_clients_each_get_their_own_result(server: Server, phantom: CTVolume) -> None:
    def one_client(number: int) -> None:
        pixels = np.random.default_rng(number).random((40, 40), np.float32)
        if number % 4 == 0:
            np.testing.assert_array_equal(server.run(EchoJob(), pixels, 120.0)[0][1], pixels)
        elif number % 4 == 1:
            result = server.run(EnhanceJob("bicubic", 2), pixels, 120.0)[0][1]
            np.testing.assert_array_equal(result, enhance(Radiograph(pixels), "bicubic", 2).pixels)
        elif number % 4 == 2:
            job = render_job(phantom, engine="siddon", angles=(float(number),))
            result = server.run(job, phantom.hu, 120.0)[0][1]
            ((expected, _),) = render_drrs(phantom, job.poses, DETECTOR, "siddon")  # type: ignore[union-attr]
            np.testing.assert_array_equal(result, expected.pixels)
        else:
            job_id = server.start(synthesize_job((float(number),), seed=number), pixels)
            assert list(server.events(job_id, timeout_s=120.0))[-1].data["state"] == "done"
            ((entry, result),) = server.result(job_id)
            assert entry["provenance"]["SVDRR.Seed"] == str(number)
            assert hashlib.sha256(pixels.tobytes()).hexdigest() in entry["provenance"]["SVDRR.Source"]
            assert result.shape == (32, 32)

    with ThreadPoolExecutor(20) as clients:
        list(clients.map(one_client, range(20)))


def slow_job(phantom: CTVolume) -> Job:
    """Minutes of work in short steps."""
    return render_job(phantom, Detector.square(1024, 300.0), tuple(i * 0.1 for i in range(2000)))


def assert_cancelled(server: Server, job_id: str) -> None:
    """Gone at once, and the worker is free for the next job within a second, and the time that it takes to start."""
    follower = server.events(job_id, last_event_id=2000)
    assert next(follower).name == "status"
    begun = time.monotonic()
    server.cancel(job_id)
    assert server.get(f"/v1/jobs/{job_id}").status_code == 404
    assert list(follower)[-1].name == "gone"
    assert time.monotonic() - begun < 1.0
    for path in ("", "/events", "/result", "/result/0"):
        answer = server.get(f"/v1/jobs/{job_id}{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert server.ask("DELETE", f"/v1/jobs/{job_id}").status_code == 404


def test_cancel_a_running_job_that_listens(server: Server, phantom: CTVolume, radiograph_pixels: np.ndarray) -> None:
    (worker,) = server.workers()
    job_id = server.start(slow_job(phantom), phantom.hu)
    server.wait(job_id, lambda status: status["views_done"] >= 2)
    assert_cancelled(server, job_id)
    begun = time.monotonic()
    server.run(EchoJob(), radiograph_pixels)
    if worker.is_running():
        assert time.monotonic() - begun < 3.0
    server.wait_until_ready()


def test_cancel_a_job_that_does_not_listen(server: Server, phantom: CTVolume, radiograph_pixels: np.ndarray) -> None:
    """While one large view is computed, no one asks whether it is still wanted: the worker is killed."""
    (worker,) = server.workers()
    job_id = server.start(render_job(phantom, Detector.square(4096, 300.0), engine="siddon"), phantom.hu)
    server.wait(job_id, lambda status: status["stage"] == "Rendering")
    assert_cancelled(server, job_id)
    killed = time.monotonic()
    worker.wait(2.0)
    assert time.monotonic() - killed < 1.5
    server.run(EchoJob(), radiograph_pixels)
    (successor,) = server.workers()
    assert successor.pid != worker.pid


def test_cancel_while_the_model_is_loaded(server: Server, radiograph_pixels: np.ndarray) -> None:
    # A worker that may have the model from an earlier job gives way to one that has not.
    (worker,) = server.workers()
    worker.kill()
    worker.wait(5.0)
    job_id = server.start(synthesize_job(steps=1000), radiograph_pixels)
    server.wait(job_id, lambda status: status["stage"] == "Loading tiny")
    assert_cancelled(server, job_id)
    server.run(EchoJob(), radiograph_pixels)


def test_cancel_a_job_that_waits(server: Server, phantom: CTVolume, radiograph_pixels: np.ndarray) -> None:
    before = server.start(slow_job(phantom), phantom.hu)
    waiting = [server.start(EchoJob(), radiograph_pixels) for _ in range(3)]
    assert [server.status(job_id)["position"] for job_id in waiting] == [0, 1, 2]
    assert_cancelled(server, waiting[1])
    assert [server.status(waiting[index])["position"] for index in (0, 2)] == [0, 1]
    server.cancel(before)
    for index in (0, 2):
        assert server.finished(waiting[index])["state"] == "done"


def test_cancel_a_job_that_has_ended(server: Server, phantom: CTVolume, radiograph_pixels: np.ndarray) -> None:
    done = server.start(EchoJob(), radiograph_pixels)
    assert server.finished(done)["state"] == "done"
    named = hashlib.sha256(to_npy(radiograph_pixels)).hexdigest()
    failed = server.start(render_job(phantom, pixels_sha256=named))
    assert server.finished(failed)["state"] == "failed"
    for job_id in (done, failed):
        server.cancel(job_id)
        for path in ("", "/events", "/result", "/result/0"):
            assert server.get(f"/v1/jobs/{job_id}{path}").status_code == 404


@pytest.mark.parametrize(
    "job_id",
    [
        UNKNOWN,
        UNKNOWN.upper(),
        UNKNOWN[:-1],
        UNKNOWN + "0",
        "..%2F..%2Fetc%2Fpasswd",
        "%00",
        "x" * 5000,
        "*",
        "jobs'--",
    ],
)
def test_what_is_no_jobs_id_is_not_found(server: Server, job_id: str) -> None:
    for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/result"), ("GET", "/result/0"), ("DELETE", "")):
        answer = server.ask(method, f"/v1/jobs/{job_id}{path}")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"


def test_what_is_no_views_number_is_not_found(server: Server, radiograph_pixels: np.ndarray) -> None:
    job_id = server.start(EchoJob(), radiograph_pixels)
    server.finished(job_id)
    for index in ("-1", "1", "x", "9" * 30, "0.5", "%2e%2e"):
        answer = server.get(f"/v1/jobs/{job_id}/result/{index}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_methods_that_there_are_not(server: Server) -> None:
    for method, path in (
        ("PUT", "/v1/jobs"),
        ("GET", "/v1/jobs"),
        ("POST", f"/v1/jobs/{UNKNOWN}"),
        ("DELETE", "/v1/health"),
    ):
        answer = server.ask(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        "Bearer \xfc\xff",
        TOKEN,
    ],
)
def test_a_token_that_is_missing_or_wrong(server: Server, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in (
        ("GET", "/v1/capabilities"),
        ("POST", "/v1/jobs"),
        ("GET", f"/v1/jobs/{UNKNOWN}"),
        ("GET", "/x"),
    ):
        answer = requests.request(method, f"{server.url}{path}", headers=headers, timeout=10.0, data=b"x" * 100_000)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert TOKEN not in answer.text


def test_what_a_server_refuses_to_start_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "short").write_text("0123456789abcde\n")
    nothing, key = tmp_path / "nothing.pem", tmp_path / "key.pem"
    nothing.write_text("no certificate")
    key.write_text("no key")

    def run(*_: object, **__: object) -> None:
        raise AssertionError("the server was started")

    monkeypatch.setattr("uvicorn.Server.run", run)
    for sentence, token, arguments in (
        ("at least 16 characters", None, ["--token-file", tmp_path / "empty"]),
        ("at least 16 characters", None, ["--token-file", tmp_path / "short"]),
        ("at least 16 characters", "", []),
        ("at least 16 characters", "schlüssel-schlüssel", []),
        ("cannot be read", None, ["--token-file", tmp_path]),
        ("cannot be written", None, ["--token-file", tmp_path / "missing" / "token"]),
        ("so it needs a token", None, ["--host", "0.0.0.0"]),
        ("so it needs a token", None, ["--host", "::"]),
        ("both --certificate and --key", TOKEN, ["--certificate", nothing]),
        ("certificate and its key cannot be used", TOKEN, ["--certificate", nothing, "--key", key]),
        ("no folder of models", TOKEN, ["--models", tmp_path / "missing"]),
        ("must be above 0", TOKEN, ["--keep-minutes", "0"]),
    ):
        monkeypatch.delenv("SVDRR_TOKEN", raising=False)
        if token is not None:
            monkeypatch.setenv("SVDRR_TOKEN", token)
        with pytest.raises(SVDRRError, match=sentence):
            serve_with(tmp_path / "spool", *arguments)


def serve_with(spool: Path, *arguments: object) -> None:
    """`svdrr serve` in this process."""
    line = ["serve", "--port", "0", "--device", "cpu", "--spool", str(spool), *map(str, arguments)]
    typer.main.get_command(app)(line, standalone_mode=False)


def test_a_refusal_ends_the_process_with_a_sentence(tmp_path: Path) -> None:
    assert "so it needs a token: give --token-file." in refusal(tmp_path / "spool", "--host", "0.0.0.0", token=None)


def test_without_a_token_only_programs_on_this_computer_are_answered(spool: Path) -> None:
    with server_process(spool, token=None, ready=False) as server:
        port = server.address[1]
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", "localhost"):
            assert server.get("/v1/capabilities", headers={"Host": host}).status_code == 200
        refused = [
            {"Host": host} for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[::1", "")
        ]
        refused += [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": server.url}]
        for headers in refused:
            for path in ("/v1/capabilities", "/v1/health", f"/v1/jobs/{UNKNOWN}"):
                answer = server.get(path, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


def test_tls_by_certificate_files(spool: Path, tmp_path: Path, radiograph_pixels: np.ndarray) -> None:
    signed, key = certificate(tmp_path / "certificates")
    with server_process(spool, "--certificate", str(signed), "--key", str(key), verify=str(signed)) as server:
        assert server.url.startswith("https://")
        np.testing.assert_array_equal(server.run(EchoJob(), radiograph_pixels)[0][1], radiograph_pixels)
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"{server.url}/v1/health", timeout=10.0)
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(f"{server.url.replace('https', 'http')}/v1/health", timeout=10.0)


def test_the_log_holds_no_token_no_pixels_and_no_jobs_id(server: Server, phantom: CTVolume) -> None:
    job_id = server.start(render_job(phantom), phantom.hu)
    server.finished(job_id)
    server.result(job_id)
    list(server.events(job_id))
    server.ask("GET", "/v1/jobs", headers={"Authorization": "Bearer a-wrong-token-to-be-kept"})
    log = server.log()
    assert "worker" in log
    for secret in (TOKEN, "a-wrong-token", job_id, hashlib.sha256(to_npy(phantom.hu)).hexdigest()):
        assert secret not in log
    assert "Traceback" not in log
    # What others on the computer can see of the processes, and what a worker could give away.
    for process in (*server.workers(),):
        assert TOKEN not in " ".join(process.cmdline())
        assert TOKEN not in process.environ().values()


def test_the_openapi_document_describes_jobs_token_and_errors(server: Server) -> None:
    document = requests.get(f"{server.url}/openapi.json", timeout=30).json()
    schemas = document["components"]["schemas"]
    for kind in (RenderJob, SynthesizeJob, EnhanceJob, EchoJob):
        assert set(schemas[kind.__name__]["properties"]) == {field.name for field in dataclasses.fields(kind)}
    parts = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert parts["properties"]["job"] == {"$ref": "#/components/schemas/Job"}
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    for path in document["paths"].values():
        for operation in path.values():
            assert "default" in operation["responses"]
            assert "422" not in operation["responses"]
    refused = server.submit({"kind": "echo", "nonsense": 1}).json()
    assert set(refused) == set(schemas["Error"]["properties"])
    assert set(refused["error"]) == set(schemas["Error"]["properties"]["error"]["properties"])
