"""Facts and arrays from one process to another, through a pipe."""

from __future__ import annotations

import json
from typing import IO, Any

import numpy as np

Facts = dict[str, Any]
Arrays = dict[str, np.ndarray]


def send(stream: IO[bytes], facts: Facts, arrays: Arrays | None = None) -> None:
    """One line of JSON with the shapes of the arrays in it, then their bytes."""
    arrays = arrays or {}
    shapes = {name: [array.dtype.str, *array.shape] for name, array in arrays.items()}
    line = json.dumps(facts | {"arrays": shapes})
    stream.write(line.encode() + b"\n")
    for array in arrays.values():
        stream.write(np.ascontiguousarray(array).tobytes())
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[Facts, Arrays]:
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
