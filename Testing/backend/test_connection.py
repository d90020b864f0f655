"""What is wrong with a connection is told apart, on real sockets, and the token stays where it belongs."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from fake_backends import (
    CAPABILITIES,
    CPU,
    GPU,
    HEALTH,
    capable,
    certificate,
    free_port,
    listener,
    send,
    send_error,
    send_json,
    site,
)

from svdrr.backend import connection
from svdrr.backend.connection import BackendError, Connection, Diagnosis

TOKEN = "a-token-that-nobody-may-see-1234"
QUICK = (1.0, 1.0)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for this computer, and its key."""
    return certificate(tmp_path_factory.mktemp("certificates") / "own")


def diagnose(url: str, token: str | None = TOKEN, verify: connection.Verify = True) -> Diagnosis:
    found = connection.test_connection(url, token, verify, QUICK)
    assert TOKEN not in found.sentence
    assert found.sentence.endswith(".")
    return found


def test_a_server_that_is_ready() -> None:
    with site(capable(CAPABILITIES, TOKEN)) as server:
        found = diagnose(server.url)
        assert found == Diagnosis(
            True, "ok", f"Connected to SVDRR 0.1.0 at {server.url}: NVIDIA H100; models: demo-256."
        )
        assert diagnose(f" {server.url}/ ", f"{TOKEN}\n") == found


@pytest.mark.parametrize(
    ("changes", "ok", "code", "words"),
    [
        ({"devices": [CPU]}, True, "no_gpu", "slow (CPU, 2 cores); check its NVIDIA driver"),
        ({"models": []}, True, "no_model", "put a model"),
        ({"queue": {"queued": 64, "running": 1, "max_queued": 64}}, True, "busy", "try again later"),
        ({"devices": [{**GPU, "ready": False, "problem": "starting"}]}, False, "not_ready", "(starting)"),
        ({"devices": []}, False, "not_ready", "look into its log"),
        ({"devices": [{"name": "cpu"}]}, False, "version", "update"),
        ({"models": 7}, False, "version", "update"),
    ],
)
def test_what_a_server_lacks(changes: dict[str, object], ok: bool, code: str, words: str) -> None:
    with site(capable({**CAPABILITIES, **changes})) as server:
        found = diagnose(server.url)
    assert (found.ok, found.code) == (ok, code)
    assert words in found.sentence


@pytest.mark.parametrize("capabilities", [[], "text", None, {}, {"version": 1, "devices": 3, "queue": 4}])
def test_capabilities_that_are_none(capabilities: object) -> None:
    with site(capable(capabilities)) as server:
        assert diagnose(server.url).code == "version"


def test_another_version() -> None:
    with site(capable(CAPABILITIES, health={**HEALTH, "version": "3.0.0", "api": "v2"})) as server:
        found = diagnose(server.url)
    assert (found.ok, found.code) == (False, "version")
    assert "SVDRR 3.0.0 and speaks v2" in found.sentence
    assert "speaks v1; update the older" in found.sentence


@pytest.mark.parametrize(
    ("token", "words"), [(None, "wants a token; enter"), ("wrong", "this token; enter"), ("wröng", "enter it again")]
)
def test_a_wrong_token(token: str | None, words: str) -> None:
    with site(capable(CAPABILITIES, TOKEN)) as server:
        found = diagnose(server.url, token)
    assert (found.ok, found.code) == (False, "unauthorized")
    assert words in found.sentence
    assert token is None or token not in found.sentence


@pytest.mark.parametrize("token", ["", " ", "two words", "line\nbreak", "\x00"])
def test_tokens_that_cannot_be(token: str) -> None:
    found = diagnose(f"http://127.0.0.1:{free_port()}", token)
    assert found.code == "unauthorized"


