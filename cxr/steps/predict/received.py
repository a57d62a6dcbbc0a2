"""X-rays that arrive by DICOM: they wait on the disk, and one thread predicts them into a folder.

What the folder holds is what step 04 writes with --images. A file in `waiting` was accepted and is
not predicted yet: it stays there when the program ends, and is predicted after the next start.
"""

from __future__ import annotations

import csv
import dataclasses
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cxr.images.folder import Item, Record, record_path
from cxr.images.isolated import Picture, Reader
from cxr.images.printable import UnreadableImage, describe_error, printable
from cxr.inference.predictor import Predictor
from cxr.settings import ImageSettings, Settings
from cxr.steps.predict.dicom_outputs import wanted_outputs
from cxr.steps.predict.dicom_receiver import Receiver, TooManyWaiting, listening
from cxr.steps.predict.out_folder import alone_in, claim_out_folder
from cxr.steps.predict.predict_images import (
    LEFT_OUT,
    Failure,
    ReadItem,
    SeenItem,
    missing_objects,
    note_other_images,
    predict_read_items,
    write_tables,
)
from cxr.steps.predict.report_sender import ReportSender
from cxr.steps.predict.studies import note_lone_images
from cxr.system.disk import atomic, read_json

MOST_WAITING = 1000  # more are refused, so that a sender that goes on does not fill the disk
READ_SECONDS = 30  # as the page allows
POLL_SECONDS = 0.2
END_SECONDS = 1
TABLE_SHARE = 10  # at most a tenth of the time goes into tables, however many images they have
REPORT = "structured report"  # what failed.csv says is missing where only the report is


@contextmanager
def receiving(predictor: Predictor, settings: Settings) -> Iterator[None]:
    """Receive, predict and report while the block runs; does nothing without --dicom-port.

    Raises InputError for a port, a title, an archive or a folder that cannot be used.
    """
    hospital = settings.hospital
    if not hospital.dicom_port:
        yield
        return
    out = settings.images.out
    with alone_in(out):
        predictor.load()
        claim_out_folder(out, predictor.record(), predictor.runtime)
        images = ReceivedImages(predictor, settings.images)
        sender = None
        if hospital.send_to:
            sender = ReportSender(out, hospital, images.note_sending)
            images.on_report = sender.add
        try:
            with listening(Receiver(images), hospital):
                images.start()
                if sender is not None:
                    sender.start()
                print(f"what arrives is predicted into {out}", flush=True)
                yield
        finally:
            if sender is not None:
                sender.stop()
            images.stop()


