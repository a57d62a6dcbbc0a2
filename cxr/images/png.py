"""The PNGs that the program writes, with the facts of the original file inside."""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cxr.images.header import Header
from cxr.system.disk import atomic

PNG_START = 33  # bytes of a PNG before its second chunk: signature and size
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
# Run-length coding: X-rays hardly repeat themselves, so the search for repetitions takes twice the
# time and gains nothing; the black around them is where runs are. Differences to the line above
# alone, the quickest to undo.
PNG_FLAGS = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV 4.11; before, it takes differences to the left
    PNG_FLAGS += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]


def write_png(path: str | Path, image: np.ndarray, header: Header | None = None) -> None:
    """Write (height, width) uint8 as gray PNG. OSError where the disk refuses.

    `header`, where given, travels inside the same file (a tEXt chunk), so picture and facts appear
    together or not at all. The caller syncs, since there are thousands (`disk.sync_all`).
    """
    content = cv2.imencode(".png", np.ascontiguousarray(image), PNG_FLAGS)[1].tobytes()
    if header is not None:
        content = content[:PNG_START] + _header_chunk(header) + content[PNG_START:]
    with atomic(path, synced=False) as temporary:
        temporary.write_bytes(content)


def _header_chunk(header: Header) -> bytes:
    """Length, type and data, and their check sum."""
    data = b"header\0" + json.dumps(asdict(header)).encode("ascii")
    body = b"tEXt" + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def read_png_header(path: str | Path, size: int) -> Header | None:
    """Header inside a PNG of `write_png`, without decoding it.

    None unless the file is whole, gray, size x size and ours.
    """
    try:
        with Image.open(path) as picture:
            if picture.size != (size, size) or picture.mode != "L":
                return None
            header = Header(**json.loads(picture.info["header"]))
        with open(path, "rb") as file:
            file.seek(-len(PNG_END), os.SEEK_END)
            is_whole = file.read() == PNG_END
    except (OSError, SyntaxError, KeyError, ValueError, TypeError):
        return None
    return header if is_whole else None
