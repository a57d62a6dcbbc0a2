"""Do damaged files end as a picture or as a sentence, with both readers?

    python tests/fuzz_readers.py                         10,000 files, some minutes
    python tests/fuzz_readers.py --count 300 --seed 1    others
    python tests/fuzz_readers.py --keep broken           files that end otherwise are kept there

DICOMs, PNGs and JPEGs drawn here, and small ones of the sample data where it is there, are changed
at random and read by cxr.images.read and by edge_predict.py, each in a process of its own with
limits of time and memory. Exit status 1 where a file ends in any other way than in a picture or a
sentence, or where the two readers give different pictures.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import select
import struct
import subprocess
import sys
import tempfile
import time
import unicodedata
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "unit")]

READERS = ("cxr", "edge")
SECONDS = 20  # a file that takes longer hangs
MOST_MEMORY = 3 * 2**30  # address space of a reader
TOO_MUCH = 2**30  # bytes of memory that a small file must not take
LARGEST_SEED = 200_000  # bytes of a file of the sample data that is mutated
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)


# ------------------------------------------------------------------------ files to begin with


def draw_seeds():
    """{name: content} of small whole files of every kind that the readers know."""
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless
    from test_images import make_dataset

    deep = (np.hypot(*np.mgrid[-20:20, -24:24]) * 130).clip(0, 4095).astype(np.uint16)
    byte = (deep // 16).astype(np.uint8)
    colour = np.dstack([byte, 255 - byte, byte // 2])
    table = pydicom.Dataset()
    table.LUTDescriptor = [4096, 0, 12]
    table.LUTData = np.arange(4096, dtype="<u2").tobytes()
    window = {"WindowCenter": 2000, "WindowWidth": 3000}
    datasets = {
        "8 bits": make_dataset(byte),
        "12 bits": make_dataset(deep, 12, **window),
        "signed": make_dataset(deep.astype(np.int16) - 2000, 16, PixelPaddingValue=-2000),
        "upper bits": make_dataset(deep << 4, 12, HighBit=15),
        "32 bits": make_dataset(deep.astype(np.uint32)),
        "colour": make_dataset(colour),
        "table": make_dataset(deep, 12, VOILUTSequence=[table]),
        "rescale": make_dataset(deep, 12, RescaleSlope=2.5, RescaleIntercept=-1024, **window),
        "inverse": make_dataset(deep, 12, PhotometricInterpretation="MONOCHROME1"),
    }
    seeds = {name: to_bytes(dataset) for name, dataset in datasets.items()}
    seeds["deflated"] = to_bytes(in_syntax(make_dataset(deep, 12), DeflatedExplicitVRLittleEndian))
    seeds["rle"] = to_bytes(compressed(make_dataset(deep, 12, **window), RLELossless))
    seeds["rle colour"] = to_bytes(compressed(make_dataset(colour), RLELossless))
    big_endian = in_syntax(make_dataset(deep.astype(">u2").view("<u2"), 12), ExplicitVRBigEndian)
    seeds["big endian"] = to_bytes(big_endian, implicit_vr=False, little_endian=False)
    return seeds | draw_compressed(byte, deep, colour) | draw_pictures(byte, deep, colour)


def in_syntax(dataset, syntax):
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def compressed(dataset, syntax):
    dataset.compress(syntax)
    return dataset


def to_bytes(dataset, **options):
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True, **options)
    return buffer.getvalue()


def draw_compressed(byte, deep, colour):
    """DICOMs with a compressed picture inside."""
    from PIL import Image
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless
    from test_images import make_dataset

    seeds = {}
    for name, pixels, ending, options, syntax, tags in (
        ("jpeg", byte, "JPEG", {}, JPEGBaseline8Bit, {}),
        ("progressive", byte, "JPEG", {"progressive": True}, JPEGBaseline8Bit, {}),
        (
            "jpeg colour",
            colour,
            "JPEG",
            {},
            JPEGBaseline8Bit,
            {"PhotometricInterpretation": "YBR_FULL_422"},
        ),
        ("jpeg 2000", deep, "JPEG2000", {"no_jp2": True}, JPEG2000Lossless, {}),
        (
            "jpeg 2000 colour",
            colour,
            "JPEG2000",
            {"no_jp2": True, "irreversible": True, "quality_layers": [20]},
            JPEG2000,
            {},
        ),
    ):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, ending, **options)
        dataset = in_syntax(make_dataset(pixels, **tags), syntax)
        dataset.PixelData = encapsulate([buffer.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        seeds[name] = to_bytes(dataset)
    with contextlib.suppress(RuntimeError, NotImplementedError):  # pyjpegls is not installed
        seeds["jpeg-ls"] = to_bytes(compressed(make_dataset(deep, 16), JPEGLSLossless))
    return seeds


def draw_pictures(byte, deep, colour):
    """PNGs and JPEGs."""
    from PIL import Image

    exif = Image.Exif()
    exif[274] = 6
    alpha = np.dstack([colour, byte])
    seeds = {}
    for name, pixels, ending, options in (
        ("png", byte, "PNG", {}),
        ("png 16", deep, "PNG", {}),
        ("png alpha", alpha, "PNG", {}),
        ("jpg", byte, "JPEG", {"exif": exif}),
        ("jpg colour", colour, "JPEG", {"progressive": True}),
        ("jpg restart", byte, "JPEG", {"restart_marker_rows": 1}),
    ):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, ending, **options)
        seeds[name] = buffer.getvalue()
    return seeds


def sample_seeds():
    """{name: content} of small files of the sample data."""
    from test_images import SHARED

    seeds = {}
    for folder in ("dicom-robustness", "odd-headers", "hostile"):
        for path in sorted((SHARED / folder).rglob("*")):
            is_image = path.suffix in (".dcm", ".png", ".jpg") and path.parent.name != "right"
            if is_image and path.stat().st_size <= LARGEST_SEED:
                seeds[f"{folder}/{path.name}"] = path.read_bytes()
    return seeds


# --------------------------------------------------------------------------------- mutations


def mutate(content, others, rng):
    """Content with one to three changes."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        change = CHANGES[rng.integers(len(CHANGES))]
        changed = change(changed, others, rng)
    return bytes(changed)


