"""The HTTP side of the local page, which predicts what is dropped on it. The page is in web/.

Only this machine is served (127.0.0.1), or with a door those who have its token, and only its own
page: other Host or Origin headers are refused, so that no web page elsewhere can reach it through
the browser. Nothing is kept: an upload is deleted when it is answered.
"""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cxr.images.deep import Deep
from cxr.images.isolated import Reader
from cxr.images.printable import UnreadableImage
from cxr.images.study import LONGEST_UID
from cxr.inference.predictor import Predictor
from cxr.inference.studies import Study, StudyImage, merge_studies
from cxr.plots.panels import BRIGHT, colours_of
from cxr.steps.serve.door import Door, TokenCheck
from cxr.steps.serve.uploads import UploadFolder

HOSTS = ("127.0.0.1", "localhost")
WEB = Path(__file__).parent / "web"
PAGE_FILES = {
    "/": "page.html",
    "/page.css": "page.css",
    "/page.js": "page.js",
    "/openapi.json": "openapi.json",
}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
MEBIBYTE = 2**20


class BodyLimit(NamedTuple):
    """How many bytes a body may have, and what is said of one that has more."""

    most_bytes: int
    refusal: str


@dataclass(frozen=True)
class Limits:
    """What an upload may take."""

    most_bytes: int = 100 * MEBIBYTE  # an uncompressed X-ray of the largest detectors has 40 MB
    most_list_bytes: int = MEBIBYTE  # what /studies reads of an image has some 200
    most_uploads: int = 20  # on the disk at a time; the others wait before they are taken in
    upload_seconds: float = 60
    stall_seconds: float = 5  # without a byte, so that clients that stall do not hold up the others
    read_seconds: float = 30

    @property
    def of_file(self) -> BodyLimit:
        megabytes = f"{self.most_bytes / MEBIBYTE:.0f}"
        refusal = f"This file has more than {megabytes} MB, and an X-ray has less."
        return BodyLimit(self.most_bytes, refusal)

    @property
    def of_list(self) -> BodyLimit:
        megabytes = f"{self.most_list_bytes / MEBIBYTE:.0f}"
        refusal = f"This list has more than {megabytes} MB: send fewer images."
        return BodyLimit(self.most_list_bytes, refusal)


class RequestRefused(Exception):
    """An answer of one sentence with an HTTP status."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def create_app(
    predictor: Predictor, limits: Limits | None = None, door: Door | None = None
) -> Starlette:
    """The ASGI application. One file is decoded and predicted at a time; the others wait.

    door: how other machines reach it; by default only this one does.
    """
    service = Service(predictor, limits or Limits())
    routes = [
        Route("/run", service.about),
        Route("/predict", service.predict, methods=["POST"]),
        Route("/studies", service.studies, methods=["POST"]),
    ]
    for path, name in PAGE_FILES.items():
        routes.append(Route(path, page_file(name)))
    hosts = list(HOSTS)
    middleware = [Middleware(SafeHeaders)]
    if door is None:
        middleware.append(own_hosts(hosts))
    else:
        middleware.append(own_hosts([*hosts, door.host]))
        middleware.append(Middleware(TokenCheck, token=door.token))
    return Starlette(
        routes=routes,
        exception_handlers={RequestRefused: answer_refused, 500: answer_failed},
        lifespan=service.lifespan,
        middleware=middleware,
    )


def own_hosts(hosts: list[str]) -> Middleware:
    """Refuses requests to any other host, such as a name that an attacker points at this one."""
    return Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)


class SafeHeaders:
    """Adds HEADERS to every answer, refusals too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.encoded = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self.encoded]
            await send(message)

        await self.app(scope, receive, send_with_headers)


