"""A DICOM port: X-rays are received by C-STORE, C-ECHO is answered. pynetdicom speaks DICOM."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from cxr.images.dicom import PLUGINS
from cxr.images.printable import UnreadableImage, describe_error, printable
from cxr.settings import HospitalSettings
from cxr.system.errors import InputError

THIS_MACHINE = "127.0.0.1"
IMAGE_CLASSES = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)
# Deflated ones are not taken: a few bytes may unpack to all of the memory.
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, *PLUGINS)
MOST_BYTES = 100 * 2**20  # of an image, as the page allows
MOST_ASSOCIATIONS = 20  # at a time
STALL_SECONDS = 30  # without a byte where one is awaited
LONGEST_TITLE = 16  # letters of an AE title (VR AE)
LONGEST_COMMENT = 64  # letters of an error comment (VR LO)
# DICOM PS3.4 B.2.3
SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
OTHER_CLASS = 0xA900  # the data set is none of the class, or image, that was announced
NOT_UNDERSTOOD = 0xC000


class TooManyWaiting(Exception):
    """More images wait than may."""


class Images(Protocol):
    """Who takes the images.

    accept: keeps the bytes of a DICOM, or raises UnreadableImage, TooManyWaiting or OSError. fail:
    notes what could not be taken, from whom, what of it, and why.
    """

    def accept(self, uid: str, content: bytes) -> None: ...

    def fail(self, uid: str, source: object, what: str, reason: str) -> None: ...


class StoreRefused(Exception):
    """A C-STORE that fails. is_final: trying it again would not help, and failed.csv says why."""

    def __init__(self, status: int, reason: str, is_final: bool = True) -> None:
        super().__init__(reason)
        self.status = status
        self.is_final = is_final


class Receiver:
    """Answers what associations ask for."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.arrived: dict[Any, int] = {}  # bytes of the message on its way, by association

    def store(self, event: Any) -> Dataset:
        """Status of a C-STORE: success as soon as the image can be read and is kept."""
        uid = str(event.request.AffectedSOPInstanceUID)
        try:
            self.take(uid, event)
        except StoreRefused as refused:
            if refused.is_final:
                self.images.fail(uid, name_of(event.assoc), "image", str(refused))
            return status(refused.status, str(refused))
        return status(SUCCESS)

    def take(self, uid: str, event: Any) -> None:
        """Hand the image on. Raises StoreRefused."""
        if not UID(uid).is_valid:
            raise StoreRefused(NOT_UNDERSTOOD, "its SOP Instance UID is not valid")
        content = event.encoded_dataset()
        check_identity(content, event.request)
        try:
            self.images.accept(uid, content)
        except UnreadableImage as error:
            raise StoreRefused(NOT_UNDERSTOOD, error.reason) from None
        except (TooManyWaiting, OSError) as error:
            raise StoreRefused(OUT_OF_RESOURCES, f"cannot be kept: {error}", False) from None

    def watch_connection(self, event: Any) -> None:
        """A client that stalls in the middle of something loses its connection."""
        event.assoc.dul.socket.socket.settimeout(STALL_SECONDS)

    def watch_size(self, event: Any) -> None:
        """Break an association off that sends more than an image has."""
        content = getattr(event.pdu, "presentation_data_value_items", ())
        before = self.arrived.get(event.assoc, 0)
        arrived = before + sum(len(item.presentation_data_value) for item in content)
        self.arrived[event.assoc] = arrived
        if before <= MOST_BYTES < arrived:
            sender = name_of(event.assoc)
            print(f"an image of more than {MOST_BYTES} bytes from {sender} is refused", flush=True)
            event.assoc.abort()

    def begin_message(self, event: Any) -> None:
        """The message before has arrived as a whole."""
        self.arrived[event.assoc] = 0

    def end_connection(self, event: Any) -> None:
        self.arrived.pop(event.assoc, None)

    def say_refusal(self, event: Any) -> None:
        """For those who set a device up and wonder why it is refused."""
        called = printable(event.assoc.requestor.primitive.called_ae_title)
        print(f"an association from {name_of(event.assoc)} to {called} is refused", flush=True)