def test_forbidden() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/v1/health":
            send_json(handler, HEALTH)
        else:
            send_error(handler, 403, "forbidden", "This backend answers programs on its own computer only.")

    with site(answer) as server:
        found = diagnose(server.url)
    assert (found.ok, found.code) == (False, "forbidden")
    assert found.sentence.startswith("This backend answers programs on its own computer only. Ask whoever runs")


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "unauthorized"), (403, "forbidden"), (404, "not_svdrr"), (500, "not_svdrr"), (502, "unreachable")],
)
def test_a_proxy_before_the_server(status: int, code: str) -> None:
    with site(lambda handler: send(handler, status, b"<html>nginx</html>")) as server:
        assert diagnose(server.url).code == code


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>It works!</html>", b"null", b"[]", b'"svdrr"', b'{"service": "other"}', b"\xff\xfe", b"[" * 20_000],
)
def test_a_web_server_that_is_not_ours_never_sees_the_token(body: bytes) -> None:
    with site(lambda handler: send(handler, 200, body)) as server:
        found = diagnose(server.url)
        assert [path for _, path, _, _ in server.requests] == ["/v1/health"]
        assert "Authorization" not in server.requests[0][2]
    assert (found.ok, found.code) == (False, "not_svdrr")
    assert "check the address and the port" in found.sentence


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    with site(capable(CAPABILITIES)) as elsewhere:

        def answer(handler: BaseHTTPRequestHandler) -> None:
            if handler.path == "/v1/health":
                send_json(handler, HEALTH)
            else:
                send(handler, status, b"", Location=elsewhere.url + handler.path)

        with site(answer) as server:
            found = diagnose(server.url)
        assert elsewhere.requests == []
    assert found.code == "not_svdrr"
    assert "leads on to another address" in found.sentence


def test_something_that_is_not_a_web_server() -> None:
    def talk(peer: socket.socket) -> None:
        peer.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
        peer.recv(10_000)

    with listener(talk) as url:
        assert diagnose(url).code == "dropped"


def test_endless_garbage() -> None:
    def talk(peer: socket.socket) -> None:
        peer.recv(10_000)
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.sendall(b"x" * 2**16)

    with listener(talk) as url:
        started = time.monotonic()
        assert diagnose(url).code in ("not_svdrr", "timeout")
        assert time.monotonic() - started < 10.0


def test_a_port_on_which_nothing_listens() -> None:
    found = diagnose(f"http://127.0.0.1:{free_port()}")
    assert (found.ok, found.code) == (False, "refused")
    assert "svdrr serve" in found.sentence


def test_a_name_that_does_not_exist() -> None:
    found = diagnose("https://no-such-computer.invalid:8650")
    assert (found.ok, found.code) == (False, "no_host")
    assert "no computer called no-such-computer.invalid" in found.sentence


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"], ids=["head", "body"])
def test_a_server_that_falls_silent(answer: bytes) -> None:
    def talk(peer: socket.socket) -> None:
        peer.recv(10_000)
        peer.sendall(answer)
        peer.recv(1)

    with listener(talk) as url:
        started = time.monotonic()
        found = diagnose(url)
        assert time.monotonic() - started < 3.0
    assert (found.ok, found.code) == (False, "timeout")


def test_a_server_that_sends_byte_by_byte() -> None:
    def talk(peer: socket.socket) -> None:
        peer.recv(10_000)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            peer.sendall(b" ")
            time.sleep(0.05)

    with listener(talk) as url:
        started = time.monotonic()
        assert diagnose(url).code == "timeout"
        assert time.monotonic() - started < 10.0


def test_a_port_that_takes_no_more_connections() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(8)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        found = diagnose(f"http://127.0.0.1:{port}")
        for one in waiting:
            one.close()
    assert found.code == "timeout"


def test_a_server_that_hangs_up() -> None:
    with listener(lambda peer: None) as url:
        found = diagnose(url)
    assert (found.ok, found.code) == (False, "dropped")
    assert "whether its address begins with https" in found.sentence


def test_a_certificate_of_our_own(own: tuple[Path, Path]) -> None:
    with site(capable(CAPABILITIES, TOKEN), own) as server:
        found = diagnose(server.url)
        assert (found.ok, found.code) == (False, "tls")
        assert "does not trust the certificate of 127.0.0.1" in found.sentence
        assert "give its file" in found.sentence
        assert server.requests == []
        assert diagnose(server.url, verify=own[0]).ok
        assert diagnose(server.url, verify=str(own[0])).ok


def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    pair = certificate(tmp_path / "other", names="DNS:gpu.example.org")
    with site(capable(CAPABILITIES), pair) as server:
        found = diagnose(server.url, verify=pair[0])
    assert found.code == "tls"
    assert "not for 127.0.0.1" in found.sentence


def test_a_certificate_that_has_expired(tmp_path: Path) -> None:
    pair = certificate(tmp_path / "old", valid=False)
    with site(capable(CAPABILITIES), pair) as server:
        found = diagnose(server.url, verify=pair[0])
    assert found.code == "tls"
    assert "has expired" in found.sentence


def test_https_to_a_server_without_it() -> None:
    with site(capable(CAPABILITIES)) as server:
        found = diagnose(server.url.replace("http:", "https:"))
    assert found.code == "tls"
    assert "begins with http:// instead" in found.sentence


