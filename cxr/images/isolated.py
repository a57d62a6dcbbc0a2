"""Decoding of files from anywhere in processes of their own.

A file may hang a decoder, crash it, or unpack to more than the memory; then that process ends, and the file gets a
sentence. `python -m cxr.images.isolated` is such a process: requests as lines of JSON in, a line of JSON and raw arrays
out. It imports no PyTorch and does not run the caller's script again, so it starts within a second.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cxr.images.deep import Deep, read_deep, shrink
from cxr.images.read import PICTURE_STARTS, read_image, resize
from cxr.system.disk import InputError

try:
    import resource
except ImportError:  # Windows has no limits of this kind
    resource = None

READ_SECONDS = 60  # the largest compressed X-ray takes some seconds on a slow machine
MOST_MEMORY = 3 * 2**30  # bytes of address space; images.MOST_PIXELS of 16 bits take 1.7 GB
LONGEST = 1280  # pixels of the longer side of what people look at
AHEAD = 2  # files for each process that are read before they are asked for


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

    def __init__(self, seconds=READ_SECONDS):
        self.seconds, self.process, self.late = seconds, None, False

    def read(self, path, sides, deep=False):
        """Picture of a file. `sides`: the picture becomes square of the first, then of the second side and so on, as on
        its way through step 02 to the network. Raises InputError, naming the file and the reason."""
        self.start()
        request = {"path": os.path.abspath(path), "sides": list(sides), "deep": deep}
        timer = threading.Timer(self.seconds, self.stop_late)
        timer.start()
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            facts, arrays = receive(self.process.stdout)
        except (OSError, EOFError):
            raise InputError(f"{path}: {self.why_it_ended()}") from None
        finally:
            timer.cancel()
            timer.join()
        if "error" in facts:
            raise InputError(facts["error"])
        deep = Deep(arrays.pop("stored"), **facts.pop("deep")) if "stored" in arrays else None
        return Picture(**facts, **arrays, deep=deep)

    def start(self):
        if self.process and self.process.poll() is None and not self.late:
            return
        self.late = False
        one = {
            name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        }  # each thread reserves memory
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cxr.images.isolated"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | one,
        )

    def stop_late(self):
        self.late = True
        self.process.kill()

    def why_it_ended(self):
        self.process.kill()
        self.process.wait()
        if self.late:
            return f"took more than {self.seconds} seconds to decode"
        return "crashes the decoder, so it is damaged or made to do harm"

    def close(self):
        if self.process:
            self.process.kill()
            self.process.communicate()


def read_all(paths, sides, workers):
    """Yield the Picture of each path, or the InputError that it ended with, in order, from `workers` processes."""
    readers = [Reader() for _ in range(workers)]
    free = queue.SimpleQueue()
    for reader in readers:
        free.put(reader)
    pool, waiting = ThreadPoolExecutor(workers), deque()
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


def read_by_any(free, path, sides):
    reader = free.get()
    try:
        return reader.read(path, sides)
    except InputError as error:
        return error
    finally:
        free.put(reader)


def send(stream, facts, arrays):
    """One line of JSON with the shapes of the arrays in it, then their bytes."""
    shapes = {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}
    stream.write(json.dumps(facts | {"arrays": shapes}).encode() + b"\n")
    for array in arrays.values():
        stream.write(np.ascontiguousarray(array).tobytes())
    stream.flush()


def receive(stream):
    """(facts, {name: array}) of `send`. EOFError if the other side ended before."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    facts, arrays = json.loads(line), {}
    for name, (kind, *shape) in facts.pop("arrays").items():
        wanted = int(np.prod(shape)) * np.dtype(kind).itemsize
        content = stream.read(wanted)
        if len(content) < wanted:
            raise EOFError
        arrays[name] = np.frombuffer(content, kind).reshape(shape)
    return facts, arrays


def answer(request):
    """(facts, arrays) for `send`."""
    path = Path(request["path"])
    try:
        image, header = read_image(path)
        deep = read_deep(path, LONGEST) if request["deep"] else None
    except InputError as error:
        return {"error": str(error)}, {}
    except MemoryError:
        return {"error": f"{path}: needs more than {MOST_MEMORY >> 30} GB of memory to decode"}, {}
    arrays = {"network": image, "shown": shrink(image, LONGEST)}
    for side in request["sides"]:
        arrays["network"] = resize(arrays["network"], side)
    with open(path, "rb") as file:
        facts = {
            "width": header.width,
            "height": header.height,
            "dicom": not file.read(8).startswith(PICTURE_STARTS),
        }
    if deep is not None:
        values = asdict(deep)
        arrays["stored"] = values.pop("stored")
        facts["deep"] = values
    return facts, arrays


def main():
    """Answer requests until the parent is gone."""
    if resource:
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a C library prints must not get between the answers
    for line in sys.stdin.buffer:
        send(answers, *answer(json.loads(line)))


if __name__ == "__main__":
    main()
