"""Start the page of a run, and open it in the browser where only this machine reaches it."""

from __future__ import annotations

import os
import socket
import sys
import webbrowser

from cxr.inference.predictor import Predictor
from cxr.settings import Settings
from cxr.steps.serve.connections import make_server
from cxr.steps.serve.door import Door, make_door
from cxr.steps.serve.server import create_app
from cxr.system.errors import InputError

THIS_MACHINE = "127.0.0.1"


def serve(predictor: Predictor, settings: Settings) -> None:
    """Serve until Ctrl-C. InputError for a port, host or token that cannot be used."""
    door = make_door(settings.hospital)
    with listen(settings.extra.port, door.host if door else THIS_MACHINE) as listening:
        predictor.load()  # now, and not with the first image
        invite(listening.getsockname()[1], door)
        make_server(create_app(predictor, door=door)).run(sockets=[listening])


def invite(port: int, door: Door | None) -> None:
    """Say where the page is."""
    if door is not None:
        token = f", with the token of {door.file} for TOKEN" if door.file else ""
        print(f"open {door.address(port)} in a browser{token}; Ctrl-C ends it", flush=True)
        return
    address = f"http://{THIS_MACHINE}:{port}/"
    print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
    if has_screen():
        webbrowser.open(address)


def has_screen() -> bool:
    """Whether a browser could open here; on Linux without a display only one in text would."""
    if sys.platform in ("win32", "darwin"):
        return True
    return "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ


def listen(port: int, host: str = THIS_MACHINE) -> socket.socket:
    """Socket of an address of this machine; port 0 takes a free one."""
    try:
        return socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        other = "" if host == THIS_MACHINE else f", or a --host other than {host}"
        raise InputError(
            f"port {port} cannot be used ({error}): choose another --port{other}"
        ) from None
