"""Decoding of files from anywhere in processes of their own.

A file may hang a decoder, crash it, or unpack to more than the memory; then that process ends, and
the file gets a sentence. `python -m cxr.images.isolated` is such a process: requests as lines of
JSON in, a line of JSON and raw arrays out. It imports no PyTorch and does not run the caller's
script again, so it starts within a second.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from cxr.images import gdcm_process
from cxr.images.deep import Deep, read_deep
from cxr.images.header import Header, why_not_frontal_chest
from cxr.images.limits import TOO_MUCH_MEMORY, limit_memory, take_stdout
from cxr.images.messages import Arrays, Facts, receive, send
from cxr.images.picture_file import PICTURE_STARTS
from cxr.images.printable import UnreadableImage
from cxr.images.read import convert_file, read_image
from cxr.images.resize import resize, shrink
from cxr.images.study import read_study

READ_SECONDS = 60  # the largest compressed X-ray takes some seconds on a slow machine
KILL_SIGNAL = 9  # what Linux sends where the memory of the machine is full
LONGEST = 1280  # pixels of the longer side of what people look at
AHEAD = 2  # files for each process that are read before they are asked for
# Each thread of these libraries reserves memory.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

Input = TypeVar("Input")
Output = TypeVar("Output")


@dataclass(frozen=True)
class Picture:
    """An X-ray as the network and as people see it."""

    header: Header
    dicom: bool
    network: np.ndarray  # (S, S) uint8
    shown: np.ndarray  # (h, w) uint8, the aspect kept, the longer side at most LONGEST
    deep: Deep | None = None
    study: str = ""  # StudyInstanceUID of a DICOM, "" where it names none

    @property
    def width(self) -> int:
        """Original pixels, as height."""
        return self.header.width

    @property
    def height(self) -> int:
        return self.header.height

    @property
    def not_frontal_chest(self) -> str:
        """Why it is no frontal chest X-ray by its header, else ""."""
        return why_not_frontal_chest(self.header)


@dataclass(frozen=True)
class FileToConvert:
    """An X-ray file `source`, to become the PNG `target` of size x size."""

    source: Path
    target: Path
    size: int


class Reader:
    """One such process, started when it is first needed and again after it died."""

    def __init__(self, seconds: float = READ_SECONDS) -> None:
        self.seconds = seconds
        self.process: subprocess.Popen[bytes] | None = None
        self.late = False

    def read(self, path: str | Path, sides: Sequence[int], deep: bool = False) -> Picture:
        """Picture of a file.

        `sides`: the picture becomes square of the first, then of the second side and so on, as on
        its way through step 02 to the network. `deep`: with its deep values. Raises
        UnreadableImage, naming the file and the reason.
        """
        request = {"path": os.path.abspath(path), "sides": list(sides), "deep": deep}
        facts, arrays = self.ask(path, request)
        if "error" in facts:
            raise UnreadableImage(path, facts["error"])
        values = None
        if "stored" in arrays:
            values = Deep(arrays["stored"], **facts["deep"])
        return Picture(
            header=Header(**facts["header"]),
            dicom=facts["dicom"],
            network=arrays["network"],
            shown=arrays["shown"],
            deep=values,
            study=facts["study"],
        )

    def convert(self, job: FileToConvert) -> Header:
        """What `convert_file` does. Raises UnreadableImage or OSError as it does."""
        request = {
            "path": os.path.abspath(job.source),
            "target": os.path.abspath(job.target),
            "size": job.size,
        }
        facts, _ = self.ask(job.source, request)
        if "error" in facts:
            raise UnreadableImage(job.source, facts["error"])
        if "disk" in facts:
            raise OSError(*facts["disk"])
        return Header(**facts["header"])

    def ask(self, path: str | Path, request: Facts) -> tuple[Facts, Arrays]:
        """The answer of the process. Raises UnreadableImage where it dies or takes too long."""
        process = self.start()
        assert process.stdin is not None  # both are pipes
        assert process.stdout is not None
        timer = threading.Timer(self.seconds, self.stop_late)
        timer.start()
        try:
            send(process.stdin, request)
            return receive(process.stdout)
        except (OSError, EOFError):
            raise UnreadableImage(path, self.why_it_ended(process)) from None
        finally:
            timer.cancel()
            timer.join()

    def start(self) -> subprocess.Popen[bytes]:
        """The running process."""
        if self.process is not None and self.process.poll() is None and not self.late:
            return self.process
        self.close()
        self.late = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cxr.images.isolated"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | ONE_THREAD,
        )
        return self.process

    def stop_late(self) -> None:
        self.late = True
        if self.process is not None:
            self.process.kill()

    def why_it_ended(self, process: subprocess.Popen[bytes]) -> str:
        process.wait()
        if self.late:
            return f"took more than {self.seconds} seconds to decode"
        if process.returncode == -KILL_SIGNAL:
            return (
                "the process that decodes it was killed, perhaps for lack of memory: try again "
                "with fewer --workers"
            )
        return gdcm_process.CRASHED

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


def read_all(
    paths: Iterable[str | Path], sides: Sequence[int], workers: int, deep: bool = False
) -> Iterator[Picture | UnreadableImage]:
    """Yield the Picture of each path, or the error that it ended with.

    In the order of the paths, from `workers` processes. sides, deep: as of `Reader.read`.
    """

    def read(reader: Reader, path: str | Path) -> Picture | UnreadableImage:
        try:
            return reader.read(path, sides, deep)
        except UnreadableImage as error:
            return error

    return in_processes(read, paths, workers)


def convert_files(
    jobs: Iterable[FileToConvert], workers: int
) -> Iterator[Header | UnreadableImage]:
    """Do each conversion; yield its Header, or the error that the file ended with.

    In the order of the jobs, from `workers` processes. OSError where a target cannot be written.
    """

    def convert(reader: Reader, job: FileToConvert) -> Header | UnreadableImage:
        try:
            return reader.convert(job)
        except UnreadableImage as error:
            return error

    return in_processes(convert, jobs, workers)


def in_processes(
    function: Callable[[Reader, Input], Output], inputs: Iterable[Input], workers: int
) -> Iterator[Output]:
    """Yield function(a reader, input) of each input in their order; each reader has a process."""
    readers = [Reader() for _ in range(workers)]
    free: queue.SimpleQueue[Reader] = queue.SimpleQueue()
    for reader in readers:
        free.put(reader)

    def by_any(one: Input) -> Output:
        reader = free.get()
        try:
            return function(reader, one)
        finally:
            free.put(reader)

    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[Output]] = deque()
    try:
        for one in inputs:
            waiting.append(pool.submit(by_any, one))
            if len(waiting) > workers * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for reader in readers:
            reader.close()


def answer(request: Facts) -> tuple[Facts, Arrays]:
    """(facts, arrays) for `send`."""
    try:
        if "target" in request:
            return answer_conversion(request), {}
        return answer_picture(request)
    except UnreadableImage as error:
        return {"error": error.reason}, {}
    except MemoryError:
        return {"error": TOO_MUCH_MEMORY}, {}


def answer_conversion(request: Facts) -> Facts:
    try:
        header = convert_file(request["path"], request["target"], request["size"])
    except OSError as error:
        return {"disk": [error.errno, error.strerror, error.filename]}
    return {"header": asdict(header)}


def answer_picture(request: Facts) -> tuple[Facts, Arrays]:
    path = Path(request["path"])
    image, header = read_image(path)
    with open(path, "rb") as file:
        is_dicom = not file.read(8).startswith(PICTURE_STARTS)
    network = image
    for side in request["sides"]:
        network = resize(network, side)
    facts: Facts = {"header": asdict(header), "dicom": is_dicom, "study": read_study(path)}
    arrays = {"network": network, "shown": shrink(image, LONGEST)}
    if request["deep"]:
        deep = read_deep(path, LONGEST)
        if deep is not None:
            facts["deep"] = asdict(deep)
            arrays["stored"] = facts["deep"].pop("stored")
    return facts, arrays


def answer_requests() -> None:
    """Answer requests until the parent is gone."""
    limit_memory()
    gdcm_process.allow_to_die()
    answers = take_stdout()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        facts, arrays = answer(request)
        send(answers, facts, arrays)


if __name__ == "__main__":
    answer_requests()
