# ruff: noqa: PT028
"""The way to a backend: its address, the connection, and one sentence about what is wrong where there is none."""

from __future__ import annotations

import errno
import ipaddress
import json
import re
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.util.ssl_match_hostname import CertificateError

from svdrr import __version__
from svdrr.backend.jobs import API
from svdrr.errors import SVDRRError

Verify = Literal[True] | str | Path

TIMEOUT_S = (5.0, 30.0)
"""To connect, and between two pieces of an answer."""

LOST = frozenset({"no_host", "refused", "unreachable", "timeout", "dropped"})
"""Codes of what may pass by itself."""

_MAX_JSON_BYTES = 2**22
# So often the clock is looked at while JSON comes in.
_DRIP_BYTES = 64
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EADDRNOTAVAIL)
_CERTIFICATE_EXPIRED = 10  # X509_V_ERR_* of OpenSSL's x509_vfy.h, as are the next two
_CERTIFICATE_OF_ANOTHER_HOST = (62, 64)


class BackendError(SVDRRError):
    """A backend that cannot be reached, or that refuses. code: as in `Diagnosis`, or the server's own."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class Diagnosis:
    """What `test_connection` found.

    ok: whether jobs can be sent there. code: "ok", "no_model", "no_gpu" or "busy" where it is; else "bad_url",
    "no_host", "refused", "unreachable", "dropped", "tls", "timeout", "unauthorized", "forbidden", "not_svdrr",
    "version", "not_ready", or the server's own. sentence: what is the matter and what to do, for people.
    """

    ok: bool
    code: str
    sentence: str


class Connection:
    """HTTP to one backend.

    url: such as "https://gpu.example.org:8000". token: None for a server without. verify: the file of a certificate
    authority to trust, or True for those that this computer trusts. timeout_s: to connect, and between two pieces of
    an answer. Errors, from here on, are BackendError.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        verify: Verify = True,
        timeout_s: tuple[float, float] = TIMEOUT_S,
    ) -> None:
        self.url = _checked_url(url)
        self.timeout_s = timeout_s
        self.loopback = _is_loopback(str(urlsplit(self.url).hostname))
        self._authorize = _Bearer(_checked_token(token))
        self._verify = _checked_verify(verify)
        self._session = requests.Session()
        # A proxy of the environment cannot reach this computer's loopback, and shall not see what stays on it.
        self._session.trust_env = not self.loopback
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._is_ours = False

    @property
    def encrypted(self) -> bool:
        """Whether nobody on the way can read along."""
        return self.loopback or self.url.startswith("https:")

    def send(
        self,
        method: str,
        path: str,
        data: IO[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        anonymous: bool = False,
        timeout_s: tuple[float, float] | None = None,
    ) -> requests.Response:
        """The answer's head; its body is read by `pieces` or `read_json`.

        anonymous: without the token, which leaves only after `check_server`.
        """
        if not (anonymous or self._is_ours):
            self.check_server()
        handled = sys.exc_info()[1]
        try:
            response = self._session.request(
                method,
                self.url + path,
                data=data,
                headers=headers,
                auth=_Bearer(None) if anonymous else self._authorize,
                timeout=timeout_s or self.timeout_s,
                verify=self._verify,
                stream=True,
                # The token must not follow a redirect to somewhere else.
                allow_redirects=False,
            )
        except (OSError, urllib3.exceptions.HTTPError) as error:
            raise _explained(error, self.url, handled) from None
        if response.status_code < 300:
            return response
        with response:
            raise self._refusal(response)

    def pieces(self, response: requests.Response, size: int | None = None) -> Iterator[bytes]:
        """The body in pieces of `size` bytes, or as they arrive."""
        handled = sys.exc_info()[1]
        try:
            yield from response.iter_content(size)
        except (OSError, urllib3.exceptions.HTTPError) as error:
            raise _explained(error, self.url, handled) from None

    def read_json(self, response: requests.Response) -> Any:
        """The body as JSON; a server that sends it ever so slowly gets the time for one answer, and a little more."""
        deadline = time.monotonic() + self.timeout_s[1]
        body = bytearray()
        for piece in self.pieces(response, _DRIP_BYTES):
            body += piece
            if time.monotonic() > deadline:
                raise _timed_out(self.url)
            if len(body) > _MAX_JSON_BYTES:
                raise _not_svdrr(self.url)
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise _not_svdrr(self.url) from None

    def get_json(self, path: str, anonymous: bool = False) -> Any:
        """The JSON at `path`."""
        with self.send("GET", path, anonymous=anonymous) as response:
            return self.read_json(response)

    def check_server(self) -> None:
        """BackendError unless an SVDRR server of this version's protocol answers; the token stays here."""
        try:
            health = self.get_json(f"/{API}/health", anonymous=True)
        except BackendError as error:
            # Health needs no token, so this is another address of a server, though maybe of ours.
            if error.code == "unauthorized" and urlsplit(self.url).path:
                raise _not_svdrr(self.url) from None
            raise
        if not isinstance(health, dict) or health.get("service") != "svdrr":
            raise _not_svdrr(self.url)
        if health.get("api") != API:
            raise BackendError(
                "version",
                f"The backend at {self.url} is SVDRR {health.get('version')} and speaks {health.get('api')}, but this "
                f"is SVDRR {__version__} and speaks {API}; update the older of the two.",
            )
        self._is_ours = True

    def _refusal(self, response: requests.Response) -> BackendError:
        """What a status from 300 on means; in the server's own words where it is ours."""
        try:
            error = self.read_json(response)["error"]
            return BackendError(str(error["code"]), str(error["message"]))
        except (BackendError, KeyError, TypeError):
            return _refused_by_another(response.status_code, self.url)


@dataclass(frozen=True)
class _Bearer(requests.auth.AuthBase):
    """Sends the token. An auth of our own, even without one, also keeps requests from looking into ~/.netrc."""

    token: str | None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.token is not None:
            request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def test_connection(
    url: str,
    token: str | None = None,
    verify: Verify = True,
    timeout_s: tuple[float, float] = TIMEOUT_S,
) -> Diagnosis:
    """Whether jobs can be sent to `url`, and if not, why. Waits for the network; arguments as in `Connection`."""
    try:
        connection = Connection(url, token, verify, timeout_s)
        return _verdict(connection, connection.get_json(f"/{API}/capabilities"))
    except BackendError as error:
        return Diagnosis(False, error.code, _with_advice(error, url, token))


def _verdict(connection: Connection, capabilities: Any) -> Diagnosis:
    try:
        version, devices, queue = (capabilities[name] for name in ("version", "devices", "queue"))
        ready = [device for device in devices if device["ready"]]
        problems = [device["problem"] for device in devices if device["problem"]]
        models = [model["name"] for model in capabilities["models"]]
        full = queue["queued"] >= queue["max_queued"]
        names = ", ".join(device["description"] for device in ready)
    except (KeyError, TypeError):
        raise BackendError(
            "version",
            f"The backend at {connection.url} answers in a way that SVDRR {__version__} does not know; update.",
        ) from None
    server = f"SVDRR {version} at {connection.url}"
    if not ready:
        problem = f" ({problems[0]})" if problems else ""
        return Diagnosis(
            False, "not_ready", f"{server} is not ready{problem}; try again in a minute, or look into its log."
        )
    if not models:
        code = "no_model"
        found = f"{server} has no model: it renders and enlarges; put a model into its --models folder to synthesize."
    elif full:
        code = "busy"
        found = f"{server} works, but its queue of {queue['queued']} jobs is full; try again later."
    elif all(device["name"] == "cpu" for device in ready):
        code = "no_gpu"
        found = f"{server} works, but finds no GPU and is slow ({names}); check its NVIDIA driver and PyTorch build."
    else:
        code = "ok"
        found = f"Connected to {server}: {names}; models: {', '.join(models)}."
    if not connection.encrypted:
        found += " The line is not encrypted: others on the network can see token and images; prefer https."
    return Diagnosis(True, code, found)


def _with_advice(error: BackendError, url: str, token: str | None) -> str:
    if error.code == "unauthorized":
        if token is None:
            return f"The backend at {url} wants a token; enter the one that it was started with."
        return f"{str(error).rstrip('.')}; enter the one that the backend was started with."
    if error.code == "forbidden":
        return f"{str(error).rstrip('.')}. Ask whoever runs {url} to let this computer in."
    return str(error)


def _checked_url(url: str) -> str:
    """The URL without a slash at its end."""
    url = url.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or re.search(r"[\s\x00-\x1f]", url):
        raise BackendError(
            "bad_url",
            f"'{url}' is not an address; enter one such as https://gpu.example.org:8000 or http://127.0.0.1:8000.",
        )
    if parts.username is not None or parts.query or parts.fragment:
        raise BackendError(
            "bad_url",
            f"The address of {parts.hostname} must hold no user, password, '?' or '#'; enter a token by itself.",
        )
    return url


def _checked_token(token: str | None) -> str | None:
    """The token without the white space that comes along when one is pasted."""
    if token is None:
        return None
    token = token.strip()
    if not re.fullmatch(r"[!-~]+", token):
        raise BackendError("unauthorized", "The token is empty or holds characters that no token has; enter it again.")
    return token


def _checked_verify(verify: Verify) -> bool | str:
    if verify is True:
        return verify
    try:
        ssl.create_default_context(cafile=verify)
    except OSError:
        raise BackendError("tls", f"'{verify}' is not a file of certificates; give a PEM file.") from None
    return str(verify)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _explained(error: Exception, url: str, handled: BaseException | None) -> BackendError:
    """What an exception of requests and of all that lies below it means.

    handled: what the caller was dealing with already, which Python also puts below.
    """
    causes = list(_causes(error, {id(handled)}))

    def among(*kinds: type[BaseException]) -> BaseException | None:
        return next((cause for cause in causes if isinstance(cause, kinds)), None)

    exceptions = requests.exceptions
    if among(exceptions.ProxyError, exceptions.InvalidProxyURL, exceptions.InvalidSchema):
        return BackendError(
            "unreachable",
            f"The proxy in this computer's network settings does not lead to {url}; correct HTTPS_PROXY, or add the "
            "host to NO_PROXY.",
        )
    if among(exceptions.InvalidURL, urllib3.exceptions.LocationValueError):
        return BackendError("bad_url", f"'{url}' is not an address that exists; check its spelling.")
    if among(socket.gaierror):
        return BackendError(
            "no_host", f"There is no computer called {_host(url)}; check the address, and the VPN if any."
        )
    if among(ConnectionRefusedError):
        return BackendError(
            "refused", f"No server runs at {url}; start it there with 'svdrr serve', or check the port."
        )
    if (tls := among(ssl.SSLError)) and not isinstance(tls, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return BackendError("tls", _tls_sentence(tls, url))
    if among(CertificateError):  # from urllib3 before 2, for addresses
        return BackendError("tls", _sentence_on_another_host(url))
    if among(TimeoutError, exceptions.Timeout, urllib3.exceptions.TimeoutError):
        return _timed_out(url)
    if any(isinstance(cause, OSError) and cause.errno in _UNREACHABLE for cause in causes):
        return BackendError("unreachable", f"No way leads to {_host(url)}; check the network, the VPN and the address.")
    return BackendError(
        "dropped",
        f"The connection to {url} broke off; check that the server runs"
        + (", and whether its address begins with https." if url.startswith("http:") else "."),
    )


def _tls_sentence(error: BaseException, url: str) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return f"{url} does not answer with TLS; if it has no certificate, its address begins with http:// instead."
    if error.verify_code == _CERTIFICATE_EXPIRED:
        return f"The certificate of {_host(url)} has expired; have it renewed, or correct this computer's clock."
    if error.verify_code in _CERTIFICATE_OF_ANOTHER_HOST:
        return _sentence_on_another_host(url)
    return (
        f"This computer does not trust the certificate of {_host(url)} ({error.verify_message}); if it is your own, "
        "give its file as the one to trust."
    )


def _sentence_on_another_host(url: str) -> str:
    return f"The certificate there is not for {_host(url)}; enter the name that the certificate was made for."


def _refused_by_another(status: int, url: str) -> BackendError:
    """What an answer means that is not in an SVDRR server's words, such as that of a proxy before it."""
    if status == 401:
        return BackendError("unauthorized", f"{url} asks for a login that SVDRR does not have.")
    if status == 403:
        return BackendError("forbidden", f"{url} does not let this computer in.")
    if status in (502, 503, 504):
        return BackendError("unreachable", f"A proxy answers at {url}, but not the server behind it; start it there.")
    if 300 <= status < 400:
        return BackendError("not_svdrr", f"{url} only leads on to another address; enter that one.")
    return _not_svdrr(url)


def _not_svdrr(url: str) -> BackendError:
    return BackendError(
        "not_svdrr", f"Something answers at {url}, but it is not an SVDRR server; check the address and the port."
    )


def _timed_out(url: str) -> BackendError:
    return BackendError(
        "timeout", f"{url} does not answer in time; check the address, the VPN and the firewall, or try again later."
    )


def _host(url: str) -> str:
    return str(urlsplit(url).hostname)


def _causes(error: object, seen: set[int]) -> Iterator[BaseException]:
    """The exception and all that led to it but those in `seen`: requests and urllib3 keep them in several places."""
    if not isinstance(error, BaseException) or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    for below in (error.__cause__, error.__context__, getattr(error, "reason", None), *error.args):
        yield from _causes(below, seen)