def position(content, rng):
    """Half of the changes hit the header."""
    end = len(content) if rng.random() < 0.5 else min(len(content), 1200)
    return int(rng.integers(max(1, end)))


def change_bytes(content, _, rng):
    for _ in range(rng.integers(1, 6)):
        if content:
            content[position(content, rng)] = int(rng.integers(256))
    return content


def set_extremes(content, _, rng):
    for _ in range(rng.integers(1, 3)):
        if content:
            content[position(content, rng)] = EXTREMES[rng.integers(len(EXTREMES))]
    return content


def set_length(content, _, rng):
    """Four bytes that may be a length or a size."""
    at = position(content, rng)
    value = rng.choice([0, 1, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**32 - 2])
    order = "<I" if rng.random() < 0.5 else ">I"
    content[at : at + 4] = struct.pack(order, int(value))
    return content


def cut_end(content, _, rng):
    return content[: rng.integers(len(content) + 1)]


def cut_out(content, _, rng):
    at = position(content, rng)
    del content[at : at + int(rng.integers(1, 64))]
    return content


def repeat(content, _, rng):
    at = position(content, rng)
    length = int(rng.integers(1, 256))
    return content[: at + length] + content[at:]


def insert(content, _, rng):
    at = position(content, rng)
    return content[:at] + rng.bytes(int(rng.integers(1, 32))) + content[at:]


def splice(content, others, rng):
    """The beginning of this file and the end of another."""
    other = others[rng.integers(len(others))]
    at = position(content, rng)
    return content[:at] + other[int(rng.integers(len(other))) :]


CHANGES = (
    change_bytes,
    change_bytes,
    change_bytes,
    set_extremes,
    set_extremes,
    set_length,
    cut_end,
    cut_out,
    repeat,
    insert,
    splice,
)


# ----------------------------------------------------------------------- a process that reads


