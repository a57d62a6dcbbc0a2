"""Who may reach the page from other machines: those who have its token."""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cxr.settings import HospitalSettings
from cxr.system.errors import InputError

TOKEN_BYTES = 32
FEWEST_LETTERS = 22  # of a token in a file: 128 bits in base64
URL_SAFE = re.compile(r"[A-Za-z0-9_.~-]*")
MAKE_TOKEN = "python -c 'import secrets; print(secrets.token_urlsafe())'"
REFUSED = "This page needs the token of its serve.py: open the whole address that it printed."


@dataclass(frozen=True)
class Door:
    """host: this machine's address or name for others, as browsers say it in Host.

    file: where the token stands, "" for a random one.
    """

    host: str
    token: str
    file: str = ""

    def address(self, port: int) -> str:
        """What is to be opened. A token that has a file is not printed, since logs are kept."""
        token = "TOKEN" if self.file else self.token
        return f"http://{self.host}:{port}/?token={token}"


def make_door(settings: HospitalSettings) -> Door | None:
    """None without --host. InputError for a host or a token that cannot be used."""
    if not settings.host:
        return None
    check_host(settings.host)
    if settings.token_file:
        return Door(settings.host, read_token(Path(settings.token_file)), settings.token_file)
    return Door(settings.host, secrets.token_urlsafe(TOKEN_BYTES))


def check_host(host: str) -> None:
    """Raises InputError unless browsers on other machines may say this host, and reach it."""
    remedy = "give the IPv4 address or the name under which others reach this machine"
    try:
        given = ipaddress.ip_address(host)
    except ValueError:
        given = None
    if given is not None and (given.is_unspecified or given.version != 4):
        raise InputError(f"--host {host} cannot be used: {remedy}")
    try:
        address = ipaddress.ip_address(socket.gethostbyname(host))
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host} is not known ({error}): {remedy}") from None
    if given is None and address.is_loopback and host != "localhost":
        raise InputError(
            f"--host {host} is {address} for this machine itself, where nobody else reaches it: "
            "give its address"
        )


def read_token(path: Path) -> str:
    """The token of a file. Raises InputError where it is missing, short or not fit for a URL."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--token-file {path} cannot be read ({error}): write one by {MAKE_TOKEN}"
        ) from None
    if len(token) < FEWEST_LETTERS or not URL_SAFE.fullmatch(token):
        raise InputError(
            f"--token-file {path} must hold at least {FEWEST_LETTERS} letters, digits or -_.~ in "
            f"one line: write one by {MAKE_TOKEN}"
        )
    return token


class TokenCheck:
    """Refuses requests without the token.

    The address of the page may hold it, and its answer then sets a cookie that holds it for the
    requests that follow. Programs may send it in a header, `Authorization: Bearer TOKEN`.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the start and the end of the server
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        # Cookies know no ports, and two pages of a machine may have two tokens.
        cookie = f"cxr_token_{scope['server'][1]}"
        in_address = request.query_params.get("token")
        if request.url.path == "/" and in_address is not None:
            is_right = self.is_right(in_address)
            if is_right:
                send = with_cookie(send, cookie, self.token)
        else:
            in_header = request.headers.get("authorization", "").removeprefix("Bearer ")
            is_right = self.is_right(request.cookies.get(cookie, "")) or self.is_right(in_header)
        if is_right:
            await self.app(scope, receive, send)
        else:
            refusal = JSONResponse({"error": REFUSED}, 401, {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)

    def is_right(self, given: str) -> bool:
        """Compares in a time that does not depend on where they differ."""
        return secrets.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


def with_cookie(send: Send, name: str, value: str) -> Send:
    """`send`, with a cookie in the answer: only for this site's own requests, not for scripts."""

    async def send_with_cookie(message: Message) -> None:
        if message["type"] == "http.response.start":
            cookie = f"{name}={value}; Path=/; HttpOnly; SameSite=Strict"
            MutableHeaders(scope=message).append("set-cookie", cookie)
        await send(message)

    return send_with_cookie
