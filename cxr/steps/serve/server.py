"""A page on this machine that predicts what is dropped on it: the HTTP side. The page itself is in cxr/web/.

Only this machine is served (127.0.0.1), and only its own page: other Host or Origin headers are refused, so that no
web page elsewhere can reach it through the browser. Nothing is kept: an upload is deleted when it is answered.
"""

import asyncio
import base64
import tempfile
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse
from starlette.routing import Route

from cxr.images.isolated import Reader
from cxr.plots.panels import BRIGHT, colours_of
from cxr.system.disk import InputError

HOSTS = ("127.0.0.1", "localhost")
WEB = Path(__file__).parent / "web"
FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Limits:
    """What an upload may take."""

    most_bytes: int = 100 * 2**20  # an uncompressed X-ray of the largest detectors has 40 MB
    upload_seconds: float = 60
    read_seconds: float = 30


class Refused(Exception):
    """An answer of one sentence with an HTTP status."""

    def __init__(self, status, sentence):
        super().__init__(sentence)
        self.status = status


def create_app(predictor, limits=Limits()):
    """The ASGI application. One file is decoded and predicted at a time; the others wait."""
    service = Service(predictor, limits)
    routes = [Route(path, page_file(name)) for path, name in FILES.items()]
    routes += [Route("/run", service.about), Route("/predict", service.predict, methods=["POST"])]
    return Starlette(
        routes=routes,
        exception_handlers={Refused: refuse, 500: fail},
        lifespan=service.lifespan,
        middleware=[
            Middleware(SafeHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False),
        ],
    )


class SafeHeaders:
    """Adds HEADERS to every answer, refusals too."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((k.encode(), v.encode()) for k, v in HEADERS.items()),
                ]
            await send(message)

        await self.app(scope, receive, send_with_headers)


def page_file(name):
    async def answer(request):
        return FileResponse(WEB / name)

    return answer


async def refuse(request, refused):
    return JSONResponse({"error": str(refused)}, refused.status)


async def fail(request, error):
    return JSONResponse(
        {"error": "Something went wrong here; the terminal of serve.py says what."}, 500
    )


class Service:
    """What the page asks for."""

    def __init__(self, predictor, limits):
        self.predictor, self.limits = predictor, limits
        self.reader, self.turn = Reader(limits.read_seconds), asyncio.Lock()

    @asynccontextmanager
    async def lifespan(self, app):
        yield
        self.reader.close()

    async def about(self, request):
        """The run, its thresholds and the colours of its findings."""
        thresholds = self.predictor.rule.thresholds
        return JSONResponse(
            {
                "run": self.predictor.config.run,
                "task": self.predictor.task.title,
                "notes": self.predictor.notes,
                "thresholds": thresholds,
                "colours": colours_of(thresholds, BRIGHT),
                "most_bytes": self.limits.most_bytes,
            }
        )

    async def predict(self, request):
        """The body is one image file. Found.plain() with the picture, or {"error": a sentence}."""
        check_sender(request)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "upload"
            await save_body(request, path, self.limits)
            async with self.turn:
                answer = await run_in_threadpool(self.answer, path)
        return JSONResponse(answer)

    def answer(self, path):
        try:
            picture = self.reader.read(path, self.predictor.sides, deep=True)
        except InputError as error:
            raise Refused(422, f"This file {words_of(error, path)}.") from None
        found = self.predictor.predict([picture])[0].plain()
        return found | {
            "width": picture.width,
            "height": picture.height,
            "picture": data_uri(picture.shown),
            "deep": plain_deep(picture.deep),
        }


def words_of(error, path):
    """What is wrong with the file, to follow "This file"."""
    return str(error).removeprefix(f"{path}: ").removeprefix("the file ").removesuffix(".")


def check_sender(request):
    """Refuses what a page of another origin sends: a browser says in Origin and Sec-Fetch-Site who asks."""
    origin = request.headers.get("origin")
    if origin is not None and origin != f"{request.url.scheme}://{request.headers['host']}":
        raise Refused(403, f"Pages of {origin} may not use this service.")
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Refused(403, "Other pages may not use this service.")


async def save_body(request, path, limits):
    """Write the body to `path`, refusing what is too large or too slow before it is taken in."""
    too_large = Refused(
        413, f"This file has more than {limits.most_bytes / 2**20:.0f} MB, and an X-ray has less."
    )
    if int(request.headers.get("content-length") or 0) > limits.most_bytes:
        raise too_large
    size = 0
    try:
        async with asyncio.timeout(limits.upload_seconds):
            with open(path, "wb") as file:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limits.most_bytes:
                        raise too_large
                    file.write(chunk)
    except ClientDisconnect:
        raise Refused(400, "The upload was broken off.") from None
    except TimeoutError:
        raise Refused(
            408, f"This file did not arrive within {limits.upload_seconds:.0f} seconds."
        ) from None


def data_uri(shown):
    content = cv2.imencode(".png", shown, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1]
    return "data:image/png;base64," + base64.b64encode(content.tobytes()).decode()


def plain_deep(deep):
    """reading.Deep as JSON's own types: its values as base64 of little-endian 16-bit numbers, row by row."""
    if deep is None:
        return None
    facts = asdict(deep)
    stored = facts.pop("stored")
    return facts | {
        "columns": stored.shape[1],
        "rows": stored.shape[0],
        "stored": base64.b64encode(stored.astype("<u2").tobytes()).decode(),
    }