def read_here(name):
    """Answer paths on stdin with lines of JSON: what became of the file, and what it took."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a C library prints must not get between the answers
    if name == "cxr":
        from cxr.images.printable import UnreadableImage as Sentence
        from cxr.images.read import read_image

        def read(path):
            picture, _ = read_image(path)
            return picture
    else:
        from edge_predict import Refused as Sentence
        from edge_predict import read_xray

        def read(path):
            return read_xray(path).picture

    for line in sys.stdin:
        path = json.loads(line)
        forget_peak()
        start = time.perf_counter()
        answer = {}
        try:
            picture = read(path)
            answer["outcome"] = "picture"
            answer["sum"] = [list(picture.shape), zlib.crc32(picture.tobytes())]
            if picture.ndim != 2 or picture.dtype != np.uint8:
                answer["outcome"] = "no picture"
        except Sentence as error:
            answer["words"] = str(error)
            answer["outcome"] = "sentence" if is_sentence(str(error)) else "no sentence"
        except BaseException as error:
            answer["words"] = f"{type(error).__name__}: {error}"
            answer["outcome"] = "other exception"
        answer["seconds"] = time.perf_counter() - start
        answer["peak"] = peak()
        print(json.dumps(answer), file=answers, flush=True)


def is_sentence(words):
    hidden = [c for c in words if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    return not hidden and " object at 0x" not in words and len(words) > 10


def forget_peak():
    """The highest resident set of this process begins anew (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak():
    """Bytes of the highest resident set since then."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class ReadingProcess:
    """A process of `read_here`, started again after it died."""

    def __init__(self, name):
        self.name = name
        self.process = None

    def read(self, path):
        """Its answer; the outcome is 'crash' or 'hang' where there is none."""
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--here", self.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        self.process.stdin.write(json.dumps(str(path)) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        self.process.kill()
        self.process.communicate()
        return {"outcome": "crash" if ready else "hang", "seconds": 0, "peak": 0}

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


# ----------------------------------------------------------------------------------- the run


def fuzz(count, seed, keep):
    """Number of files that ended in a way they must not."""
    seeds = draw_seeds() | sample_seeds()
    names = sorted(seeds)
    contents = [seeds[name] for name in names]
    readers = [ReadingProcess(name) for name in READERS]
    outcomes = {name: Counter() for name in READERS}
    slowest = dict.fromkeys(READERS, 0.0)
    largest = dict.fromkeys(READERS, 0)
    different = 0
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        for number in range(count):
            content = mutate(contents[rng.integers(len(contents))], contents, rng)
            path.write_bytes(content)
            answers = [reader.read(path) for reader in readers]
            for name, answer in zip(READERS, answers, strict=True):
                if answer["peak"] > TOO_MUCH:
                    answer["outcome"] = "above 1 GB"
                outcomes[name][answer["outcome"]] += 1
                slowest[name] = max(slowest[name], answer["seconds"])
                largest[name] = max(largest[name], answer["peak"])
            sums = {json.dumps(answer["sum"]) for answer in answers if "sum" in answer}
            different += len(sums) > 1
            wrong = [a for a in answers if a["outcome"] not in ("picture", "sentence")]
            if wrong or len(sums) > 1:
                print(f"file {number}: {answers}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{number}").write_bytes(content)
    for reader in readers:
        reader.close()
    bad = different
    print(f"{count} files of {len(seeds)} kinds, seed {seed}")
    for name in READERS:
        counts = ", ".join(f"{outcome} {n}" for outcome, n in sorted(outcomes[name].items()))
        print(f"{name}: {counts}; slowest {slowest[name]:.1f} s, most {largest[name] >> 20} MB")
        bad += count - outcomes[name]["picture"] - outcomes[name]["sentence"]
    print(f"different pictures: {different}")
    return bad


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for files that end otherwise")
    parser.add_argument("--here", choices=READERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        read_here(args.here)
    elif fuzz(args.count, args.seed, args.keep):
        sys.exit(1)


if __name__ == "__main__":
    main()
