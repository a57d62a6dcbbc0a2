"""How fast does step 02 make a PNG of a DICOM file, beside the work that no program can leave out?

    python benchmarks/preprocessing.py --input ../shared/data        real images: <input>/<slug>/stage_2_train_images/
    python benchmarks/preprocessing.py --images 12 --rounds 1        a quick try on synthetic ones

To reach: at most 1.15 times the sum of its unavoidable parts (read the file, decode the JPEG with the fastest decoder
that is installed, resize, encode and write the PNG), and 1.8 times as many images with two workers as with one.
"""

import io
import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
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

from timing import Row, arguments, at_least, duration, measure, show  # noqa: E402

from cxr.data.conversion import convert_all  # noqa: E402
from cxr.datasets.rsna.dataset import Rsna  # noqa: E402
from cxr.datasets.rsna.files import TRAIN_IMAGES  # noqa: E402
from cxr.datasets.rsna.synthetic import write_rsna_images  # noqa: E402
from cxr.images.png import write_png  # noqa: E402
from cxr.images.read import convert_image  # noqa: E402
from cxr.images.resize import resize  # noqa: E402

DECODERS = {
    "OpenCV": lambda jpeg: cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE),
    "Pillow": lambda jpeg: np.asarray(Image.open(io.BytesIO(jpeg))),
    "torchvision": lambda jpeg: decode_jpeg(
        torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
    ).numpy()[0],
}


def find_files(args, folder):
    """DICOM files of the data set below --input, or synthetic ones that are drawn into `folder`."""
    if args.input:
        source = Path(args.input) / Rsna.slug / TRAIN_IMAGES
        return sorted(source.glob("*.dcm"))[: args.images] or sys.exit(
            f"error: {source} holds no DICOM files"
        )
    write_rsna_images(folder / "dicoms", [0], args.images, 512)
    return sorted((folder / "dicoms").glob("*.dcm"))


def plain(source, target, size):
    """What a first attempt looks like."""
    image = pydicom.dcmread(source).pixel_array.astype(np.float32)
    image = (image - image.min()) / (image.max() - image.min()) * 255
    cv2.imwrite(
        str(target), cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8)
    )


def parts(files, size, new):
    """{name: function that does this part for all files}; each starts from what the part before it gives."""
    jpegs = [
        bytes(get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)) for path in files
    ]
    images = [DECODERS["OpenCV"](jpeg) for jpeg in jpegs]
    small = [resize(image, size) for image in images]
    decoders = {
        name: lambda decode=decode: [decode(jpeg) for jpeg in jpegs]
        for name, decode in DECODERS.items()
    }
    return decoders | {
        "read": lambda: [path.read_bytes() for path in files],
        "resize": lambda: [resize(image, size) for image in images],
        "write": lambda: [write_png(new(), image) for image in small],
    }


def workers(files, size, new, number):
    """All files through `number` workers, as step 02 does it, without its progress bar."""
    table = pd.DataFrame({"image_id": [path.stem for path in files], "path": list(map(str, files))})
    with (
        open(os.devnull, "w", encoding="utf-8") as silence,
        redirect_stdout(silence),
        redirect_stderr(silence),
    ):
        converted = convert_all(table, new().with_suffix(""), size, number)
    assert len(converted.headers) == len(files), "some images failed"


def main():
    args = arguments(__doc__, input="", images=600, size=512, rounds=3)
    cv2.setNumThreads(1)  # a figure per core; the workers of step 02 share the cores anyway
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        numbers = count()

        def new():
            return (
                Path(folder) / f"{next(numbers)}.png"
            )  # convert_image leaves a PNG that is there alone

        files, size = find_files(args, Path(folder)), args.size
        seconds = measure(
            parts(files, size, new)
            | {
                "ours": lambda: [convert_image(path, new(), size) for path in files],
                "plain": lambda: [plain(path, new(), size) for path in files],
                "one": lambda: workers(files, size, new, 1),
                "two": lambda: workers(files, size, new, 2),
            },
            args.rounds,
        )
    report(args, len(files), seconds)


def report(args, images, seconds):
    fastest = min(DECODERS, key=seconds.get)
    unavoidable = sum(seconds[name] for name in ("read", fastest, "resize", "write"))
    names = {
        "read": "read the file",
        fastest: f"decode the JPEG ({fastest}, the fastest of {', '.join(DECODERS)})",
        "resize": f"resize to {args.size}",
        "write": "encode and write the PNG",
    }
    share = seconds["ours"] / unavoidable
    rows = [Row(words, duration(seconds[name] / images)) for name, words in names.items()]
    rows += [
        Row(
            "limit: sum of these parts",
            duration(unavoidable / images),
            seconds["plain"] / unavoidable,
        ),
        Row("reference: pydicom, floats, cv2.imwrite", duration(seconds["plain"] / images), 1),
        Row(
            f"ours: {share:.2f} times the parts",
            duration(seconds["ours"] / images),
            seconds["plain"] / seconds["ours"],
            "at most 1.15 times",
            share <= 1.15,
        ),
        Row("step 02, one worker", f"{images / seconds['one']:.3g} images/s", 1),
        at_least(
            "step 02, two workers",
            f"{images / seconds['two']:.3g} images/s",
            seconds["one"] / seconds["two"],
            1.8,
        ),
    ]
    kind = "real" if args.input else "synthetic"
    show(
        f"DICOM to PNG: one core, an image, the mean of {images} {kind} ones of 1024 pixels",
        rows,
        "8 bits",
    )


if __name__ == "__main__":
    main()
