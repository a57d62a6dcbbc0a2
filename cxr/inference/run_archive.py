"""A finished run as one file, which 06_export.py --zip writes; `starter` is one that comes along.

    archive.json                        task and run; size and check sum of every file
    <task>/preprocess.json              side of the stored pictures
    <task>/<run>/                       params.json results.json model_card.md
        fold<k>/                        config.json epoch<N>.pt
    lungs/<run>/fold<k>/                the same of the run that --lungs names, if there is one

It is unpacked once, below working/unpacked/, as a small --working of its own: everything reads the
run there like any other. A file may come from a stranger: names that lead elsewhere, further files,
and more bytes than were announced are refused, and checkpoints are loaded with weights_only=True.
Imports no PyTorch, so that the command line can ask which task a file is of.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cxr.run_folder import RunFolder, TaskFolder, unpacked_folder
from cxr.settings import PlaceSettings
from cxr.system.disk import alone, sync_all
from cxr.system.errors import InputError, first_line

FORMAT = 1
RECORD = "archive.json"
STARTER = "starter"
STARTERS_VARIABLE = "CXR_PRETRAINED"  # of the environment: another folder than pretrained/
ENDINGS = (".json", ".md", ".pt")
CHECKPOINT_ENDING = ".pt"
# More than any run here has: twelve networks of the largest encoder take four GB.
MOST_BYTES = 8 * 2**30
MOST_TEXT_BYTES = 16 * 2**20  # of a file that is no checkpoint
MOST_FILES = 1000
CHUNK = 2**20
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


class FileRecord(NamedTuple):
    """What archive.json says of a file: its size in bytes and its SHA-256."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ArchiveRecord:
    """What archive.json says. text: its bytes, whose check sum names the unpacked folder."""

    text: bytes
    task: str
    run: str
    files: Mapping[str, FileRecord]

    @property
    def key(self) -> str:
        return hashlib.sha256(self.text).hexdigest()[:16]


def names_archive(name: str | Path) -> bool:
    """Whether a --run, --start or path means a run in a file and not a folder."""
    text = str(name)
    return text == STARTER or text.lower().endswith(".zip")


def starters_folder() -> Path:
    """pretrained/ of the repository, or what CXR_PRETRAINED says."""
    usual = Path(__file__).resolve().parents[2] / "pretrained"
    return Path(os.environ.get(STARTERS_VARIABLE, usual))


def starter_path(task: str) -> Path:
    """Where the starter of a task is, if there is one."""
    return starters_folder() / f"{task}-{STARTER}.zip"


def find_archive(name: str | Path, task: str | None = None) -> Path:
    """The file of a name for which `names_archive` holds. Raises InputError where it is missing.

    task: whose starter, by default the usual task.
    """
    if str(name) != STARTER:
        path = Path(name)
        if not path.is_file():
            raise InputError(f"{path} is not a file: give one that 06_export.py --zip has written")
        return path
    path = starter_path(task or PlaceSettings().task)
    if not path.is_file():
        others = sorted(starters_folder().glob(f"*-{STARTER}.zip"))
        there = ", ".join(other.stem.removesuffix(f"-{STARTER}") for other in others) or "none"
        raise InputError(
            f"{path} is missing, so there is no starter of this task (there are: {there}): name "
            "another --task, or a run that was trained"
        )
    return path


def archive_task(name: str | Path, task: str | None = None) -> str:
    """The task of a run in a file. Raises InputError where another one is asked for."""
    path = find_archive(name, task)
    with open_record(path) as (_, record):
        refuse_other_task(path, record.task, task)
        return record.task


def refuse_other_task(path: Path, task: str, wanted: str | None) -> None:
    """Raises InputError where the task of a run is not the one that is asked for."""
    if wanted is not None and task != wanted:
        raise InputError(
            f"{path} is a run of task {task}, not {wanted}: leave the task out, or give a run of "
            f"{wanted}"
        )


def unpack_run(name: str | Path, working: Path, task: str | None = None) -> RunFolder:
    """The run of a file, unpacked below `working` if it is not there yet, whole or not at all.

    Raises InputError for a file that is none, damaged, unsafe, or of another task.
    """
    path = find_archive(name, task)
    with open_record(path) as (archive, record):
        refuse_other_task(path, record.task, task)
        target = unpacked_folder(working) / record.key
        if not target.exists():
            with alone(target.parent):
                if not target.exists():  # another process may have been faster
                    unpack_files(path, archive, record, target)
    return TaskFolder(target / record.task).run(record.run)


