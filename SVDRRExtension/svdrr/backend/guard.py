"""Who may ask, and how much: what stands before the application."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

CHUNK_WITHIN_S = 15.0
BODY_WITHIN_S = 900.0
_DRAIN_S = 2.0
_OPEN_PATHS = ("/v1/health", "/openapi.json", "/docs")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class RefusedError(Exception):
    """A request that is answered with an error: its HTTP status, a code for programs, a sentence for people."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers

    def response(self) -> JSONResponse:
        """The answer to the client."""
        content = {"error": {"code": self.code, "message": str(self)}}
        return JSONResponse(content, self.status, self.headers)


class Guard:
    """ASGI middleware: the token, and where there is none, that the request comes from a program on this computer.

    Without a token any web page could post to the loopback address from the user's browser, or reach it under a name
    of its own; so requests with an Origin and those for another host's name are refused.
    """

    def __init__(self, application: Application, token: str | None) -> None:
        self._application = application
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(scope["path"], Headers(scope=scope))
            except RefusedError as refusal:
                # A client that is still sending would see a broken connection in place of the answer.
                await _drain(receive)
                await refusal.response()(scope, receive, send)
                return
        await self._application(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        if self._token is None:
            if "origin" in headers or _host_name(headers.get("host", "")) not in _LOOPBACK:
                raise RefusedError(403, "forbidden", "This backend answers programs on its own computer only.")
            return
        if path in _OPEN_PATHS:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
            message = "The backend wants a token." if not given else "The backend does not accept this token."
            raise RefusedError(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def limited_body(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """The request's body as it comes; RefusedError if it is too large, too slow or cut off."""
    too_large = RefusedError(413, "too_large", f"A request may have {max_bytes / 2**20:.0f} MiB at most.")
    announced = request.headers.get("content-length", "0")
    if not announced.isdigit() or int(announced) > max_bytes:
        await _drain(request.receive)
        raise too_large
    size = 0
    stream = aiter(request.stream())
    deadline = asyncio.get_running_loop().time() + BODY_WITHIN_S
    while True:
        left = deadline - asyncio.get_running_loop().time()
        try:
            chunk = await asyncio.wait_for(anext(stream), min(CHUNK_WITHIN_S, max(left, 0.0)))
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:
            raise RefusedError(408, "timeout", "The request's data came too slowly.") from None
        except ClientDisconnect:
            raise RefusedError(400, "invalid", "The request's data was cut off.") from None
        size += len(chunk)
        if size > max_bytes:
            await _drain(request.receive)
            raise too_large
        yield chunk


async def _drain(receive: Receive) -> None:
    async def discard() -> None:
        while True:
            message = await receive()
            if message["type"] != "http.request" or not message.get("more_body"):
                return

    try:
        await asyncio.wait_for(discard(), _DRAIN_S)
    except asyncio.TimeoutError:
        return
