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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np

from cxr.images.deep import Deep, read_deep
from cxr.images.read import PICTURE_STARTS, read_image
from cxr.images.resize import resize, shrink
from cxr.system.errors import InputError

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows has no limits of this kind
    resource = None

READ_SECONDS = 60  # the largest compressed X-ray takes some seconds on a slow machine
# Bytes of address space; header.MOST_PIXELS of 16 bits take 1.7 GB.
MOST_MEMORY = 3 * 2**30
LONGEST = 1280  # pixels of the longer side of what people look at
AHEAD = 2  # files for each process that are read before they are asked for
# Each thread of these libraries reserves memory.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Picture:
    """An X-ray as the network and as people see it."""

    width: int  # original pixels, as height
    height: int
    dicom: bool
    network: np.ndarray  # (S, S) uint8
    shown: np.ndarray  # (h, w) uint8, the aspect kept, the longer side at most LONGEST
    deep: Deep | None = None


class Reader:
    """One such process, started when it is first needed and again after it died."""

    def __init__(self, seconds: float = READ_SECONDS) -> None:
        self.seconds = seconds
        self.process: subprocess.Popen[bytes] | None = None
        self.late = False

    def read(self, path: str | Path, sides: Sequence[int], deep: bool = False) -> Picture:
        """Picture of a file.

        `sides`: the picture becomes square of the first, then of the second side and so on, as on
        its way through step 02 to the network. `deep`: with its deep values. Raises InputError,
        naming the file and the reason.
        """
        process = self.start()
        request = {"path": os.path.abspath(path), "sides": list(sides), "deep": deep}
        timer = threading.Timer(self.seconds, self.stop_late)
        timer.start()
        try:
            send_line(stdin_of(process), request)
            facts, arrays = receive(stdout_of(process))
        except (OSError, EOFError):
            raise InputError(f"{path}: {self.why_it_ended()}") from None
        finally:
            timer.cancel()
            timer.join()
        return to_picture(facts, arrays)

    def start(self) -> subprocess.Popen[bytes]:
        """The running process."""
        if self.process is not None and self.process.poll() is None and not self.late:
            return self.process
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

    def why_it_ended(self) -> str:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if self.late:
            return f"took more than {self.seconds} seconds to decode"
        return "crashes the decoder, so it is damaged or made to do harm"

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


def stdin_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None  # it was asked for as a pipe
    return process.stdin


def stdout_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout


def to_picture(facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> Picture:
    """The Picture that a process has sent, or the InputError."""
    if "error" in facts:
        raise InputError(facts["error"])
    deep = None
    if "stored" in arrays:
        deep = Deep(arrays["stored"], **facts["deep"])
    return Picture(
        width=facts["width"],
        height=facts["height"],
        dicom=facts["dicom"],
        network=arrays["network"],
        shown=arrays["shown"],
        deep=deep,
    )


def read_all(
    paths: Iterable[str | Path], sides: Sequence[int], workers: int
) -> Iterator[Picture | InputError]:
    """Yield the Picture of each path, or the InputError that it ended with.

    In the order of the paths, from `workers` processes.
    """
    readers = [Reader() for _ in range(workers)]
    free: queue.SimpleQueue[Reader] = queue.SimpleQueue()
    for reader in readers:
        free.put(reader)
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[Picture | InputError]] = deque()
    try:
        for path in paths:
            waiting.append(pool.submit(read_by_any, free, path, sides))
            if len(waiting) > workers * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for reader in readers:
            reader.close()


def read_by_any(
    free: queue.SimpleQueue[Reader], path: str | Path, sides: Sequence[int]
) -> Picture | InputError:
    """What the first free reader makes of a file."""
    reader = free.get()
    try:
        return reader.read(path, sides)
    except InputError as error:
        return error
    finally:
        free.put(reader)


def send_line(stream: IO[bytes], content: dict[str, Any]) -> None:
    stream.write(json.dumps(content).encode() + b"\n")
    stream.flush()


def send(stream: IO[bytes], facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """One line of JSON with the shapes of the arrays in it, then their bytes."""
    shapes = {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}
    send_line(stream, facts | {"arrays": shapes})
    for array in arrays.values():
        stream.write(np.ascontiguousarray(array).tobytes())
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(facts, {name: array}) of `send`. EOFError if the other side ended before."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    facts = json.loads(line)
    arrays = {}
    for name, (dtype, *shape) in facts.pop("arrays").items():
        length = int(np.prod(shape)) * np.dtype(dtype).itemsize
        content = stream.read(length)
        if len(content) < length:
            raise EOFError
        arrays[name] = np.frombuffer(content, dtype).reshape(shape)
    return facts, arrays


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(facts, arrays) for `send`."""
    path = Path(request["path"])
    try:
        image, header = read_image(path)
        deep = read_deep(path, LONGEST) if request["deep"] else None
    except InputError as error:
        return {"error": str(error)}, {}
    except MemoryError:
        gigabytes = MOST_MEMORY >> 30
        return {"error": f"{path}: needs more than {gigabytes} GB of memory to decode"}, {}

    network = image
    for side in request["sides"]:
        network = resize(network, side)
    with open(path, "rb") as file:
        is_dicom = not file.read(8).startswith(PICTURE_STARTS)
    facts: dict[str, Any] = {"width": header.width, "height": header.height, "dicom": is_dicom}
    arrays = {"network": network, "shown": shrink(image, LONGEST)}
    if deep is not None:
        facts["deep"] = asdict(deep)
        arrays["stored"] = facts["deep"].pop("stored")
    return facts, arrays


def main() -> None:
    """Answer requests until the parent is gone."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a C library prints must not get between the answers
    for line in sys.stdin.buffer:
        facts, arrays = answer(json.loads(line))
        send(answers, facts, arrays)


if __name__ == "__main__":
    main()
