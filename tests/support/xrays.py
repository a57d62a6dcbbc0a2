"""X-ray files of all kinds, made up: sound ones, odd ones, and such as are made to do harm."""

import struct
import zlib

import numpy as np
from PIL import Image
from test_images import make_dataset, save

READABLE = {
    "a.png",
    "deeper/still/a.png",
    "sixteen.png",
    "alpha.png",
    "one pixel.png",
    "COLOUR.JPG",
    "a.dcm",
    "no ending",
}
UNREADABLE = {"text.dcm", "empty.png", "cut.png", "huge.png", "huge.dcm"}
DICOMS = {"a.dcm", "no ending"}


def xray(width=96, height=128, seed=0):
    """Noise with a white rectangle, (height, width) uint8."""
    image = np.random.default_rng(seed).integers(0, 60, (height, width), dtype=np.uint8)
    image[height // 4 : height // 2, width // 4 : width // 2] = 250
    return image


def png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def huge_png(path, side):
    """A few bytes that claim side x side pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for chunk in (header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND"):
        content += struct.pack(">I", len(chunk) - 4) + chunk
        content += struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(content)
    return path


def huge_dicom(path):
    """A DICOM whose header claims 65,000 x 65,000 pixels."""
    return save(path, make_dataset(xray(), Rows=65_000, Columns=65_000))


def write_messy_folder(folder):
    """Images of every kind, READABLE and UNREADABLE, in folders, between other files."""
    gray = xray()
    png(folder / "a.png", gray)
    png(folder / "deeper" / "still" / "a.png", xray(seed=1))
    png(folder / "sixteen.png", gray.astype(np.uint16) * 200)
    png(folder / "alpha.png", np.dstack([gray] * 3 + [np.full_like(gray, 255)]))
    png(folder / "one pixel.png", gray[:1, :1])
    Image.fromarray(np.dstack([gray] * 3)).save(folder / "COLOUR.JPG")
    save(folder / "a.dcm", make_dataset(gray))
    save(folder / "no ending", make_dataset(gray.astype(np.uint16) * 16, bits=12))
    (folder / "text.dcm").write_text("these are words\n" * 20)
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:300])
    huge_png(folder / "huge.png", 9000)
    huge_dicom(folder / "huge.dcm")
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / ".git").mkdir()
    png(folder / ".git" / "b.png", gray)
    return folder
