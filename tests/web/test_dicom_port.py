"""The DICOM port: what is received, predicted, reported, refused and sent on."""

import csv
import io
import json
import socket
import socketserver
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from pydicom.uid import (
    UID,
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)
from test_images import make_dataset
from tiny_task import TINY_TASK
from xrays import xray

from cxr.images.isolated import Reader
from cxr.inference.predictor import Predictor
from cxr.settings import HospitalSettings
from cxr.steps.predict import dicom_receiver, received, report_sender
from cxr.steps.predict.dicom_receiver import Receiver, check_identity, listening
from cxr.steps.predict.predict_images import predict_images
from cxr.steps.predict.received import ReceivedImages, receiving
from cxr.system.errors import InputError

pynetdicom = pytest.importorskip(
    "pynetdicom", reason="pynetdicom is missing: pip install pynetdicom"
)
CLASSES = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)
PATIENCE = 30  # seconds


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@pytest.fixture(scope="module")
def predictor(tiny_run):
    predictor = Predictor(TINY_TASK, tiny_run)
    predictor.load()
    return predictor


class SharedReader:
    """One process that reads for all tests, which need not wait for its start."""

    def __init__(self):
        self.reader = Reader(PATIENCE)
        self.turn = threading.Lock()

    def read(self, *arguments):
        with self.turn:
            return self.reader.read(*arguments)

    def close(self):
        """It stays for the other tests."""