def check_identity(content: bytes, request: Any) -> None:
    """Raises StoreRefused unless a DICOM is the image that the request announces."""
    tags = ["SOPClassUID", "SOPInstanceUID"]
    try:
        header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=tags)
        own = (header.get("SOPClassUID"), header.get("SOPInstanceUID"))
    except Exception as error:  # pydicom raises anything at all on damaged bytes
        raise StoreRefused(NOT_UNDERSTOOD, f"cannot be read ({describe_error(error)})") from None
    if own != (request.AffectedSOPClassUID, request.AffectedSOPInstanceUID):
        raise StoreRefused(OTHER_CLASS, "it is another image, or of another class, than announced")


def status(code: int, words: str = "") -> Dataset:
    """A status as pynetdicom takes it."""
    answer = Dataset()
    answer.Status = code
    if words:
        comment = words[:LONGEST_COMMENT].encode("ascii", "replace").decode()
        answer.ErrorComment = comment.replace("\\", "/")
    return answer


def name_of(association: Any) -> str:
    """AE title and address of who calls."""
    requestor = association.requestor
    return printable(f"{requestor.ae_title}@{requestor.address}")


@contextmanager
def listening(receiver: Receiver, settings: HospitalSettings) -> Iterator[int]:
    """Receive while the block runs; yields the port. InputError for what cannot be used."""
    pynetdicom = import_pynetdicom()
    check_titles("--aet", [settings.aet])
    check_titles("--allow-from", settings.allow_from)
    entity = pynetdicom.AE(ae_title=settings.aet)
    entity.require_called_aet = True
    entity.require_calling_aet = list(settings.allow_from)
    entity.maximum_associations = MOST_ASSOCIATIONS
    entity.network_timeout = STALL_SECONDS
    entity.add_supported_context(pynetdicom.sop_class.Verification)
    for image_class in IMAGE_CLASSES:
        entity.add_supported_context(image_class, list(SYNTAXES))

    event = pynetdicom.evt
    handlers = [
        (event.EVT_C_STORE, receiver.store),
        (event.EVT_CONN_OPEN, receiver.watch_connection),
        (event.EVT_PDU_RECV, receiver.watch_size),
        (event.EVT_DIMSE_RECV, receiver.begin_message),
        (event.EVT_CONN_CLOSE, receiver.end_connection),
        (event.EVT_REJECTED, receiver.say_refusal),
    ]
    host = settings.host or THIS_MACHINE
    try:
        address = (socket.gethostbyname(host), settings.dicom_port)
        server = entity.start_server(address, block=False, evt_handlers=handlers)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"port {settings.dicom_port} of {host} cannot be used ({error}): choose another "
            "--dicom-port or --host"
        ) from None
    port = server.server_address[1]
    print(describe(settings, host, port), flush=True)
    try:
        yield port
    finally:
        server.shutdown()
        for association in server.active_associations:
            association.abort()


def describe(settings: HospitalSettings, host: str, port: int) -> str:
    """Who may send to what, for the console."""
    senders = f"from {', '.join(settings.allow_from)}"
    if not settings.allow_from:
        senders = "from any AE title (--allow-from restricts it)"
    where = "" if settings.host else ", of this machine only (--host opens it to others)"
    return f"DICOM: send X-rays to {settings.aet}@{host}:{port}, {senders}{where}"


def check_titles(flag: str, titles: Sequence[str]) -> None:
    """Raises InputError unless they are AE titles."""
    for title in titles:
        is_plain = title.isascii() and title.isprintable() and "\\" not in title
        if not is_plain or not title.strip() or len(title) > LONGEST_TITLE:
            raise InputError(
                f"{flag} {title!r} is no AE title: it has 1 to {LONGEST_TITLE} letters or digits"
            )


def import_pynetdicom() -> Any:
    """The package, which only this needs. InputError where it is missing."""
    try:
        import pynetdicom  # may be missing
        import pynetdicom.sop_class
    except ImportError:
        raise InputError(
            "--dicom-port needs the package pynetdicom: pip install pynetdicom"
        ) from None
    pynetdicom._config.LOG_HANDLER_LEVEL = "none"  # nobody reads its log, which takes time
    return pynetdicom