class ReceivedImages:
    """Images by SOP Instance UID, predicted in the order in which they arrived.

    on_report: what is called with the path of each structured report and, of a run that gives
    masks, segmentation, relative to the folder.
    """

    def __init__(self, predictor: Predictor, images: ImageSettings) -> None:
        self.predictor = predictor
        gives_masks = predictor.result_maker.result_name == "mask"
        self.images = dataclasses.replace(images, dicom_sr=True, dicom_seg=gives_masks)
        self.out = images.out
        self.waiting = images.out / "waiting"
        self.on_report: Callable[[str], None] | None = None
        self.paths: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for path in sorted(self.waiting.glob("*.dcm")):
            self.paths.put(path)

        self.failures = read_failures(self.out / "failed.csv")  # by image and what failed
        self.failures_lock = threading.Lock()
        self.has_changed = True
        self.next_tables = 0.0  # seconds of time.monotonic
        self.reader = Reader(READ_SECONDS)
        self.first_reader = Reader(READ_SECONDS)  # of what arrives
        self.first_reader_turn = threading.Lock()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.work, name="predicting", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """What still waits, stays. A prediction on its way is finished if that is soon."""
        self.ended.set()
        if self.thread.ident is not None:
            self.thread.join(END_SECONDS)
        if not self.thread.is_alive() and self.has_changed:
            self.write_tables()
        self.first_reader.close()
        self.reader.close()

    # ------------------------------------------------------------------ called by those who bring

    def accept(self, uid: str, content: bytes) -> None:
        """Keep the bytes of a DICOM until they are predicted.

        Raises UnreadableImage for what gives no picture, TooManyWaiting, or OSError where it cannot
        be written; then nothing is kept.
        """
        if self.paths.qsize() >= MOST_WAITING:
            raise TooManyWaiting(f"{MOST_WAITING} images wait already")
        path = self.waiting / f"{time.time_ns()}_{uid}.dcm"
        with atomic(path) as temporary:
            temporary.write_bytes(content)
            with self.first_reader_turn:
                self.first_reader.read(temporary, self.predictor.sides)
        self.paths.put(path)

    def fail(self, uid: str, source: object, what: str, reason: str) -> None:
        """Note a row of failed.csv. source: a path, or who sent it."""
        failure = Failure(printable(uid), Path(printable(source)), what, reason)
        with self.failures_lock:
            self.failures[failure.image, what] = failure
        self.has_changed = True
        print(f"{failure.image} from {failure.path}: {what} failed: {reason}", flush=True)

    def forget_failures(self, uid: str, *what: str) -> None:
        """Take back what failed before and has succeeded now."""
        with self.failures_lock:
            for each in what:
                self.failures.pop((uid, each), None)
        self.has_changed = True

    def note_sending(self, report: str, archive: str, problem: str) -> None:
        """Whether a report has reached the archive. problem: why not, else ""."""
        uid = Path(report).stem
        if problem:
            self.fail(uid, archive, "sending", problem)
        else:
            self.forget_failures(uid, "sending")

    # ------------------------------------------------------------------ in the predicting thread

    def work(self) -> None:
        while not self.ended.is_set():
            try:
                path = self.paths.get(timeout=POLL_SECONDS)
            except queue.Empty:
                pass
            else:
                self.predict(path)
            if self.has_changed and time.monotonic() >= self.next_tables:
                self.write_tables()

    def predict(self, path: Path) -> None:
        """Predict and write an image; then it waits no longer."""
        uid = path.stem.partition("_")[2]
        item = Item(uid, path)
        try:
            seen = SeenItem(item, item.state())
            read_item = ReadItem(seen, self.read(path))
            failures = predict_read_items(self.predictor, [read_item], self.images)
        except OSError as error:
            print(f"{path} waits until the next start, since {error}", flush=True)
            return
        except Exception as error:  # one image must not end the others
            traceback.print_exc()
            failures = [Failure(uid, path, "prediction", describe_error(error))]
        self.forget_failures(uid, "image", "prediction", LEFT_OUT)
        for failure in failures:
            self.fail(*failure)
        if not failures:
            self.hand_on(read_json(record_path(self.out, item)))
        path.unlink(missing_ok=True)

    def read(self, path: Path) -> Picture | UnreadableImage:
        try:
            return self.reader.read(path, self.predictor.sides)
        except UnreadableImage as error:
            return error

    def hand_on(self, record: Record) -> None:
        """Let report and segmentation be sent, where they could be made."""
        if self.on_report is None:
            return
        for output in wanted_outputs(self.images):
            path = record[output.name]
            if (self.out / path).is_file():
                self.on_report(path)

    def write_tables(self) -> None:
        """Tables and page of all images of the folder."""
        start = time.monotonic()
        self.has_changed = False
        with self.failures_lock:
            failures = list(self.failures.values())
        left_out = sum(failure.what == LEFT_OUT for failure in failures)
        failures += missing_objects(self.images, self.records())
        failures.sort(key=lambda failure: (failure.image, failure.what))
        total = left_out + sum(1 for _ in self.records())
        notes = [*self.predictor.notes, *note_other_images(self.records(), left_out, total)]
        notes += note_lone_images(self.records())
        try:
            write_tables(self.predictor, self.records, failures, notes, self.out)
        except OSError as error:
            self.has_changed = True
            print(f"the tables of {self.out} are not written, since {error}", flush=True)
        end = time.monotonic()
        self.next_tables = end + TABLE_SHARE * (end - start)

    def records(self) -> Iterator[Record]:
        """Yield the record of each image that is done, by UID."""
        for path in sorted((self.out / "boxes").glob("*.json")):
            yield read_json(path)


def read_failures(path: Path) -> dict[tuple[str, str], Failure]:
    """The rows of an earlier failed.csv, but for what the records say themselves."""
    failures: dict[tuple[str, str], Failure] = {}
    if not path.exists():
        return failures
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            failure = Failure(row["image"], Path(row["path"]), row["what"], row["reason"])
            if failure.what != REPORT:
                failures[failure.image, failure.what] = failure
    return failures