@pytest.fixture(scope="module")
def shared_reader():
    shared = SharedReader()
    yield shared
    shared.reader.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch, shared_reader):
    """Nothing waits for half a second."""
    monkeypatch.setattr(received, "Reader", lambda _: shared_reader)
    monkeypatch.setattr(received, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(report_sender, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(socketserver.BaseServer.serve_forever, "__defaults__", (0.02,))


@pytest.fixture
def settings(tiny_run, tmp_path):
    return tiny_run.replace(out=tmp_path / "out", dicom_port=free_port())


def image(number=1, image_class=SecondaryCaptureImageStorage, **tags):
    """A DICOM that can be reported."""
    uids = {"StudyInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3.4.5"}
    dataset = make_dataset(xray(seed=number), **uids, **tags)
    uid = f"1.2.3.4.5.{number}"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = image_class
    return dataset


@contextmanager
def association(settings, called="CXR", calling="TEST", classes=CLASSES):
    """An association with the port, perhaps refused."""
    entity = pynetdicom.AE(calling)
    entity.add_requested_context(pynetdicom.sop_class.Verification)
    for each in classes:
        entity.add_requested_context(each)
    port = settings.hospital.dicom_port
    connection = entity.associate("127.0.0.1", port, ae_title=called)
    try:
        yield connection
    finally:
        if connection.is_established:
            connection.release()


def store(settings, *datasets):
    """Answers of the port to these images."""
    with association(settings) as connection:
        assert connection.is_established
        return [connection.send_c_store(dataset) for dataset in datasets]


def wait_for(condition):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < PATIENCE
        time.sleep(0.02)


def read_failed(out):
    """{(image, what): reason} of failed.csv."""
    with open(out / "failed.csv", newline="", encoding="utf-8") as file:
        return {(row["image"], row["what"]): row["reason"] for row in csv.DictReader(file)}


def names_in(folder):
    return sorted(path.name for path in folder.glob("*")) if folder.exists() else []


class Kept:
    """Takes images, or refuses them in its way."""

    def __init__(self, error=None):
        self.error = error
        self.accepted = {}
        self.failed = []

    def accept(self, uid, content):
        if self.error is not None:
            raise self.error
        self.accepted[uid] = content

    def fail(self, *facts):
        self.failed.append(facts)


@contextmanager
def port_of(images, **changes):
    """Settings of a port that hands images on to `images`."""
    hospital = HospitalSettings(dicom_port=free_port(), **changes)
    with listening(Receiver(images), hospital):
        yield SimpleNamespace(hospital=hospital)


def test_echoes_and_titles(capsys):
    with port_of(Kept(), aet="XRAY", allow_from=("GOOD", "BETTER")) as settings:
        with association(settings, "XRAY", "BETTER") as connection:
            assert connection.send_c_echo().Status == 0
        for called, calling in (("CXR", "GOOD"), ("XRAY", "BAD")):
            with association(settings, called, calling) as connection:
                assert connection.is_rejected
    printed = capsys.readouterr().out
    assert "send X-rays to XRAY@127.0.0.1" in printed
    assert "from GOOD, BETTER" in printed
    assert "an association from BAD@127.0.0.1 to XRAY is refused" in printed


def test_other_classes_are_not_taken():
    with port_of(Kept()) as settings:
        for classes in ([CTImageStorage], [ComprehensiveSRStorage]):
            with association(settings, classes=classes) as connection:
                contexts = connection.rejected_contexts
                assert [each.abstract_syntax for each in contexts] == classes


def test_what_was_announced_is_checked():
    kept = Kept()
    with port_of(kept) as settings:
        other = image()
        other.file_meta.MediaStorageSOPInstanceUID = "1.2.9"
        [answer] = store(settings, image(7))
        assert answer.Status == 0
    [content] = kept.accepted.values()
    for uid, image_class in (("1.2.9", CLASSES[3]), ("1.2.3.4.5.7", CLASSES[0])):
        request = SimpleNamespace(AffectedSOPInstanceUID=UID(uid), AffectedSOPClassUID=image_class)
        with pytest.raises(dicom_receiver.StoreRefused, match="is another image") as refused:
            check_identity(content, request)
        assert refused.value.status == dicom_receiver.OTHER_CLASS


@pytest.mark.parametrize(
    "error, comment",
    [
        (dicom_receiver.TooManyWaiting("1000 images wait already"), "1000 images wait already"),
        (OSError(28, "No space left on device"), "cannot be kept"),
    ],
)
def test_what_may_be_tried_again_is_no_failure(error, comment):
    kept = Kept(error)
    with port_of(kept) as settings:
        [answer] = store(settings, image())
    assert answer.Status == dicom_receiver.OUT_OF_RESOURCES
    assert comment in answer.ErrorComment
    assert not kept.failed


def test_images_that_are_too_large_end_the_association(monkeypatch, capsys):
    monkeypatch.setattr(dicom_receiver, "MOST_BYTES", 50_000)
    kept = Kept()
    with port_of(kept) as settings:
        [answer] = store(settings, make_large())
        assert "Status" not in answer
        assert [each.Status for each in store(settings, *map(image, range(5)))] == [0] * 5
    assert len(kept.accepted) == 5
    assert capsys.readouterr().out.count("of more than 50000 bytes") == 1


def make_large():
    dataset = image()
    dataset.Rows = dataset.Columns = 400
    dataset.PixelData = bytes(400 * 400)
    return dataset


def test_a_connection_that_is_cut_or_stalls_leaves_nothing(monkeypatch):
    monkeypatch.setattr(dicom_receiver, "STALL_SECONDS", 0.2)
    kept = Kept()
    with port_of(kept) as settings, association(settings) as connection:
        message = b"\x04\x00\x00\x01\x00\x00" + bytes(300)  # a PDU of 65,536 bytes begins
        connection.dul.socket.socket.sendall(message)
        time.sleep(0.4)
        assert store(settings, image())[0].Status == 0
        connection.dul.socket.socket.close()
    assert len(kept.accepted) == 1


@pytest.fixture
def images(predictor, settings):
    """Received images whose thread has not begun."""
    images = ReceivedImages(predictor, settings.images)
    yield images
    images.stop()


def test_only_chests(predictor, settings):
    images = ReceivedImages(predictor, settings.replace(only_chest=True).images)
    images.accept("1.2.1", write(image(1, ViewPosition="LL")))
    images.predict(images.paths.get())
    images.stop()
    [reason] = read_failed(images.out).values()
    assert reason.startswith("left out with --only-chest")
    assert not names_in(images.out / "boxes")


def test_one_failure_does_not_end_the_others(images, monkeypatch, capsys):
    original = images.predictor.predict
    monkeypatch.setattr(images.predictor, "predict", lambda _: 1 / 0)
    content = write(image(1))
    images.accept("1.2.1", content)
    images.predict(images.paths.get())
    monkeypatch.setattr(images.predictor, "predict", original)
    images.accept("1.2.2", content)
    images.predict(images.paths.get())
    assert list(images.failures) == [("1.2.1", "prediction")]
    assert names_in(images.out / "boxes") == ["1.2.2.json"]
    assert not names_in(images.waiting)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_full_disk_keeps_what_waits(images, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    images.accept("1.2.1", write(image(1)))
    monkeypatch.setattr(received, "predict_read_items", full)
    images.predict(images.paths.get())
    assert len(names_in(images.waiting)) == 1
    assert "waits until the next start, since" in capsys.readouterr().out


def write(dataset):
    """The bytes of a DICOM file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_too_many_are_refused(images, monkeypatch):
    monkeypatch.setattr(received, "MOST_WAITING", 0)
    with pytest.raises(dicom_receiver.TooManyWaiting):
        images.accept("1.2.1", write(image(1)))
    assert not names_in(images.waiting)


@contextmanager
def archive(port, status=0):
    """An archive that answers with a status; what has arrived there."""
    arrived = []

    def take(event):
        arrived.append(event.dataset)
        return status

    entity = pynetdicom.AE("PACS")
    entity.require_called_aet = True
    entity.add_supported_context(ComprehensiveSRStorage)
    handlers = [(pynetdicom.evt.EVT_C_STORE, take)]
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        yield arrived
    finally:
        server.shutdown()


def predict_beside(settings, datasets, folder):
    """What step 04 says of these images in files."""
    (folder / "in").mkdir()
    for dataset in datasets:
        dataset.save_as(folder / "in" / dataset.SOPInstanceUID, enforce_file_format=True)
    out = folder / "step 04"
    predict_images(TINY_TASK, settings.replace(images=(str(folder / "in"),), out=out))
    return read_images(out)


def read_images(out):
    """{image: boxes} of predictions.json."""
    images = json.loads((out / "predictions.json").read_text())["images"]
    return {image["image"]: image["boxes"] for image in images}


def test_what_arrives_is_predicted_reported_and_sent(predictor, settings, tmp_path, capsys):
    """Two starts: in the first one the archive is away, and then takes nothing."""
    archive_port = free_port()
    settings = settings.replace(send_to=f"PACS@127.0.0.1:{archive_port}")
    out = settings.images.out
    leftover = out / "boxes" / ".0badcafe.1.tmp.json"
    leftover.parent.mkdir(parents=True)
    leftover.write_text("{")
    good = [image(number, each) for number, each in enumerate(CLASSES)]
    without_study = image(5)
    del without_study.StudyInstanceUID
    first = f"{good[0].SOPInstanceUID}"
    with receiving(predictor, settings):
        assert not leftover.exists(), "half written by a killed server"
        with (
            pytest.raises(InputError, match=r"another process writes into .*: let it end"),
            receiving(predictor, settings),
        ):
            pass
        answers = store(settings, *good, without_study, image(6, Rows=3000), image(7, Rows=3000))
        assert [answer.Status for answer in answers] == [0, 0, 0, 0, 0, 0xC000, 0xC000]
        assert answers[5].ErrorComment.startswith("cannot be decoded")
        assert store(settings, image(7))[0].Status == 0, "mended, it is taken"
        wait_for(lambda: len(names_in(out / "boxes")) == 6 and not names_in(out / "waiting"))
        wait_for(lambda: "does not answer" in read_failed(out).get((first, "sending"), ""))
        with archive(archive_port, 0xA700):
            wait_for(lambda: "status A700" in read_failed(out).get((first, "sending"), ""))
    failed = read_failed(out)
    assert "less than expected" in failed["1.2.3.4.5.6", "image"]
    assert "StudyInstanceUID is missing" in failed["1.2.3.4.5.5", "structured report"]
    assert ("1.2.3.4.5.7", "image") not in failed
    assert len(names_in(out / "unsent")) == 5

    waiting = out / "waiting" / "1_1.2.3.4.5.8.dcm"  # of a server that was killed
    waiting.write_bytes(write(image(8)))
    with receiving(predictor, settings), archive(archive_port) as arrived:
        wait_for(lambda: len(arrived) == 6)
        wait_for(lambda: not any(what == "sending" for _, what in read_failed(out)))
        wait_for(lambda: not names_in(out / "unsent"))
    assert {report.SOPClassUID for report in arrived} == {ComprehensiveSRStorage}
    assert {report.StudyInstanceUID for report in arrived} == {"1.2.3.4"}
    assert not names_in(out / "unsent")
    assert not names_in(out / "waiting")
    assert set(read_failed(out)) == {
        ("1.2.3.4.5.6", "image"),
        ("1.2.3.4.5.5", "structured report"),
    }
    assert not [path for path in out.rglob("*") if ".tmp" in path.name]
    assert "from any AE title (--allow-from restricts it), of this ma" in capsys.readouterr().out
    every = [*good, without_study, image(7), image(8)]
    assert read_images(out) == predict_beside(settings, every, tmp_path)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"aet": "x" * 17}, "--aet .* is no AE title"),
        ({"allow_from": ("a\\b",)}, "--allow-from .* is no AE title"),
        ({"send_to": "PACS"}, "--send-to PACS must be AET@host:port"),
        ({"send_to": "PACS@host:70000"}, "must be AET@host:port"),
        ({"host": "192.0.2.1"}, "cannot be used .*: choose another --dicom-port or --host"),
        ({"dicom_port": 70_000}, "port 70000 of 127.0.0.1 cannot be used"),
    ],
)
def test_what_cannot_be_used(predictor, settings, changes, words):
    with pytest.raises(InputError, match=words), receiving(predictor, settings.replace(**changes)):
        pass


def test_pynetdicom_may_be_missing(predictor, settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynetdicom", None)
    words = "--dicom-port needs the package pynetdicom: pip install pynetdicom"
    with pytest.raises(InputError, match=words), receiving(predictor, settings):
        pass


def test_without_a_port_nothing_is_written(predictor, tiny_run, tmp_path):
    out = tmp_path / "out"
    with receiving(predictor, tiny_run.replace(out=out)):
        assert not out.exists()