def page_file(name: str) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of one file of the page."""

    async def answer(_: Request) -> Response:
        return FileResponse(WEB / name)

    return answer


async def answer_refused(_: Request, refused: Exception) -> Response:
    assert isinstance(refused, RequestRefused)
    return JSONResponse({"error": str(refused)}, refused.status)


async def answer_failed(_: Request, __: Exception) -> Response:
    sentence = "Something went wrong here; the terminal of serve.py says what."
    return JSONResponse({"error": sentence}, 500)


class Service:
    """What the page asks for."""

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self.predictor = predictor
        self.limits = limits
        self.reader = Reader(limits.read_seconds)
        self.places = asyncio.Semaphore(limits.most_uploads)
        self.turn = asyncio.Lock()
        self.uploads: UploadFolder | None = None  # while the server runs

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.uploads = UploadFolder()
        try:
            yield
        finally:
            self.reader.close()
            self.uploads.remove()

    async def about(self, _: Request) -> Response:
        """The run, what it gives, its thresholds and the colours of its findings."""
        maker = self.predictor.result_maker
        facts = {
            "run": self.predictor.run.name,
            "task": self.predictor.task.dataset.title,
            "result": maker.result_name,
            "notes": self.predictor.notes,
            "thresholds": self.predictor.rule.thresholds,
            "colours": colours_of(maker.findings, BRIGHT),
            "most_bytes": self.limits.most_bytes,
        }
        return JSONResponse(facts)

    async def predict(self, request: Request) -> Response:
        """The body is one image file; answers with `answer_upload`, or {"error": a sentence}."""
        async with self.upload(request, self.limits.of_file) as path, self.turn:
            answer = await run_in_threadpool(self.answer_upload, path)
        return JSONResponse(answer)

    async def studies(self, request: Request) -> Response:
        """The body is a list of answers of /predict; answers with their studies.

        Nothing is kept here, so the client says again what it was told of each image.
        """
        async with self.upload(request, self.limits.of_list) as path:
            images = await run_in_threadpool(read_study_images, path, self.predictor)
        studies = merge_studies(images, self.predictor.image_classes)
        return JSONResponse({"studies": studies_to_json(studies)})

    @asynccontextmanager
    async def upload(self, request: Request, limit: BodyLimit) -> AsyncIterator[Path]:
        """The body as a file, which is there inside the block only."""
        check_sender(request)
        check_size(request, limit)
        assert self.uploads is not None
        async with self.places:
            with tempfile.TemporaryDirectory(dir=self.uploads.path) as folder:
                path = Path(folder) / "upload"
                await save_body(request, path, self.limits, limit)
                yield path

    def answer_upload(self, path: Path) -> dict[str, Any]:
        """What the models say of an image file, with its picture and its deep values."""
        try:
            picture = self.reader.read(path, self.predictor.sides, deep=True)
        except UnreadableImage as error:
            reason = error.reason.removeprefix("the file ").removesuffix(".")
            raise RequestRefused(422, f"This file {reason}.") from None
        result = self.predictor.predict([picture])[0]
        return result.to_dict() | {
            "width": picture.width,
            "height": picture.height,
            "picture": png_data_uri(picture.shown),
            "deep": deep_to_json(picture.deep),
        }


def check_sender(request: Request) -> None:
    """Refuse what a page of another origin sends.

    A browser says in Origin and Sec-Fetch-Site who asks.
    """
    origin = request.headers.get("origin")
    own_origin = f"{request.url.scheme}://{request.headers['host']}"
    if origin not in (None, own_origin):
        raise RequestRefused(403, f"Pages of {origin} may not use this service.")
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none"):
        raise RequestRefused(403, "Other pages may not use this service.")


def check_size(request: Request, limit: BodyLimit) -> None:
    """Refuse what is too large by its own word, before it is taken in."""
    stated_size = int(request.headers.get("content-length") or 0)
    if stated_size > limit.most_bytes:
        raise RequestRefused(413, limit.refusal)


async def save_body(request: Request, path: Path, limits: Limits, limit: BodyLimit) -> None:
    """Write the body to `path`; what is too large, too slow or stalls is refused."""
    size = 0
    loop = asyncio.get_running_loop()
    try:
        async with (
            asyncio.timeout(limits.upload_seconds),
            asyncio.timeout(limits.stall_seconds) as stall,
        ):
            with open(path, "wb") as file:
                async for chunk in request.stream():
                    stall.reschedule(loop.time() + limits.stall_seconds)
                    size += len(chunk)
                    if size > limit.most_bytes:
                        raise RequestRefused(413, limit.refusal)
                    file.write(chunk)
    except ClientDisconnect:
        raise RequestRefused(400, "The upload was broken off.") from None
    except TimeoutError:
        sentence = f"This file did not arrive within {limits.upload_seconds:.0f} seconds."
        if stall.expired():
            sentence = f"Nothing of this file arrived for {limits.stall_seconds:.0f} seconds."
        raise RequestRefused(408, sentence) from None


def read_study_images(path: Path, predictor: Predictor) -> list[StudyImage]:
    """What /studies is asked. RequestRefused where it is no list of answers of this run."""
    if not predictor.of_studies:
        raise RequestRefused(422, "The classes of this run are of images, not of studies.")
    try:
        entries = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list):
        raise RequestRefused(422, "This is no list of images in JSON.")
    images = []
    for number, entry in enumerate(entries, start=1):
        if not is_study_image(entry, predictor.image_classes):
            raise RequestRefused(
                422,
                f"Image {number} has no study and probabilities as /predict gives them here.",
            )
        images.append(StudyImage(entry["study"], entry["probabilities"]))
    return images


def is_study_image(entry: object, classes: Sequence[str]) -> bool:
    """Whether JSON from anywhere is {"study": UID or "", "probabilities": {class: 0 ... 1}}."""
    if not isinstance(entry, dict):
        return False
    study = entry.get("study")
    probabilities = entry.get("probabilities")
    if not isinstance(study, str) or len(study) > LONGEST_UID:
        return False
    if not isinstance(probabilities, dict) or set(probabilities) != set(classes):
        return False
    return all(is_probability(value) for value in probabilities.values())


def is_probability(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def studies_to_json(studies: Mapping[str, Study]) -> list[dict[str, Any]]:
    """As JSON's own types, by rising UID."""
    content = []
    for uid, study in studies.items():
        probabilities = {name: round(value, 6) for name, value in study.probabilities.items()}
        content.append({"study": uid, "images": study.images, "probabilities": probabilities})
    return content


def png_data_uri(picture: np.ndarray) -> str:
    """A gray picture (h, w) uint8 as the address of an image that holds its content."""
    _, content = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    return "data:image/png;base64," + base64.b64encode(content.tobytes()).decode()


def deep_to_json(deep: Deep | None) -> dict[str, Any] | None:
    """The values of more than 8 bits as JSON's own types, None for a picture without them.

    They are base64 of little-endian 16-bit numbers, row by row.
    """
    if deep is None:
        return None
    facts = asdict(deep)
    stored = facts.pop("stored")
    rows, columns = stored.shape
    content = stored.astype("<u2").tobytes()
    return facts | {
        "columns": columns,
        "rows": rows,
        "stored": base64.b64encode(content).decode(),
    }
