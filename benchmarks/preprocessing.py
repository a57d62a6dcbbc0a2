"""How fast does step 02 make a PNG of a DICOM file, beside the work that no program can leave out?

    python benchmarks/preprocessing.py --input ../shared/data       real images:
                                                        <input>/<slug>/stage_2_train_images/
    python benchmarks/preprocessing.py --images 12 --rounds 1       a quick try on synthetic ones

To reach: at most 1.15 times the sum of its unavoidable parts (read the file, decode the JPEG with
the fastest decoder that is installed, resize, encode and write the PNG), and 1.8 times as many
images with two workers as with one.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import torch
from PIL import Image
from pydicom.encaps import get_frame
from torchvision.io import decode_jpeg

sys.path.insert(0, str(Path(__file__).parents[1]))

from timing import Measured, Row, arguments, at_least, duration, measure, show

from cxr.data.conversion import convert_all
from cxr.datasets.rsna.dataset import Rsna
from cxr.datasets.rsna.files import TRAIN_IMAGES
from cxr.datasets.rsna.synthetic import write_rsna_images
from cxr.images.png import write_png
from cxr.images.read import convert_image
from cxr.images.resize import resize

Decode = Callable[[bytes], np.ndarray]  # a JPEG to its picture


def decode_by_opencv(jpeg: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None, "the JPEG is broken"
    return image


def decode_by_pillow(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def decode_by_torchvision(jpeg: bytes) -> np.ndarray:
    return decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)).numpy()[0]


DECODERS: dict[str, Decode] = {
    "OpenCV": decode_by_opencv,
    "Pillow": decode_by_pillow,
    "torchvision": decode_by_torchvision,
}


@dataclass(frozen=True)
class NewFiles:
    """Names for PNGs of a folder, each other than those before: one that is there would be left
    alone."""

    folder: Path
    numbers: Iterator[int] = field(default_factory=count)

    def name(self) -> Path:
        return self.folder / f"{next(self.numbers)}.png"


def find_files(args: Namespace, folder: Path) -> list[Path]:
    """DICOM files of the data set below --input, or synthetic ones that are drawn into `folder`."""
    if not args.input:
        write_rsna_images(folder / "dicoms", [0], args.images, 512)
        return sorted((folder / "dicoms").glob("*.dcm"))
    source = Path(args.input) / Rsna.slug / TRAIN_IMAGES
    files = sorted(source.glob("*.dcm"))[: args.images]
    if not files:
        sys.exit(f"error: {source} holds no DICOM files")
    return files


# ----------------------------------------------------------- what is timed, for all files


def read_all(files: Sequence[Path]) -> None:
    for path in files:
        path.read_bytes()


def decode_all(decode: Decode, jpegs: Sequence[bytes]) -> None:
    for jpeg in jpegs:
        decode(jpeg)


def resize_all(images: Sequence[np.ndarray], size: int) -> None:
    for image in images:
        resize(image, size)


def write_all(images: Sequence[np.ndarray], new: NewFiles) -> None:
    for image in images:
        write_png(new.name(), image)


def convert_plainly(files: Sequence[Path], size: int, new: NewFiles) -> None:
    """What a first attempt looks like."""
    for path in files:
        image = pydicom.dcmread(path).pixel_array.astype(np.float32)
        image = (image - image.min()) / (image.max() - image.min()) * 255
        small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(new.name()), small.astype(np.uint8))


def convert_as_step_02(files: Sequence[Path], size: int, new: NewFiles) -> None:
    """What a worker of step 02 does."""
    for path in files:
        convert_image(path, new.name(), size)


def convert_by_workers(files: Sequence[Path], size: int, new: NewFiles, workers: int) -> None:
    """All files through some workers, as step 02 does it, without its progress bar."""
    table = pd.DataFrame(
        {"image_id": [path.stem for path in files], "path": [str(path) for path in files]}
    )
    with silence():
        converted = convert_all(table, new.name().with_suffix(""), size, workers)
    assert len(converted.headers) == len(files), "some images failed"


@contextmanager
def silence() -> Iterator[None]:
    """Nothing is printed."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield


def unavoidable_parts(files: Sequence[Path], size: int, new: NewFiles) -> dict[str, Measured]:
    """{name: function that does this part for all files}; each starts from what the part before it
    gives."""
    jpegs = [read_jpeg(path) for path in files]
    images = [decode_by_opencv(jpeg) for jpeg in jpegs]
    small = [resize(image, size) for image in images]
    parts: dict[str, Measured] = {}
    for name, decode in DECODERS.items():
        parts[name] = partial(decode_all, decode, jpegs)
    parts["read"] = partial(read_all, files)
    parts["resize"] = partial(resize_all, images, size)
    parts["write"] = partial(write_all, small, new)
    return parts


def read_jpeg(path: Path) -> bytes:
    """The JPEG inside a DICOM."""
    return bytes(get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1))


def main() -> None:
    args = arguments(__doc__, input="", images=600, size=512, rounds=3)
    cv2.setNumThreads(1)  # a figure per core; the workers of step 02 share the cores anyway
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        new = NewFiles(Path(folder))
        files = find_files(args, Path(folder))
        functions = unavoidable_parts(files, args.size, new)
        functions["plain"] = partial(convert_plainly, files, args.size, new)
        functions["ours"] = partial(convert_as_step_02, files, args.size, new)
        functions["one worker"] = partial(convert_by_workers, files, args.size, new, 1)
        functions["two workers"] = partial(convert_by_workers, files, args.size, new, 2)
        seconds = measure(functions, args.rounds)
    report(args, len(files), seconds)


def report(args: Namespace, images: int, seconds: Mapping[str, float]) -> None:
    fastest = min(DECODERS, key=lambda name: seconds[name])
    words_of_parts = {
        "read": "read the file",
        fastest: f"decode the JPEG ({fastest}, the fastest of {', '.join(DECODERS)})",
        "resize": f"resize to {args.size}",
        "write": "encode and write the PNG",
    }
    unavoidable = sum(seconds[name] for name in words_of_parts)
    ours = seconds["ours"]
    plain = seconds["plain"]
    share = ours / unavoidable
    rows = []
    for name, words in words_of_parts.items():
        rows.append(Row(words, duration(seconds[name] / images)))
    limit = duration(unavoidable / images)
    rows += [
        Row("limit: sum of these parts", limit, plain / unavoidable),
        Row("reference: pydicom, floats, cv2.imwrite", duration(plain / images), 1),
        Row(
            f"ours: {share:.2f} times the parts",
            duration(ours / images),
            plain / ours,
            "at most 1.15 times",
            share <= 1.15,
        ),
        *worker_rows(images, seconds["one worker"], seconds["two workers"]),
    ]
    origin = "real" if args.input else "synthetic"
    show(
        f"DICOM to PNG: one core, an image, the mean of {images} {origin} ones of 1024 pixels",
        rows,
        "8 bits",
    )


def worker_rows(images: int, one: float, two: float) -> list[Row]:
    """Of the seconds of one worker and of two."""
    return [
        Row("step 02, one worker", f"{images / one:.3g} images/s", 1),
        at_least("step 02, two workers", f"{images / two:.3g} images/s", one / two, 1.8),
    ]


if __name__ == "__main__":
    main()
