"""Start the local page of a run and open it in the browser."""

import os
import socket
import sys
import webbrowser

import uvicorn

from cxr.inference.predictor import Predictor
from cxr.steps.serve.server import create_app
from cxr.system.disk import InputError

MOST_REQUESTS = 20  # at a time; each may hold an upload on disk


def serve(task, config):
    """Serve until Ctrl-C. InputError for a run that is not there or a port that is taken."""
    predictor = Predictor(task, config)
    print(predictor.describe())
    print("\n".join(predictor.notes)) if predictor.notes else None
    with listen(config.port) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        predictor.sides  # loads the models now, not with the first image
        print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
        if (
            sys.platform in ("win32", "darwin")
            or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
        ):
            webbrowser.open(address)
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(predictor),
                log_level="warning",
                server_header=False,
                limit_concurrency=MOST_REQUESTS,
            )
        )
        server.run(sockets=[listening])


def listen(port):
    """Socket that only this machine can reach; port 0 takes a free one."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} cannot be used ({error}): choose another --port") from None
