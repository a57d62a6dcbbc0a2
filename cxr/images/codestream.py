"""What a compressed picture says of itself, read before any decoder believes it.

JPEG of all kinds (ITU-T T.81, and T.87 for JPEG-LS) and JPEG 2000 (T.800) begin with a header of
their own. Where it disagrees with the DICOM around it, decoders crash or fill the memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

JPEG_START = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
JPEG2000_START = b"\xff\x4f\xff\x51"  # start of codestream, then its size segment
JP2_START = b"\x00\x00\x00\x0cjP  "  # of a file around the codestream
# Start of frame in every kind of coding, which tables (C4, C8, CC) stand between; F7 is JPEG-LS.
FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
SCAN_MARKER = 0xDA
END_MARKER = 0xD9
# In a scan FF is followed by 00, by a restart marker, or by more FF; anything else ends the scan.
# In JPEG-LS a byte after FF has its highest bit 0.
NEXT_MARKER = re.compile(rb"\xff([\x80-\xcf\xd8-\xfe])")
MARKERS_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))


@dataclass(frozen=True)
class Codestream:
    """Size and depth of a compressed picture."""

    width: int
    height: int
    components: int
    precision: int  # bits of a component
    frame_marker: int  # of the JPEG; 0 for JPEG 2000

    @property
    def shape(self) -> tuple[int, ...]:
        if self.components == 1:
            return self.height, self.width
        return self.height, self.width, self.components


def read_codestream(content: bytes) -> Codestream | None:
    """What the header of a JPEG or JPEG 2000 says, None where there is none."""
    if content.startswith((JPEG2000_START, JP2_START)):
        return _read_jpeg2000(content)
    for marker, start, end in walk_jpeg(content):
        if marker in FRAME_MARKERS and end - start >= 6:
            return Codestream(
                width=int.from_bytes(content[start + 3 : start + 5], "big"),
                height=int.from_bytes(content[start + 1 : start + 3], "big"),
                components=content[start + 5],
                precision=content[start],
                frame_marker=marker,
            )
    return None


def _read_jpeg2000(content: bytes) -> Codestream | None:
    """From the size segment: sides of the grid and the picture's offset in it, then the depths."""
    start = content.find(JPEG2000_START)
    if start < 0 or len(content) < start + 45:
        return None
    grid_width, grid_height, left, top = (
        int.from_bytes(content[start + at : start + at + 4], "big") for at in (8, 12, 16, 20)
    )
    return Codestream(
        width=grid_width - left,
        height=grid_height - top,
        components=int.from_bytes(content[start + 40 : start + 42], "big"),
        precision=(content[start + 42] & 0x7F) + 1,
        frame_marker=0,
    )


def find_jpeg_end(content: bytes) -> int | None:
    """Position behind the end marker of the JPEG that `content` begins with.

    None where it is cut off. Whatever lies behind it is not looked at.
    """
    for marker, _, end in walk_jpeg(content):
        if marker == END_MARKER:
            return end
    return None


def walk_jpeg(content: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment of a JPEG, its two bytes of length left out.

    Ends where the bytes make no sense. A segment that is cut off is not given.
    """
    if not content.startswith(JPEG_START):
        return
    at = len(JPEG_START)
    while at + 1 < len(content):
        if content[at] != 0xFF:
            return
        marker = content[at + 1]
        if marker == 0xFF:  # a byte to fill up
            at += 1
            continue
        if marker == END_MARKER or marker in MARKERS_WITHOUT_LENGTH:
            at += 2
            yield marker, at, at
            if marker == END_MARKER:
                return
            continue
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        end = at + 2 + length
        if length < 2 or end > len(content):
            return
        yield marker, at + 4, end
        at = end
        if marker == SCAN_MARKER:
            match = NEXT_MARKER.search(content, at)
            if match is None:
                return
            at = match.start()