def test_http_to_a_server_with_tls(own: tuple[Path, Path]) -> None:
    with site(capable(CAPABILITIES), own) as server:
        found = diagnose(server.url.replace("https:", "http:"))
    assert found.code == "dropped"
    assert "whether its address begins with https" in found.sentence


def test_certificate_files_that_are_none(tmp_path: Path) -> None:
    text = tmp_path / "text.pem"
    text.write_text("not a certificate")
    for verify in (tmp_path / "missing.pem", text, tmp_path):
        found = diagnose("https://127.0.0.1", verify=verify)
        assert found.code == "tls"
        assert "PEM" in found.sentence


@pytest.mark.parametrize(
    "url",
    [
        *("", " ", "gpu", "gpu:8000", "127.0.0.1:8000", "ftp://gpu", "file:///etc/passwd", "http://", "http:///v1"),
        *("http://:8000", "http://gpu:port", "http://gpu:99999", "http://gpu:0", "http://[::1", "http://g pu"),
        *("http://gpu/?a=b", "http://gpu/#x", "http://gpu\x00", "http://a..b", f"http://{'a' * 300}", "http://*"),
        *(f"http://{TOKEN}@gpu", f"http://user:{TOKEN}@gpu", f"http://gpu/?token={TOKEN}", f"http://gpu/#{TOKEN}"),
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    found = connection.test_connection(url, None, True, QUICK)
    assert (found.ok, found.code) == (False, "bad_url")
    assert TOKEN not in found.sentence


def test_a_server_under_a_path() -> None:
    with site(lambda handler: _strip(handler, "/svdrr")) as server:
        assert diagnose(f"{server.url}/svdrr/").ok


def _strip(handler: BaseHTTPRequestHandler, prefix: str) -> None:
    assert handler.path.startswith(f"{prefix}/v1/")
    handler.path = handler.path.removeprefix(prefix)
    capable(CAPABILITIES, TOKEN)(handler)


def test_proxies_are_for_other_computers(monkeypatch: pytest.MonkeyPatch) -> None:
    with site(capable(CAPABILITIES, TOKEN)) as server, site(lambda handler: send(handler, 404, b"")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        for host in ("127.0.0.1", "localhost"):
            assert diagnose(server.url.replace("127.0.0.1", host)).ok
        assert proxy.requests == []
        found = diagnose("http://gpu.invalid:8650")
        assert [path for _, path, _, _ in proxy.requests][:1] == ["http://gpu.invalid:8650/v1/health"]
        assert found.code == "not_svdrr"
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
        found = diagnose("http://gpu.invalid:8650")
    assert found.code == "unreachable"
    assert "NO_PROXY" in found.sentence


def test_an_unencrypted_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.path = handler.path.removeprefix("http://gpu.invalid")
        capable(CAPABILITIES, TOKEN)(handler)

    with site(answer) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        found = diagnose("http://gpu.invalid")
    assert found.ok
    assert "The line is not encrypted" in found.sentence


def test_netrc_never_replaces_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine gpu.invalid login someone password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.path = handler.path.removeprefix("http://gpu.invalid")
        capable(CAPABILITIES, TOKEN)(handler)

    with site(answer) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert diagnose("http://gpu.invalid").ok
        assert diagnose("http://gpu.invalid", None).code == "unauthorized"
        basic = base64.b64encode(b"someone:secret").decode()
        assert not any(basic in str(headers) for _, _, headers, _ in proxy.requests)


def test_a_bundle_of_the_environment_does_not_replace_the_file_given(
    own: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, _ = certificate(tmp_path / "other")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
    with site(capable(CAPABILITIES, TOKEN), own) as server:
        assert diagnose(server.url, verify=own[0]).ok


def test_an_earlier_error_is_not_taken_for_this_one() -> None:
    def after_no_host() -> Diagnosis:
        try:
            Connection("http://no-such-computer.invalid").check_server()
        except BackendError:
            return diagnose(f"http://127.0.0.1:{free_port()}")
        raise AssertionError

    assert after_no_host().code == "refused"


def test_broken_tls_is_a_dropped_line(own: tuple[Path, Path]) -> None:
    """As when a server is killed: what a client that follows a job tries again."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*own)

    def talk(peer: socket.socket) -> None:
        with context.wrap_socket(peer, server_side=True) as secured:
            secured.recv(10_000)
            os.dup2(os.open(os.devnull, os.O_RDWR), secured.fileno())

    with listener(talk) as url:
        assert diagnose(url.replace("http:", "https:"), verify=own[0]).code == "dropped"
