"""Sends structured reports to an archive by C-STORE, again and again until it takes them.

The folder `unsent` holds a file for each report that is still to be sent, so that none is forgotten
while the archive is away or this program is.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom

from cxr.settings import HospitalSettings
from cxr.steps.predict.dicom_receiver import check_titles, import_pynetdicom
from cxr.system.disk import atomic
from cxr.system.errors import InputError

ARCHIVE = re.compile(r"(?P<title>[^@]+)@(?P<host>[^@:\s]+):(?P<port>\d+)")
RETRY_SECONDS = 60
CONNECT_SECONDS = 10
ANSWER_SECONDS = 30
END_SECONDS = 0.5
WARNINGS = range(0xB000, 0xC000)  # statuses of what is kept, with changes


class ReportSender:
    """One thread that sends what is to be sent.

    on_answer: called with a report, the archive and "" or the problem, after each try.
    """

    def __init__(
        self, out: Path, settings: HospitalSettings, on_answer: Callable[[str, str, str], None]
    ) -> None:
        self.out = out
        self.unsent = out / "unsent"
        self.archive = settings.send_to
        self.on_answer = on_answer
        match = ARCHIVE.fullmatch(settings.send_to)
        if match is None or not 0 < int(match["port"]) < 2**16:
            raise InputError(f"--send-to {settings.send_to} must be AET@host:port")
        check_titles("--send-to", [match["title"]])
        self.title = match["title"]
        self.address = (match["host"], int(match["port"]))
        self.entity = import_pynetdicom().AE(ae_title=settings.aet)
        self.entity.connection_timeout = CONNECT_SECONDS
        self.entity.acse_timeout = ANSWER_SECONDS
        self.entity.dimse_timeout = ANSWER_SECONDS
        self.entity.network_timeout = ANSWER_SECONDS

        self.association: Any = None  # while something is sent
        self.has_more = threading.Event()
        self.has_more.set()  # what an earlier start left
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.work, name="sending", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """What was not sent is sent after the next start."""
        self.ended.set()
        self.has_more.set()
        if self.association is not None:
            self.association.abort()
        if self.thread.ident is not None:
            self.thread.join(END_SECONDS)

    def add(self, report: str) -> None:
        """Send a report, a path relative to the folder, soon."""
        with atomic(self.unsent / f"{report.replace('/', '_')}.txt") as temporary:
            temporary.write_text(report, encoding="utf-8")
        self.has_more.set()

    def work(self) -> None:
        while not self.ended.is_set():
            self.has_more.wait(RETRY_SECONDS)
            self.has_more.clear()
            self.send_all()

    def send_all(self) -> None:
        """One try for each report, and none for the others where the archive is away."""
        for note in sorted(self.unsent.glob("*.txt")):
            if self.ended.is_set():
                return
            report = note.read_text(encoding="utf-8")
            try:
                problem = self.send(self.out / report)
            except OSError as error:
                self.on_answer(report, self.archive, f"{error}; it is tried again")
                return
            if self.ended.is_set():
                return
            if not problem:
                note.unlink()
            self.on_answer(report, self.archive, problem)

    def send(self, path: Path) -> str:
        """ "" once the archive has a DICOM file, else how it refuses it. OSError if it is away."""
        dataset = pydicom.dcmread(path)
        self.entity.requested_contexts = []
        self.entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        self.association = self.entity.associate(*self.address, ae_title=self.title)
        try:
            if self.association.is_rejected:
                raise OSError("the archive refuses the association")
            if not self.association.is_established:
                raise OSError("the archive does not answer")
            if not self.association.accepted_contexts:
                return f"the archive takes no {dataset.SOPClassUID.name}; it is tried again"
            answer = self.association.send_c_store(dataset)
            if "Status" not in answer:
                raise OSError("the archive has broken the connection off")
            if answer.Status and answer.Status not in WARNINGS:
                return f"the archive answers with status {answer.Status:04X}; it is tried again"
            self.association.release()
            return ""
        finally:
            if self.association.is_established:
                self.association.abort()
            self.association = None
