"""Start the local page of a run and open it in the browser."""

from __future__ import annotations

import os
import socket
import sys
import webbrowser

from cxr.inference.predictor import Predictor
from cxr.settings import Settings
from cxr.steps.serve.connections import make_server
from cxr.steps.serve.server import create_app
from cxr.system.errors import InputError
from cxr.tasks import Task


def serve(task: Task, settings: Settings) -> None:
    """Serve until Ctrl-C. InputError for a run that is not there or a port that is taken."""
    predictor = Predictor(task, settings)
    print(predictor.describe())
    for note in predictor.notes:
        print(note)
    with listen(settings.extra.port) as listening:
        predictor.load()  # now, and not with the first image
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
        if has_screen():
            webbrowser.open(address)
        make_server(create_app(predictor)).run(sockets=[listening])


def has_screen() -> bool:
    """Whether a browser could open here; on Linux without a display only one in text would."""
    if sys.platform in ("win32", "darwin"):
        return True
    return "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ


def listen(port: int) -> socket.socket:
    """Socket that only this machine can reach; port 0 takes a free one."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} cannot be used ({error}): choose another --port") from None
