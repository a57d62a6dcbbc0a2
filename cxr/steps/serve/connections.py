"""The server of the page: clients that stall lose their connection, and Ctrl-C ends it soon."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
from types import FrameType

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 5  # for the headers of a request, which a browser sends at once
# Half-open ones count until their time is over; macOS lets a process have 256 files.
MOST_CONNECTIONS = 200
# After Ctrl-C: for answers that are on their way, then for networks that still compute.
ANSWER_SECONDS = 1
END_SECONDS = 3
ENDED_BY_SIGNAL = 128  # + its number, as shells count


class HeaderTimeout(H11Protocol):
    """A connection that ends where a request has begun, or may, and its headers do not arrive.

    uvicorn itself limits only the time between an answer and the first byte of the next request.
    """

    header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.watch_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_timer()
        super().connection_lost(exc)

    def watch_headers(self) -> None:
        """Start the time of headers that are awaited, or stop it when they are there.

        Whoever is answered before the whole body came, as a file that is too large, has no more
        time for the rest.
        """
        is_answered = self.cycle is not None and self.cycle.response_complete
        if self.conn.their_state is not h11.IDLE and not is_answered:
            self.stop_timer()
        elif self.header_timer is None:
            self.header_timer = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def stop_timer(self) -> None:
        if self.header_timer is not None:
            self.header_timer.cancel()
            self.header_timer = None


class PageServer(uvicorn.Server):
    """Ends within END_SECONDS of Ctrl-C, whatever is being uploaded, decoded or predicted."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            # Requests that are broken off now are no mistakes to be told.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
            timer = threading.Timer(END_SECONDS, end_process, [ENDED_BY_SIGNAL + sig])
            timer.daemon = True
            timer.start()
            # When all is done: else the interpreter takes PyTorch apart, for seconds.
            atexit.register(end_process, ENDED_BY_SIGNAL + sig)
        super().handle_exit(sig, frame)


def end_process(status: int) -> None:
    """Without waiting for threads, in which a network may compute for long."""
    sys.stdout.flush()
    os._exit(status)


def make_server(app: ASGIApp, log_level: str = "warning") -> PageServer:
    settings = uvicorn.Config(
        app,
        http=HeaderTimeout,
        log_level=log_level,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=ANSWER_SECONDS,
    )
    return PageServer(settings)