@contextmanager
def open_record(path: Path) -> Iterator[tuple[zipfile.ZipFile, ArchiveRecord]]:
    """Yield an open archive and its record, checked; what is damaged becomes an InputError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive, read_record(path, archive)
    except DAMAGED as error:
        raise InputError(
            f"{path} is damaged or not complete ({first_line(error)}): copy or download it again"
        ) from error


def read_record(path: Path, archive: zipfile.ZipFile) -> ArchiveRecord:
    """archive.json, after a look at every name and size of the archive. Raises InputError."""
    infos = {info.filename: info for info in archive.infolist()}
    if len(archive.infolist()) != len(infos) or len(infos) > MOST_FILES:
        raise InputError(f"{path} holds files twice, or more than {MOST_FILES}: do not use it")
    for name, info in infos.items():
        if not is_safe(name) or info.flag_bits & 1:  # encrypted
            raise InputError(f"{path} holds {name!r}, which no run has: do not use it")
        if info.file_size > most_bytes(name):
            raise InputError(f"{path} holds {name} of {info.file_size} bytes: do not use it")
    if sum(info.file_size for info in infos.values()) > MOST_BYTES:
        raise InputError(f"{path} holds more than {MOST_BYTES} bytes: do not use it")
    if RECORD not in infos:
        raise InputError(
            f"{path} has no {RECORD}, so it is no run in a file: give one that 06_export.py --zip "
            "has written"
        )
    record = parse_record(path, archive.read(RECORD))
    sizes = {name: info.file_size for name, info in infos.items() if name != RECORD}
    if sizes != {name: file.bytes for name, file in record.files.items()}:
        raise InputError(
            f"{path} does not hold the files that its {RECORD} names: copy or download it again"
        )
    has_slash = "/" in record.task + record.run
    if has_slash or f"{record.task}/{record.run}/params.json" not in sizes:
        raise InputError(f"{path} holds no run {record.run} of task {record.task}: do not use it")
    return record


def is_safe(name: str) -> bool:
    """Whether a name stays in its folder on every system, and is of a kind that a run has."""
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") for part in parts)
    return plain and name.isprintable() and not set(name) & set("\\:") and name.endswith(ENDINGS)


def most_bytes(name: str) -> int:
    """How large a file of this name may be."""
    return MOST_BYTES if name.endswith(CHECKPOINT_ENDING) else MOST_TEXT_BYTES


def parse_record(path: Path, text: bytes) -> ArchiveRecord:
    """Raises InputError for a record that is none, or of a later version."""
    try:
        content: dict[str, Any] = json.loads(text)
        found = content["format"]
        files = {}
        for name, file in content["files"].items():
            files[str(name)] = FileRecord(int(file["bytes"]), str(file["sha256"]))
        record = ArchiveRecord(text, str(content["task"]), str(content["run"]), files)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} has an unreadable {RECORD} ({first_line(error)}): copy or download it again"
        ) from None
    if found != FORMAT:
        raise InputError(
            f"{path} has format {found}, and this version reads {FORMAT}: use the version that "
            "wrote it"
        )
    return record


def unpack_files(path: Path, archive: zipfile.ZipFile, record: ArchiveRecord, target: Path) -> None:
    """Write the files of an archive as the folder `target`, whose parent's lock one must hold."""
    building = target.parent / "unpacking"
    shutil.rmtree(building, ignore_errors=True)  # of a process that was killed
    try:
        for name, expected in record.files.items():
            if unpack_file(archive, name, building / name) != expected.sha256:
                raise InputError(
                    f"{path} is damaged: the check sum of {name} is not that of {RECORD}; copy or "
                    "download it again"
                )
        run = TaskFolder(building / record.task).run(record.run)
        run.archive_record.write_bytes(record.text)
        sync_all()
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def unpack_file(archive: zipfile.ZipFile, name: str, path: Path) -> str:
    """Write one file of an archive; returns its SHA-256. It ends where its announced size ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    check_sum = hashlib.sha256()
    with archive.open(name) as source, open(path, "wb") as file:
        while chunk := source.read(CHUNK):
            check_sum.update(chunk)
            file.write(chunk)
    return check_sum.hexdigest()
