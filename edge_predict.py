"""Boxes, masks or classes of chest X-rays on a weak machine: this file, numpy, an engine, a model.

    python edge_predict.py merged.onnx scans/ more/a.dcm --out results      files, nested folders
    python edge_predict.py merged.int8.onnx a.png --out results --overlay   pictures with what was
                                                                            found
    python edge_predict.py fold0.onnx a.png --out results --no-flip         half the time: without
                                                                            the mirrored view
    python edge_predict.py merged.onnx a.png --out results --models 0       one of its networks
    python edge_predict.py merged.onnx inbox/ --out results --watch         and what arrives there

The model says what it looks for. Writes predictions.csv (a row for each box, one without a box
where there is none; one for the mask or the classes of an image), predictions.json (the same, with
how likely each class of the whole image is) and failed.csv (what could not be read, and why), when
all is done. Until then each image is a line of predictions.jsonl, written before the next is looked
at: after a stop the same command goes on, and files that are done, with the same model and options,
and did not change are not looked at again. Boxes are x1 y1 x2 y2 in pixels of the original image,
and so are areas; masks are pictures of its size in masks/, 255 where they are set. The exit status
is 2 where some files could not be read.

The networks run in OpenVINO, onnxruntime, ncnn (whose files 06_export.py --ncnn writes) or OpenCV:
the first of them that is installed, runs on this processor, and gives for a drawn picture what
06_export.py has got. pydicom is needed for DICOMs only, and OpenCV or Pillow for PNGs and JPEGs;
masks and overlays need OpenCV. Python 3.9 or newer.

Everything that is particular to a model stands in the metadata of its file. Not for diagnosis.
"""

# ruff: noqa: B905, UP017  (Python 3.9 knows neither zip's `strict` nor datetime.UTC)

from __future__ import annotations

import argparse
import csv
import datetime
import errno
import hashlib
import importlib.util
import io
import json
import mmap
import os
import platform
import re
import signal
import subprocess
import sys
import time
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, Protocol

import numpy as np

# For cv2, before it is imported; the largest detectors have 20 million.
MOST_PIXELS = 50_000_000
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MOST_PIXELS))
try:
    import cv2
except ImportError:
    cv2 = None  # type: ignore[assignment]

# Of the settings in the model file; 1 knew the head retinanet only, 2 boxes only.
FORMATS = (1, 2, 3)
KEY = "settings"
# This and the three below as in cxr/geometry, which made the model.
STD = np.array([0.1, 0.1, 0.2, 0.2])
SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
RATIOS = (0.5, 1.0, 2.0)  # height : width
LIMIT = np.log(16)
FUSED_AT_MOST = 100  # as in cxr/methods/detector/records.py
# Passed over in folders.
NO_IMAGE = (".csv", ".json", ".jsonl", ".txt", ".md", ".html", ".xml", ".zip", ".onnx", ".py")
PNG_START = b"\x89PNG\r\n\x1a\n"
PICTURE_STARTS = (PNG_START, b"\xff\xd8\xff")
# Markers of a JPEG (ITU-T T.81): starts of frames, of which some are tables, and of scans.
JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_APP1 = 0xE1
JPEG_SCAN = 0xDA
JPEG_END = 0xD9
JPEG_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xDA))
ORIENTATION_TAG = 274  # of EXIF
TIFF_SIZES = {1: 1, 3: 2, 4: 4}  # of its whole numbers: BYTE, SHORT, LONG
# In a scan FF is followed by 00, by a restart marker, or by more FF; anything else ends the scan.
JPEG_NEXT = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
# Categories of Unicode: control characters (escape sequences of terminals), marks that hide or
# reverse what follows, halves of characters, separators of lines.
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"  # marks that words of Persian or Hindi need
# As in "cannot identify image file <_io.BytesIO object at 0x7f...>".
ADDRESS = re.compile(r"<[\w.]+ object at 0x[0-9a-fA-F]+>")
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG = "1.2.840.10008.1.2.4.50"
# What pydicom's plug-ins decode, the first one that is installed; as in cxr/images/dicom.py.
LOSSLESS_JPEG = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
PLUGINS = {
    **dict.fromkeys(LOSSLESS_JPEG, ("gdcm",)),
    "1.2.840.10008.1.2.4.80": ("pyjpegls", "gdcm"),  # JPEG-LS
    "1.2.840.10008.1.2.4.81": ("pyjpegls", "gdcm"),
    "1.2.840.10008.1.2.4.90": ("pylibjpeg", "pillow", "gdcm"),  # JPEG 2000
    "1.2.840.10008.1.2.4.91": ("pylibjpeg", "pillow", "gdcm"),
}
PLUGIN_PACKAGES = {
    "gdcm": "python-gdcm",
    "pyjpegls": "pyjpegls",
    "pylibjpeg": "pylibjpeg pylibjpeg-openjpeg",
}
JPEG_LS_FRAME = 0xF7
JPEG2000_START = b"\xff\x4f\xff\x51"  # start of codestream, then its size segment
JP2_START = b"\x00\x00\x00\x0cjP  "  # of a file around the codestream
PLAIN = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG)
# These four as in cxr/images/header.py.
X_RAYS = ("CR", "DX", "RG", "DR")  # modalities of single X-rays
CHEST_WORDS = ("CHEST", "THORAX", "TORAX", "LUNG", "PECHO", "T?RAX", "TÓRAX", "TÒRAX")
SIDE_VIEWS = ("LL", "RL", "LAT", "LLAT", "RLAT", "LLO", "RLO", "OBL")
SIDE_WORDS = ("LATERAL", "OBLIQUE")
BOX_COLOUR = (0, 200, 255)  # blue, green, red; of masks, too
NOTICE_COLOUR = (190, 190, 190)
INSTALL_OPENCV = "pip install opencv-python-headless, or python3-opencv of the distribution"
FONT = 0  # cv2.FONT_HERSHEY_SIMPLEX
# The self-test of engines: values of an output that are compared; how near the same is, and few
# values are (probabilities); what few are.
SAMPLED = 500
SAME = 1e-4
NEAR = 0.05
FEW = 20
# For files that do not tell: what is compared, and the correlations that int8 must reach.
UNTOLD_CORRELATION = {"scores0": 0.98, "deltas0": 0.95, "category0": 0.98}
MOST_TRUSTED = ("onnxruntime", "openvino", "opencv", "ncnn")
APART = """
import json, runpy, sys
call = json.loads(sys.argv[1])
sys.path[:] = call["path"]
runpy.run_path(call["file"])[call["name"]](**call["with"])
"""
# At the end of a model file: an entry of the metadata, of which the 64 characters follow that are
# the SHA-256 of everything before it. As in cxr/steps/export/onnx_files.py.
SEAL = b"\x72\x4a\x0a\x06sha256\x12\x40"
SOME_FAILED = 2  # exit status
WATCH_SECONDS = 3.0  # between two looks at a folder
# Packages on which it depends what can be read.
READERS = ("pydicom", "pylibjpeg", "openjpeg", "PIL", "gdcm", "jpeg_ls")
LONGEST_NAME = 255  # bytes, of most file systems
NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # some network drives


class Refused(Exception):
    """Why a model or an image cannot be used and what to do about it, in one sentence."""


class Outputs(NamedTuple):
    """What networks say of a picture, over A anchors, K classes of boxes, C of the image."""

    scores: np.ndarray  # (A, K) probabilities
    deltas: np.ndarray  # (A, 4), or (N, A, 4) of all models x views
    category: np.ndarray  # (C,) probabilities


class Candidates(NamedTuple):
    """The best anchors of a picture, in pixels of its frame."""

    centre: np.ndarray  # (n, 2)
    size20: np.ndarray  # (n, 2) 20th percentile of the size over models x views
    size80: np.ndarray  # (n, 2) 80th
    score: np.ndarray  # (n,)
    label: np.ndarray  # (n,)


class MaskOutputs(NamedTuple):
    """What networks say of a picture: probabilities of its pixels (S, S), and of the image."""

    mask: np.ndarray
    label: float


class Boxes(NamedTuple):
    """Boxes (n, 4) x1 y1 x2 y2, scores (n,), labels (n,), best first."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


# --- the settings inside a model file


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that 06_export.py put into the metadata of the model.

    Refused where there are none. OpenCV does not tell the metadata, so the file is walked here: it
    is one protobuf message, whose field 14 are the entries of the metadata, each with a key
    (field 1) and a value (field 2).
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            metadata = {}
            for number, start, end in walk_fields(data, 0, len(data)):
                if number == 14:
                    entry = {name: data[a:b] for name, a, b in walk_fields(data, start, end)}
                    metadata[entry.get(1)] = entry.get(2, b"")
            return check_format(path, json.loads(metadata[KEY.encode()]))
    except FileNotFoundError:
        raise Refused(f"{path} is missing: write it with 06_export.py and copy it here") from None
    except (ValueError, IndexError, KeyError):  # an empty file, no protobuf, cut off
        pass
    raise Refused(f"{path} is no whole model of 06_export.py: write it again and copy it here")


def check_format(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    if settings["format"] not in FORMATS:
        raise Refused(
            f"{path} has settings of format {settings['format']}, and this edge_predict.py reads "
            f"{', '.join(map(str, FORMATS))}: take the edge_predict.py that stands beside the "
            "06_export.py which wrote the model"
        )
    return settings


def read_check_sum(path: Path) -> str:
    """The SHA-256 that a model file ends with, "" where it has none."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(SEAL) - 64))
        end = file.read()
    return end[len(SEAL) :].decode("latin-1") if end.startswith(SEAL) else ""


def refuse_damage(path: Path) -> None:
    """Refused where bytes of a model file have changed since it was written."""
    stored = read_check_sum(path)
    if not stored:
        return
    if check_sum_of(path, path.stat().st_size - len(SEAL) - 64) != stored:
        raise Refused(
            f"{path} is damaged: its SHA-256 is not the one that 06_export.py has written into it; "
            "copy it here again"
        )


def check_sum_of(path: Path, size: int) -> str:
    """SHA-256 of the first `size` bytes of a file."""
    check_sum = hashlib.sha256()
    left = size
    with open(path, "rb") as file:
        while left > 0:
            part = file.read(min(left, 2**20))
            if not part:  # the file has become shorter
                break
            check_sum.update(part)
            left -= len(part)
    return check_sum.hexdigest()


def walk_fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of the fields with bytes of a protobuf message in data[at:end]."""
    while at < end:
        key, at = read_varint(data, at)
        wire_type = key & 7
        if wire_type == 0:  # a number
            _, at = read_varint(data, at)
        elif wire_type == 1:
            at += 8
        elif wire_type == 5:
            at += 4
        elif wire_type == 2:  # bytes
            size, start = read_varint(data, at)
            at = start + size
            if at <= end:
                yield key >> 3, start, at
        else:
            raise ValueError("no protobuf")
        if at > end:
            raise ValueError("cut off")


def read_varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """(number, position behind it): seven bits a byte, the lowest first."""
    value = 0
    shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        shift += 7
        at += 1
        if byte < 128:
            return value, at


# --- engines


class Engine(Protocol):
    """Runs the networks of a model file. `version`: of its package."""

    version: str

    def __call__(self, image: np.ndarray, names: list[str]) -> Sequence[np.ndarray]: ...


class OnnxRuntime:
    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime  # optional, and OpenCV does without it

        self.version = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # 0: one for each core
        options.log_severity_level = 3
        self.run_options = onnxruntime.RunOptions()
        self.run_options.only_execute_path_to_fetches = True
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, image: np.ndarray, names: list[str]) -> Sequence[np.ndarray]:
        return self.session.run(names, {"image": image}, self.run_options)


class OpenCV:
    def __init__(self, path: Path, threads: int) -> None:
        self.version = cv2.__version__
        cv2.setNumThreads(threads or -1)
        try:
            self.net = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            reason = " ".join(str(error).split())[:200]
            raise Refused(
                f"OpenCV {cv2.__version__} cannot load {path} ({reason}): take the file without "
                "int8 in its name, a newer OpenCV, or install onnxruntime"
            ) from None

    def __call__(self, image: np.ndarray, names: list[str]) -> Sequence[np.ndarray]:
        self.net.setInput(image, "image")
        if int(self.version.split(".")[0]) < 5:
            return self.net.forward(names)
        # OpenCV 5 gives all outputs or none.
        all_names = self.net.getUnconnectedOutLayersNames()
        outputs = dict(zip(all_names, self.net.forward(all_names)))
        return [outputs[name] for name in names]


class OpenVINO:
    def __init__(self, path: Path, threads: int) -> None:
        import openvino  # optional

        self.version = openvino.__version__.split("-")[0]
        self.make_model = openvino.Model
        self.core = openvino.Core()
        self.model = self.core.read_model(str(path))
        self.options = {
            "INFERENCE_PRECISION_HINT": "f32",  # some processors would take bf16
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,  # 0: one for each core
        }
        self.compiled: dict[tuple[str, ...], Any] = {}

    def __call__(self, image: np.ndarray, names: list[str]) -> Sequence[np.ndarray]:
        run = self.compiled.get(tuple(names))
        if run is None:
            run = self.compile_part(names)
            self.compiled[tuple(names)] = run
        results = run({"image": image})
        return [results[number] for number in range(len(names))]

    def compile_part(self, names: list[str]) -> Any:
        """Only what these outputs need."""
        outputs = [self.model.output(name).node.input_value(0) for name in names]
        part = self.make_model(outputs, self.model.get_parameters(), "part")
        return self.core.compile_model(part, "CPU", self.options)


class Ncnn:
    """Runs the two files beside the model file that 06_export.py --ncnn has made of it."""

    def __init__(self, path: Path, threads: int) -> None:
        import ncnn  # optional

        self.version = ncnn.__version__
        self.as_input = ncnn.Mat
        outputs, files = find_ncnn_files(path)
        self.blobs = {name: f"out{number}" for number, name in enumerate(outputs)}
        self.net = ncnn.Net()
        if threads:  # else ncnn counts the cores
            self.net.opt.num_threads = threads
        # 16 bits would be faster on some processors, and less exact.
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(self.net.opt, f"use_{option}", False)
        failed = self.net.load_param(str(files["param"])) or self.net.load_model(str(files["bin"]))
        if failed:
            raise Refused(f"ncnn {self.version} cannot load {files['param']}")

    def __call__(self, image: np.ndarray, names: list[str]) -> Sequence[np.ndarray]:
        extractor = self.net.create_extractor()  # computes what is asked for, and once
        # A copy: on an array that it does not own ncnn ends the process.
        extractor.input("in0", self.as_input(image[0]).clone())
        outputs = []
        for name in names:
            failed, output = extractor.extract(self.blobs[name])
            if failed:
                raise Refused(f"ncnn {self.version} cannot compute {name}")
            outputs.append(np.array(output))
        return outputs


def find_ncnn_files(path: Path) -> tuple[list[str], dict[str, Path]]:
    """(outputs in their order, {ending: path}) of ncnn's files of a model file.

    Refused where they are not those that were made of it.
    """
    about = read_settings(path).get("ncnn")
    if about is None:
        raise Refused(f"{path} has no files for ncnn: write them with 06_export.py --ncnn")
    files = {}
    for ending, stored in about["sha256"].items():
        file = path.with_suffix(f".ncnn.{ending}")
        if not file.exists():
            raise Refused(f"{file} is missing: copy it here, beside {path}")
        if check_sum_of(file, file.stat().st_size) != stored:
            raise Refused(f"{file} is damaged or of another {path.name}: copy both here again")
        files[ending] = file
    return about["outputs"], files


# The fastest first.
ENGINES: dict[str, Callable[[Path, int], Engine]] = {
    "openvino": OpenVINO,
    "onnxruntime": OnnxRuntime,
    "ncnn": Ncnn,
    "opencv": OpenCV,
}
MODULES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "ncnn": "ncnn", "opencv": "cv2"}


def open_engine(name: str, path: Path, threads: int) -> tuple[str, Engine]:
    """(its name and version, the engine)."""
    if not is_installed(name):
        raise Refused(f"{name} is not installed: pip install {name}, or --engine auto")
    engine = ENGINES[name](path, threads)
    return f"{name} {engine.version}", engine


def is_installed(engine: str) -> bool:
    return importlib.util.find_spec(MODULES[engine]) is not None


# --- which engine is there and right
#
# Each is tried in a process of its own: on a processor that it was not built for, the import alone
# may be an illegal instruction. And each must give, for a drawn picture, what 06_export.py has got.


class Trial(NamedTuple):
    """What a process of an engine said: sampled values of some outputs, or why there are none."""

    version: str
    outputs: dict[str, list[float]]
    refusal: str


def draw_test_picture(side: int) -> np.ndarray:
    """(side, side) uint8, about a chest; in whole numbers, to be the same on every machine."""
    y = np.arange(side)[:, None] * 1024 // side
    x = np.arange(side)[None] * 1024 // side
    picture = np.full((side, side), 180)
    for middle in (320, 704):
        lung = 9 * (x - middle) ** 2 + 2 * (y - 500) ** 2 < 500_000
        picture[lung] = 110
    heart = (x - 560) ** 2 + (y - 620) ** 2 < 20_000
    opacity = (x - 250) ** 2 + (y - 620) ** 2 < 5_000
    ribs = np.broadcast_to(y % 90 < 18, picture.shape)
    picture += 50 * heart + 60 * opacity + 25 * ribs
    return picture.clip(0, 255).astype(np.uint8)


def answer_test_picture(engine: Engine, side: int, names: list[str]) -> dict[str, list[float]]:
    """{output: some of its values, evenly spaced} for the test picture."""
    image = draw_test_picture(side).astype(np.float32)
    answer = {}
    for name, output in zip(names, engine(image[None, None], names)):
        values = np.asarray(output, np.float64).reshape(-1)
        sample = np.linspace(0, len(values) - 1, min(len(values), SAMPLED)).astype(int)
        answer[name] = values[sample].round(6).tolist()
    return answer


def answer_here(engine: str, path: str, side: int, names: list[str], threads: int) -> None:
    """Print the fields of a Trial of this process, which is one of try_engine."""
    try:
        version, run = open_engine(engine, Path(path), threads)
        trial = Trial(version, answer_test_picture(run, side, names), "")
    except Exception as error:  # engines raise anything at all
        words = " ".join(str(error).split())[:200]
        trial = Trial(engine, {}, f"it cannot run the file ({type(error).__name__}: {words})")
    print(json.dumps(trial._asdict()))


def run_apart(
    function: str, arguments: dict[str, Any], content: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Call a function of this file in another process, whose end is not the end of this one."""
    call = json.dumps({"path": sys.path, "file": __file__, "name": function, "with": arguments})
    return subprocess.run([sys.executable, "-c", APART, call], input=content, capture_output=True)


def try_engine(engine: str, path: Path, side: int, names: list[str], threads: int) -> Trial:
    """What the engine says of the test picture, whatever becomes of its process."""
    arguments = {
        "engine": engine,
        "path": str(path),
        "side": side,
        "names": names,
        "threads": threads,
    }
    done = run_apart("answer_here", arguments)
    if done.returncode < 0:
        number = -done.returncode
        words = signal.strsignal(number) or "unknown"
        return Trial(engine, {}, f"its process ends with signal {number} ({words})")
    try:
        return Trial(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        lines = done.stderr.decode(errors="replace").split("\n")
        last = printable(next((line for line in reversed(lines) if line.strip()), ""))[:200]
        return Trial(engine, {}, f"its process ends with status {done.returncode} ({last})")


def find_difference(
    outputs: dict[str, list[float]],
    expected: dict[str, list[float]],
    correlation: dict[str, float],
) -> str:
    """In which output an engine is wrong, "" where it is right.

    Many values must have the correlation of their output, few (probabilities of classes) be near.
    """
    for name, values in expected.items():
        found = np.array(outputs[name])
        right = np.array(values)
        distance = np.abs(found - right)
        if not np.isfinite(found).all():
            return f"{name} of the test picture has values that are no numbers"
        if distance.max() <= SAME:
            continue
        if len(right) < FEW:
            if distance.mean() > NEAR:
                return f"{name} of the test picture is wrong by {distance.mean():.2g}"
            continue
        reached = np.corrcoef(found, right)[0, 1] if np.ptp(found) > 0 else 0.0
        if reached < correlation[name]:
            return (
                f"{name} of the test picture has a correlation of {reached:.3f} with what it "
                f"should be, and {correlation[name]} is wanted"
            )
    return ""


class EngineChooser:
    """Finds an engine that can run a model file, and does it right."""

    def __init__(self, path: Path, settings: dict[str, Any], threads: int) -> None:
        self.path = path
        self.side = settings["image_size"]
        self.threads = threads
        self.has_ncnn_files = "ncnn" in settings
        test = settings.get("self_test")
        self.expected = test["outputs"] if test else None
        self.correlation = test["correlation"] if test else UNTOLD_CORRELATION
        self.trials: dict[str, Trial] = {}

    def choose(self, asked: str) -> tuple[str, list[str]]:
        """(engine, sentences about those that were passed over)."""
        passed_over: list[str] = []
        for engine in ENGINES if asked == "auto" else (asked,):
            if asked == "auto" and engine == "ncnn" and not self.has_ncnn_files:
                continue
            if not is_installed(engine):
                if asked == engine:
                    raise Refused(f"{engine} is not installed: pip install {engine}")
                continue
            reason = self.why_not(engine)
            if not reason:
                return engine, passed_over
            passed_over.append(f"{self.try_once(engine).version} is passed over: {reason}")
            if asked == engine:
                raise Refused(
                    f"{self.try_once(engine).version} cannot be used for {self.path}: {reason}; "
                    "take another --engine, or another file of 06_export.py"
                )
        raise Refused(
            f"no engine can run {self.path}: {'; '.join(passed_over)}; install onnxruntime, or "
            "take the file without int8 in its name"
        )

    def why_not(self, engine: str) -> str:
        """The reason not to take an engine, "" where it is right."""
        trial = self.try_once(engine)
        if trial.refusal:
            return trial.refusal
        expected = self.expected or self.ask_others(engine)
        return find_difference(trial.outputs, expected, self.correlation)

    def ask_others(self, engine: str) -> dict[str, list[float]]:
        """For files that do not say what is right: what another engine says.

        The engines that come before this one in MOST_TRUSTED; {} where there is none.
        """
        for other in MOST_TRUSTED[: MOST_TRUSTED.index(engine)]:
            if is_installed(other) and not self.try_once(other).refusal:
                return self.try_once(other).outputs
        return {}

    def try_once(self, engine: str) -> Trial:
        if engine not in self.trials:
            names = list(self.correlation)
            self.trials[engine] = try_engine(engine, self.path, self.side, names, self.threads)
        return self.trials[engine]


def why_not_engine(engine: str, path: Path) -> str:
    """The reason not to use an engine for a model file, "" where it is right."""
    return EngineChooser(path, read_settings(path), threads=0).why_not(engine)


def choose_engine(asked: str, path: Path, settings: dict[str, Any], threads: int, out: Path) -> str:
    """An engine that is there and right. Says which ones were passed over, and why.

    The choice is kept in the folder `out`, until the file or what is installed changes.
    """
    installed = {}
    for engine, module in MODULES.items():
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin:
            installed[engine] = list(identify(engine, Path(spec.origin)))
    question = {
        "asked": asked,
        "model": list(identify(path.name, path)),
        "check_sum": read_check_sum(path),
        "installed": installed,
        "machine": [platform.node(), platform.machine()],
        "program": zlib.crc32(Path(__file__).read_bytes()),
    }
    kept = out / "engine.json"
    known = parse_line(kept.read_bytes()) if kept.exists() else {}
    if known.get("question") != question:
        engine, sentences = EngineChooser(path, settings, threads).choose(asked)
        known = {"question": question, "engine": engine, "sentences": sentences}
        write(kept, json.dumps(known) + "\n")
    for sentence in known["sentences"]:
        print(sentence, file=sys.stderr, flush=True)
    return known["engine"]


# --- from a picture to an answer


def open_predictor(
    path: Path,
    engine: str = "onnxruntime",
    flip: bool | None = None,
    models: Sequence[int] | None = None,
    threads: int = 0,
) -> ModelFile:
    """The predictor of what the file looks for, ready to be used."""
    kind = read_settings(path).get("kind", "boxes")
    if kind == "masks" and cv2 is None:
        raise Refused(f"{path} gives masks, which need OpenCV: {INSTALL_OPENCV}")
    if kind not in PREDICTORS:
        raise Refused(
            f"{path} gives {kind}, and this edge_predict.py knows {', '.join(PREDICTORS)}: take "
            "the edge_predict.py that stands beside the 06_export.py which wrote the model"
        )
    return PREDICTORS[kind](path, engine, flip, models, threads)


class ModelFile:
    """Base of the predictors of boxes, masks and classes: a model file ready to be used.

    `flip`: also look at the mirrored picture (None: all views that the settings say, for which the
    thresholds were fitted). `models`: only these of the merged models, by number. OUTPUTS: of each
    network, in this order. COLUMNS: what predictions.csv says of an image beside its size and
    classes.
    """

    OUTPUTS: tuple[str, ...]
    COLUMNS: tuple[str, ...]

    def __init__(
        self,
        path: Path,
        engine: str = "onnxruntime",
        flip: bool | None = None,
        models: Sequence[int] | None = None,
        threads: int = 0,
    ) -> None:
        self.settings = read_settings(path)
        self.engine_name, self.engine = open_engine(engine, path, threads)
        self.flips = find_flips(self.settings, flip)
        self.models = range(self.settings["models"]) if models is None else models
        self.side = self.settings["image_size"]

    def self_test(self, names: list[str]) -> dict[str, list[float]]:
        """What 06_export.py puts into the file, for other engines to be compared with."""
        return answer_test_picture(self.engine, self.side, names)

    def __call__(self, picture: np.ndarray, frame: tuple[int, int] | None = None) -> dict[str, Any]:
        """The answer to a picture (h, w) uint8.

        It is in pixels of the frame (width, height; default: the picture's own).
        """
        if frame is None:
            height, width = picture.shape
            frame = (width, height)
        return self.answer(self.look(picture), frame)

    def look(self, picture: np.ndarray) -> Any:
        """What the networks say, merged over models and views."""
        # As the pictures came to the network in training.
        picture = resize(resize(picture, self.settings["stored_size"]), self.side)
        names = []
        for model in self.models:
            names += [f"{output}{model}" for output in self.OUTPUTS]

        views = []
        for axes in self.flips:
            image = np.ascontiguousarray(np.flip(picture, axes), np.float32)
            raw = self.engine(image[None, None], names)
            for start in range(0, len(names), len(self.OUTPUTS)):
                views.append(self.undo_view(raw[start : start + len(self.OUTPUTS)], axes))
        return self.merge(views)

    def undo_view(self, raw: Sequence[np.ndarray], axes: tuple[int, ...]) -> Any:
        """Outputs of one network for one view, brought back to the unchanged picture.

        axes: those along which the view was flipped, 0 of the rows and 1 of the columns.
        """
        raise NotImplementedError

    def merge(self, views: Sequence[Any]) -> Any:
        """The outputs of all models and views as one."""
        raise NotImplementedError

    def answer(self, outputs: Any, frame: tuple[int, int]) -> dict[str, Any]:
        """What `look` gave as an answer in pixels of the frame, by the rule of step 05."""
        raise NotImplementedError

    def entry_facts(self, answer: dict[str, Any]) -> dict[str, Any]:
        """What the entry of an image in predictions.json says of its answer."""
        raise NotImplementedError

    def rows(self, entry: dict[str, Any]) -> list[list[Any]]:
        """The cells below COLUMNS of the rows of an image in predictions.csv."""
        raise NotImplementedError

    def draw_answer(
        self, canvas: np.ndarray, entry: dict[str, Any], answer: dict[str, Any]
    ) -> None:
        """Draw what was found into a colour picture."""
        raise NotImplementedError

    def describe(self, entry: dict[str, Any]) -> str:
        """What was found, in words for the console."""
        raise NotImplementedError


def find_flips(settings: dict[str, Any], flip: bool | None) -> list[tuple[int, ...]]:
    """The axes along which each view is flipped: 0 turns a picture upside down, 1 mirrors it."""
    if flip is None:
        flips: list[tuple[int, ...]] = [(), (1,)] if settings["flip"] else [()]
        if settings.get("upside_down"):
            flips += [(0, *axes) for axes in flips]
        return flips
    return [(), (1,)] if flip else [()]


class Predictor(ModelFile):
    """Of a file that gives boxes.

    An answer has boxes (n, 4) x1 y1 x2 y2, best first and before the thresholds, scores (n,)
    0 ... 1, labels (n,) into `classes`, kept (n,) bool: above the thresholds; category:
    probabilities of the image classes.
    """

    OUTPUTS = ("scores", "deltas", "category")
    COLUMNS = ("label", "score", "x1", "y1", "x2", "y2")

    def __init__(
        self,
        path: Path,
        engine: str = "onnxruntime",
        flip: bool | None = None,
        models: Sequence[int] | None = None,
        threads: int = 0,
    ) -> None:
        super().__init__(path, engine, flip, models, threads)
        head = self.settings.get("head", "retinanet")
        self.centre, self.size = make_anchors(self.side, self.settings["levels"], head)
        self.mirrored = mirror_index(self.side, self.settings["levels"], head)

    def undo_view(self, raw: Sequence[np.ndarray], axes: tuple[int, ...]) -> Outputs:
        count = len(self.centre)
        scores = np.asarray(raw[0]).reshape(count, -1)
        deltas = np.asarray(raw[1]).reshape(count, -1)
        category = np.asarray(raw[2]).reshape(-1)
        if axes:
            scores = scores[self.mirrored]
            deltas = deltas[self.mirrored] * np.array([-1, 1, 1, 1], np.float32)
        return Outputs(scores, deltas, category)

    def merge(self, views: Sequence[Outputs]) -> Outputs:
        """Means over models and views; the deltas of all of them."""
        return Outputs(
            scores=np.mean([view.scores for view in views], 0),
            deltas=np.stack([view.deltas for view in views]),
            category=np.mean([view.category for view in views], 0),
        )

    def answer(self, outputs: Outputs, frame: tuple[int, int]) -> dict[str, np.ndarray]:
        candidates = self.find_candidates(outputs, frame)
        return decide(candidates, outputs.category, frame, self.settings["rule"])

    def find_candidates(self, outputs: Outputs, frame: tuple[int, int]) -> Candidates:
        """The best anchors of each class, in pixels of the frame."""
        score, anchor, label = best_anchors(
            outputs.scores, self.settings["floor"], self.settings["most"]
        )
        deltas = outputs.deltas[:, anchor] * STD
        unit = self.size[anchor]
        scale = np.array(frame) / self.side
        centre = self.centre[anchor] + deltas[..., :2].mean(0) * unit
        low, high = self.size_percentiles(deltas[..., 2:])
        size20 = unit * np.exp(np.minimum(low, LIMIT)) * scale
        size80 = unit * np.exp(np.minimum(high, LIMIT)) * scale
        return Candidates(centre * scale, size20, size80, score.astype(np.float64), label)

    def size_percentiles(self, votes: np.ndarray) -> Sequence[np.ndarray]:
        """20th and 80th percentile (n, 2) of the votes (N, n, 2) of all models x views for sizes.

        As step 04: within each fold, then averaged, or over all of them.
        """
        groups = [votes]
        folds = self.settings.get("folds")
        if folds and self.settings.get("size_votes") == "fold":
            of_votes = np.array([folds[model] for model in self.models] * len(self.flips))
            groups = [votes[of_votes == fold] for fold in dict.fromkeys(of_votes.tolist())]
        quantiles = [np.quantile(group, [0.2, 0.8], axis=0) for group in groups]
        return np.mean(quantiles, axis=0)

    def entry_facts(self, answer: dict[str, Any]) -> dict[str, Any]:
        kept = answer["kept"]
        boxes = []
        for box, score, label in zip(
            answer["boxes"][kept].round(1).tolist(),
            answer["scores"][kept].round(6).tolist(),
            answer["labels"][kept],
        ):
            boxes.append({"label": self.settings["classes"][label], "score": score, "box": box})
        image_classes = name_classes(answer["category"], self.settings)
        return {"image_classes": image_classes, "boxes": boxes}

    def rows(self, entry: dict[str, Any]) -> list[list[Any]]:
        if not entry["boxes"]:
            return [[""] * len(self.COLUMNS)]
        return [[box["label"], box["score"], *box["box"]] for box in entry["boxes"]]

    def draw_answer(
        self, canvas: np.ndarray, entry: dict[str, Any], answer: dict[str, Any]
    ) -> None:
        del answer
        unit = line_width(canvas)
        for box in entry["boxes"]:
            x1, y1, x2, y2 = (round(value) for value in box["box"])
            cv2.rectangle(canvas, (x1, y1), (x2, y2), BOX_COLOUR, unit)
            words = f"{box['label']} {box['score']:.2f}"
            corner = (x1, max(12 * unit, y1 - 3 * unit))
            cv2.putText(canvas, words, corner, FONT, 0.5 * unit, BOX_COLOUR, unit)

    def describe(self, entry: dict[str, Any]) -> str:
        return f"{len(entry['boxes'])} boxes"


def cell_shapes(head: str) -> np.ndarray:
    """Widths and heights (n, 2) of a cell's anchors, in units of 2^(level + 2) pixels.

    FCOS has points; its boxes are told against a square about each.
    """
    if head == "fcos":
        return np.ones((1, 2))
    return np.array(
        [(scale / ratio**0.5, scale * ratio**0.5) for scale in SCALES for ratio in RATIOS]
    )


def make_anchors(
    side: int, levels: Sequence[int], head: str = "retinanet"
) -> tuple[np.ndarray, np.ndarray]:
    """Centres and sizes (A, 2) of the anchors in pixels of the network's input.

    Ordered by level, row, column, shape.
    """
    shapes = cell_shapes(head)
    centres = []
    sizes = []
    for level in levels:
        middle = (np.arange(side // 2**level) + 0.5) * 2**level
        grid = np.stack(np.meshgrid(middle, middle), -1).reshape(-1, 1, 2)
        centres.append(np.repeat(grid, len(shapes), 1).reshape(-1, 2))
        sizes.append(np.tile(shapes * 2 ** (level + 2), (len(grid), 1)))
    return np.concatenate(centres), np.concatenate(sizes)


def mirror_index(side: int, levels: Sequence[int], head: str = "retinanet") -> np.ndarray:
    """(A,) so that outputs of a mirrored picture, at this index, belong to the picture."""
    per_cell = len(cell_shapes(head))
    parts = []
    start = 0
    for level in levels:
        cells = side // 2**level
        index = np.arange(start, start + cells * cells * per_cell).reshape(cells, cells, -1)
        parts.append(index[:, ::-1].reshape(-1))
        start += index.size
    return np.concatenate(parts)


def best_anchors(
    scores: np.ndarray, floor: float, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(score, anchor, class), each (n,), of the `most` best anchors of each class, best first.

    Only those above the floor.
    """
    score_parts = []
    anchor_parts = []
    label_parts = []
    for label, column in enumerate(scores.T):
        anchor = np.flatnonzero(column > floor)
        anchor = anchor[np.argsort(-column[anchor], kind="stable")][:most]
        score_parts.append(column[anchor])
        anchor_parts.append(anchor)
        label_parts.append(np.full(len(anchor), label))
    score = np.concatenate(score_parts)
    order = np.argsort(-score, kind="stable")
    return score[order], np.concatenate(anchor_parts)[order], np.concatenate(label_parts)[order]


def decide(
    candidates: Candidates, category: np.ndarray, frame: tuple[int, int], rule: dict[str, Any]
) -> dict[str, np.ndarray]:
    """What Predictor gives, by the rule that step 05 has fitted.

    cxr/methods/detector/records.py says what the parts of the rule are for.
    """
    log20 = np.log(candidates.size20)
    log80 = np.log(candidates.size80)
    half_size = np.exp(log20 + rule["percentile_shrink"] * (log20 - log80)) / 2
    corners = [candidates.centre - half_size, candidates.centre + half_size]
    boxes = clip(np.concatenate(corners, 1), frame)

    is_large = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    usable = (candidates.score > rule["score_floor"]) & is_large
    found = Boxes(boxes[usable], candidates.score[usable], candidates.label[usable])
    if rule["merge"] == "wbf":
        found = fuse(found, frame, rule["wbf_iou"])
    boxes, scores, labels = suppress(found, rule["nms_iou"])

    kept = np.ones(len(scores), bool)
    if rule["half"]:
        kept = scores >= scores[:1] / 2
    if rule["gate_weights"]:
        scores = np.sqrt(scores * np.dot(category, rule["gate_weights"]))

    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half_size = (boxes[:, 2:] - boxes[:, :2]) / 2 * rule["scale"]
    return {
        "boxes": clip(np.concatenate([centre - half_size, centre + half_size], 1), frame),
        "scores": scores,
        "labels": labels,
        "kept": kept & (scores > np.array(rule["thresholds"])[labels]),
        "category": category,
    }


def clip(boxes: np.ndarray, frame: tuple[int, int]) -> np.ndarray:
    return np.clip(boxes, 0, np.array([*frame, *frame], np.float64))


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU (n,) of a box with boxes (n, 4)."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = sides.clip(0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return shared / ((box[2:] - box[:2]).prod() + areas - shared)


def suppress(found: Boxes, iou: float) -> Boxes:
    """Those that overlap no better one of their class by more than `iou`, best first."""
    boxes, scores, labels = found
    waiting = np.argsort(-scores, kind="stable")
    kept = []
    while len(waiting):
        best = waiting[0]
        waiting = waiting[1:]
        kept.append(best)
        is_near = overlap(boxes[best], boxes[waiting]) > iou
        waiting = waiting[~(is_near & (labels[waiting] == labels[best]))]
    return Boxes(boxes[kept], scores[kept], labels[kept])


def fuse(found: Boxes, frame: tuple[int, int], iou: float) -> Boxes:
    """Weighted boxes fusion (Solovyev et al. 2021) of the best: clusters' means, best scores.

    Done in shares of the frame and in the order of the package ensemble-boxes, to give its boxes.
    """
    size = np.array([*frame, *frame], np.float64)
    boxes = found.boxes[:FUSED_AT_MOST] / size
    scores = found.scores[:FUSED_AT_MOST]
    labels = found.labels[:FUSED_AT_MOST]
    fused_boxes = []
    fused_scores = []
    fused_labels = []
    for label in dict.fromkeys(labels.tolist()):
        for members, mean in clusters(boxes, scores, np.flatnonzero(labels == label), iou):
            fused_boxes.append(mean)
            fused_scores.append(scores[members[0]])
            fused_labels.append(label)
    best = np.array(fused_scores)
    order = np.argsort(-best, kind="stable")
    means = np.array(fused_boxes).reshape(-1, 4)[order] * size
    return Boxes(clip(means, frame), best[order], np.array(fused_labels, int)[order])


def clusters(
    boxes: np.ndarray, scores: np.ndarray, rows: np.ndarray, iou: float
) -> Iterator[tuple[list[int], np.ndarray]]:
    """(rows, mean box (4,)) of the boxes that overlap, given best first."""
    means = np.zeros((0, 4))
    members: list[list[int]] = []
    for row in rows:
        overlaps = overlap(boxes[row], means)
        if overlaps.max(initial=0) > iou:
            nearest = overlaps.argmax()
            members[nearest].append(row)
            together = members[nearest]
            means[nearest] = np.average(boxes[together], axis=0, weights=scores[together])
        else:
            means = np.vstack([means, boxes[row]])
            members.append([row])
    yield from zip(members, means)


# --- masks and classes


class MaskPredictor(ModelFile):
    """Of a file that gives masks.

    An answer has mask (height, width) uint8 of 0 and 1, levels of the same shape, the probabilities
    of which it was made (255 for 1), and score: how likely the image has a finding at all.
    """

    OUTPUTS = ("mask", "label")
    COLUMNS = ("label", "score", "area", "share", "mask")

    def undo_view(self, raw: Sequence[np.ndarray], axes: tuple[int, ...]) -> MaskOutputs:
        mask = np.asarray(raw[0]).reshape(self.side, self.side)
        return MaskOutputs(np.flip(mask, axes), float(np.asarray(raw[1]).reshape(())))

    def merge(self, views: Sequence[MaskOutputs]) -> MaskOutputs:
        mask = np.mean([view.mask for view in views], 0)
        return MaskOutputs(mask, float(np.mean([view.label for view in views])))

    def answer(self, outputs: MaskOutputs, frame: tuple[int, int]) -> dict[str, Any]:
        levels = mask_levels(outputs.mask, frame, self.settings["probability_size"])
        mask = decide_mask(levels, outputs.label, self.settings["rule"])
        return {"mask": mask, "levels": levels, "score": outputs.label}

    def entry_facts(self, answer: dict[str, Any]) -> dict[str, Any]:
        area = int(np.count_nonzero(answer["mask"]))
        mask = {
            "label": self.settings["classes"][0],
            "score": round(answer["score"], 6),
            "area": area,
            "share": round(area / answer["mask"].size, 6),
        }
        return {"image_classes": {}, "mask": mask}

    def rows(self, entry: dict[str, Any]) -> list[list[Any]]:
        mask = entry["mask"]
        return [[mask["label"], mask["score"], mask["area"], mask["share"], mask["file"]]]

    def draw_answer(
        self, canvas: np.ndarray, entry: dict[str, Any], answer: dict[str, Any]
    ) -> None:
        unit = line_width(canvas)
        lines, _ = cv2.findContours(answer["mask"], cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(canvas, lines, -1, BOX_COLOUR, unit)
        words = f"{entry['mask']['label']} {entry['mask']['score']:.2f}"
        cv2.putText(canvas, words, (4 * unit, 14 * unit), FONT, 0.5 * unit, BOX_COLOUR, unit)

    def describe(self, entry: dict[str, Any]) -> str:
        mask = entry["mask"]
        return f"{mask['area']} pixels, {mask['share']:.1%} of the image, score {mask['score']:.2f}"


class ClassPredictor(ModelFile):
    """Of a file that gives classes of the image. An answer has category (C,): probabilities."""

    OUTPUTS = ("category",)
    COLUMNS = ()

    def undo_view(self, raw: Sequence[np.ndarray], axes: tuple[int, ...]) -> np.ndarray:
        del axes  # there is nothing to turn back in a class
        return np.asarray(raw[0]).reshape(-1)

    def merge(self, views: Sequence[np.ndarray]) -> np.ndarray:
        return np.mean(views, 0)

    def answer(self, outputs: np.ndarray, frame: tuple[int, int]) -> dict[str, Any]:
        del frame
        return {"category": outputs}

    def entry_facts(self, answer: dict[str, Any]) -> dict[str, Any]:
        return {"image_classes": name_classes(answer["category"], self.settings)}

    def rows(self, entry: dict[str, Any]) -> list[list[Any]]:
        del entry
        return [[]]

    def draw_answer(
        self, canvas: np.ndarray, entry: dict[str, Any], answer: dict[str, Any]
    ) -> None:
        """The most probable class stands at the top."""
        del answer
        unit = line_width(canvas)
        for number, (name, probability) in enumerate(sorted_classes(entry), start=1):
            colour = BOX_COLOUR if number == 1 else NOTICE_COLOUR
            words = f"{probability:.2f} {name}"
            corner = (4 * unit, 14 * unit * number)
            cv2.putText(canvas, words, corner, FONT, 0.5 * unit, colour, unit)

    def describe(self, entry: dict[str, Any]) -> str:
        name, probability = sorted_classes(entry)[0]
        return f"{name} {probability:.2f}"


PREDICTORS: dict[str, type[ModelFile]] = {
    "boxes": Predictor,
    "masks": MaskPredictor,
    "classes": ClassPredictor,
}


def mask_levels(
    probability: np.ndarray, frame: tuple[int, int], probability_size: int
) -> np.ndarray:
    """Probabilities (S, S) in 0 ... 1 as uint8 (height, width) of the frame, 255 for 1.

    As cxr/methods/segmenter/records.py keeps them: in 8 bits, at the side `probability_size` (0:
    S), and then enlarged.
    """
    levels = np.round(255 * np.clip(probability, 0, 1)).astype(np.uint8)
    if probability_size:
        levels = resize(levels, probability_size)
    return cv2.resize(levels, frame, interpolation=cv2.INTER_LINEAR)


def decide_mask(levels: np.ndarray, score: float, rule: dict[str, Any]) -> np.ndarray:
    """Mask (height, width) uint8 of 0 and 1 by the rule that step 05 has fitted.

    cxr/methods/segmenter/rules.py says what the parts of the rule are for.
    """
    empty = np.zeros_like(levels)
    if score < rule["head"]:
        return empty
    if np.count_nonzero(levels > to_level(rule["top"])) < rule["area"]:
        return empty
    mask = remove_small((levels > to_level(rule["bottom"])).astype(np.uint8), rule["component"])
    if np.count_nonzero(mask) <= rule["total"]:
        return empty
    return mask


def to_level(threshold: float) -> int:
    """The value v for which "level > v" is "probability > threshold"."""
    return int(np.floor(255 * threshold + 1e-9))


def remove_small(mask: np.ndarray, smallest: int) -> np.ndarray:
    """The parts of a mask whose outline encloses more than `smallest` pixels, their holes filled.

    0 changes nothing.
    """
    if smallest <= 0:
        return mask
    lines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    large = [line for line in lines if cv2.contourArea(line) > smallest]
    return cv2.drawContours(np.zeros_like(mask), large, -1, 1, cv2.FILLED)


def name_classes(category: np.ndarray, settings: dict[str, Any]) -> dict[str, float]:
    """{image class: probability}."""
    probabilities = category.astype(float).round(6).tolist()
    return dict(zip(settings["image_classes"], probabilities))


def sorted_classes(entry: dict[str, Any]) -> list[tuple[str, float]]:
    """(image class, probability) of an entry, the most probable first."""
    return sorted(entry["image_classes"].items(), key=lambda item: -item[1])


# --- reading X-rays, as cxr/images does


class Format(NamedTuple):
    """How the pixels of a DICOM are stored."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    little_endian: bool


class Xray(NamedTuple):
    """A picture (height, width) uint8, bright = dense.

    not_frontal_chest: why it is no frontal chest X-ray by its header, else "".
    """

    picture: np.ndarray
    not_frontal_chest: str


class LookupTable(NamedTuple):
    """entries (n,): what the value `first`, and those that follow it, become."""

    entries: np.ndarray
    first: int


class Window(NamedTuple):
    centre: float
    width: float
    function: str


class GrayRules(NamedTuple):
    """What a header says about how its stored values are to be seen."""

    slope: float
    intercept: float
    modality_table: LookupTable | None
    voi_table: LookupTable | None
    window: Window | None
    inverse: bool  # small values are bright
    padding: tuple[int, int] | None  # stored values from ... to are no image
    eight_bits: bool  # unsigned values of 8 bits, whose range is known
    signed: bool


def read_xray(path: Path) -> Xray:
    """The picture, and what the file says of it. Refused with the reason otherwise."""
    try:
        content = Path(path).read_bytes()
        if content.startswith(PICTURE_STARTS):
            return Xray(read_picture(content), "")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid UIDs, ages without unit: harmless, and common
            return read_dicom(content)
    except Refused as error:
        raise Refused(printable(f"{path}: {error}")) from None
    except MemoryError:
        raise Refused(printable(f"{path}: needs more memory than there is")) from None
    except Exception as error:  # decoders raise anything at all on damaged bytes
        words = " ".join(ADDRESS.sub("", str(error)).split())[:200]
        reason = f"cannot be decoded ({type(error).__name__}: {words})"
        raise Refused(printable(f"{path}: {reason}")) from None


def printable(text: object) -> str:
    """The text with question marks in place of what is no visible character."""
    characters = []
    for character in str(text):
        is_hidden = unicodedata.category(character) in HIDDEN and character not in JOINERS
        characters.append("?" if is_hidden else character)
    return "".join(characters)


def read_picture(content: bytes) -> np.ndarray:
    """A PNG or JPEG, turned upright as its EXIF says."""
    picture = unpack(content)
    is_byte = picture.dtype == np.uint8
    if picture.ndim == 3:
        # Blue, green, red of ITU-R 601, as Pillow's; the sum stays below 2**32.
        luma = picture[..., 0].astype(np.uint32) * 7471
        luma += picture[..., 1].astype(np.uint32) * 38470
        luma += picture[..., 2].astype(np.uint32) * 19595
        picture = ((luma + 2**15) >> 16).astype(picture.dtype)
    if not is_byte:
        picture = by_level(picture, stretch)
    return turn_upright(picture, find_orientation(find_exif(content)))


def find_exif(content: bytes) -> bytes:
    """The EXIF of a PNG or JPEG, which is a TIFF without a picture; empty where there is none."""
    if content.startswith(PNG_START):
        for name, chunk in walk_png(content):
            if name == b"eXIf":
                return chunk
        return b""
    for marker, segment in walk_jpeg(content):
        if marker == JPEG_APP1 and segment.startswith(b"Exif\0\0"):
            return segment[6:]
    return b""


def find_orientation(exif: bytes) -> int:
    """1 ... 8, or another number where there is none, from the first directory of a TIFF."""
    order: Literal["little", "big"]
    if exif.startswith(b"II*\0"):
        order = "little"
    elif exif.startswith(b"MM\0*"):
        order = "big"
    else:
        return 0
    directory = int.from_bytes(exif[4:8], order)
    count = int.from_bytes(exif[directory : directory + 2], order)
    for start in range(directory + 2, directory + 2 + 12 * count, 12):
        entry = exif[start : start + 12]
        if len(entry) < 12:
            return 0
        if int.from_bytes(entry[:2], order) == ORIENTATION_TAG:
            size = TIFF_SIZES.get(int.from_bytes(entry[2:4], order), 0)
            return int.from_bytes(entry[8 : 8 + size], order)
    return 0


def turn_upright(picture: np.ndarray, orientation: int) -> np.ndarray:
    """The picture as it is meant to be looked at, by the eight orientations of EXIF."""
    if orientation in (5, 6, 7, 8):  # the file's rows are columns
        picture = picture.T
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def stretch(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The values that are present map to 0 ... 255."""
    return to_uint8(values, values[present].min(), values[present].max())


def unpack(content: bytes) -> np.ndarray:
    """Pixels of a PNG or JPEG as they are stored: gray (h, w), or (h, w, 3) blue, green, red.

    One that is cut off is refused; OpenCV fills it up with gray.
    """
    picture = None
    if is_whole(content):
        if cv2 is None:
            return unpack_by_pillow(content)
        flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if picture is None:
        raise Refused("is damaged or cut off: copy it again")
    return picture


def unpack_by_pillow(content: bytes) -> np.ndarray:
    """As OpenCV does, which is not here."""
    try:
        from PIL import Image
    except ImportError:
        raise Refused(
            "is a PNG or JPEG, or holds one, which needs OpenCV or Pillow: pip install Pillow"
        ) from None
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # Pillow warns at this, and refuses twice of it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(content))
        is_deep_png = content.startswith(PNG_START) and content[24] == 16  # bits, in its header
        if is_deep_png and content[25] != 0:  # gray
            raise Refused("has colours of 16 bits, which need OpenCV: store it in 8 bits, or gray")
        if is_deep_png:
            return np.array(image).astype(np.uint16)
        if image.mode in ("1", "L", "LA"):
            return np.array(image.convert("L"))
        if image.mode in ("P", "RGB", "RGBA"):
            return np.array(image.convert("RGB"))[..., ::-1]
    raise Refused(f"has colours as {image.mode}, which need OpenCV: store it as gray PNG")


def is_whole(content: bytes) -> bool:
    """Whether the end of the picture is there, whatever lies behind it."""
    if content.startswith(PNG_START):
        return any(name == b"IEND" for name, _ in walk_png(content))
    return any(marker == JPEG_END for marker, _ in walk_jpeg(content))


def walk_png(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of the chunks of a PNG, up to its end or where it is cut off."""
    at = len(PNG_START)
    while at + 12 <= len(content):
        name = content[at + 4 : at + 8]
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        if end + 4 > len(content):  # a check sum follows
            return
        yield name, content[at + 8 : end]
        if name == b"IEND":
            return
        at = end + 4


def walk_jpeg(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of the segments of a JPEG, up to its end or where it makes no sense."""
    at = 2
    while content[at : at + 1] == b"\xff" and at + 1 < len(content):
        marker = content[at + 1]
        if marker == 0xFF:  # a byte to fill up
            at += 1
            continue
        at += 2
        length = 0
        if marker not in JPEG_WITHOUT_LENGTH:
            length = int.from_bytes(content[at : at + 2], "big")
            if length < 2 or at + length > len(content):
                return
        yield marker, content[at + 2 : at + length]
        if marker == JPEG_END:
            return
        at += length
        if marker == JPEG_SCAN:
            following = JPEG_NEXT.search(content, at)
            if following is None:
                return
            at = following.start()


def read_dicom(content: bytes) -> Xray:
    try:
        import pydicom  # not needed for PNGs and JPEGs
    except ImportError as error:
        raise Refused(
            f"is a DICOM or nothing known, and DICOMs need pydicom ({error}): pip install pydicom"
        ) from None
    is_marked = content[128:132] == b"DICM"
    refuse_bomb(content)
    dataset = pydicom.dcmread(io.BytesIO(content), force=not is_marked)
    if "PixelData" not in dataset or not read_integer(dataset, "Rows"):
        raise Refused("is no DICOM, PNG or JPEG with integer pixels")
    encoding = getattr(dataset, "original_encoding", None)
    implicit, little_endian = encoding or (dataset.is_implicit_VR, dataset.is_little_endian)
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if syntax is None:  # no meta header: the pixels are taken as uncompressed
        name = EXPLICIT_LITTLE if little_endian else EXPLICIT_BIG
        if implicit:
            name = IMPLICIT_LITTLE
        syntax = pydicom.uid.UID(name)
    if syntax not in (*PLAIN, RLE, JPEG, *PLUGINS):
        raise Refused(
            f"is compressed as {syntax.name}, which is not read here: decompress it first, such as "
            "with gdcmconv --raw"
        )
    pixels = read_format(dataset, bool(little_endian))
    if syntax == JPEG:
        stored = decode_jpeg(dataset.PixelData, pixels)
        pixels = pixels._replace(bits_stored=min(8, pixels.bits_stored))
    elif syntax == RLE:
        stored = used_bits(decode_rle(dataset, pixels), pixels)
    elif syntax in PLUGINS:
        stored = decode_by_plugin(dataset.PixelData, syntax, pixels)
    else:
        stored = used_bits(unpack_native(dataset, pixels), pixels)
    rules = read_gray_rules(dataset, pixels)
    picture = by_level(stored, lambda levels, present: shade(levels, present, rules))
    return Xray(picture, why_not_frontal_chest(dataset))


def why_not_frontal_chest(dataset: Any) -> str:
    """As in cxr/images/header.py; what the header does not say is no reason."""
    modality = read_code(dataset, "Modality")
    body_part = read_code(dataset, "BodyPartExamined")
    view = read_code(dataset, "ViewPosition")
    if modality and modality not in X_RAYS:
        return f"the modality is {modality}, and X-rays are {', '.join(X_RAYS)}"
    if body_part and not any(word in body_part for word in CHEST_WORDS):
        return f"the body part is {body_part}"
    if view in SIDE_VIEWS or any(word in view for word in SIDE_WORDS):
        return f"the view is {view}, which is not frontal"
    return ""


def refuse_bomb(content: bytes) -> None:
    """Refused where a deflated file, which pydicom unpacks at once, holds more than an X-ray."""
    if DEFLATED.encode() not in content[:2000]:
        return
    start = 144 + int.from_bytes(content[140:144], "little")  # behind the meta header
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    most = 2 * int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"]) + 2**24
    try:
        inflater.decompress(content[start:], most)
    except zlib.error:  # pydicom will say so, too
        return
    if inflater.unconsumed_tail:
        raise Refused(f"unpacks to more than {most // 10**6} MB, and no X-ray has so much")


def read_values(dataset: Any, keyword: str) -> Sequence[Any]:
    """The values of an element, text as it stands in the file; () where there is none."""
    from pydicom.datadict import dictionary_VR
    from pydicom.tag import Tag

    try:
        tag = Tag(keyword)
        element = dataset.get_item(tag)
        if element is None or element.value is None:
            return ()
        vr = element.VR or dictionary_VR(tag)
        if vr in ("DS", "IS", "CS") and isinstance(element.value, bytes):
            return element.value.decode("latin-1").split("\\")
        value = dataset[tag].value
    except Exception:  # pydicom raises anything at all on damaged bytes
        return ()
    if value is None:
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return (value,)
    return list(value)


def to_number(value: object) -> float | None:
    """A finite number, None for everything else. A decimal comma is a point."""
    try:
        number = float(str(value).strip(" \0\t\r\n").replace(",", "."))
    except ValueError:
        return None
    if not np.isfinite(number):
        return None
    return number


def read_number(dataset: Any, keyword: str) -> float | None:
    """The first of one or several numbers, None where it is absent or no finite number."""
    for value in read_values(dataset, keyword):
        return to_number(value)
    return None


def read_integer(dataset: Any, keyword: str) -> int | None:
    number = read_number(dataset, keyword)
    if number is None or number % 1:
        return None
    return int(number)


def read_code(dataset: Any, keyword: str) -> str:
    """The first of one or several texts in capitals, "" where it is absent."""
    values = read_values(dataset, keyword)
    if not len(values) or not isinstance(values[0], str):
        return ""
    return printable(values[0].strip(" \0\t\r\n").upper())[:16]


def read_format(dataset: Any, little_endian: bool) -> Format:
    """Refused where the header does not describe one gray picture."""
    rows = read_integer(dataset, "Rows") or 0
    columns = read_integer(dataset, "Columns") or 0
    if rows <= 0 or columns <= 0:
        raise Refused("is no DICOM, PNG or JPEG with integer pixels")
    if rows * columns > int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"]):
        raise Refused(f"states {columns} x {rows} pixels, and no X-ray has so many")
    frames = read_integer(dataset, "NumberOfFrames") or 1
    if frames > 1:
        raise Refused(f"holds {frames} frames, and an X-ray has one")
    photometric = read_code(dataset, "PhotometricInterpretation").replace(" ", "")
    samples = read_integer(dataset, "SamplesPerPixel") or 1
    if samples > 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Refused(f"has colours ({photometric}): store it as MONOCHROME2 or PNG first")
    allocated = read_integer(dataset, "BitsAllocated") or 0
    stored = read_integer(dataset, "BitsStored") or allocated
    if allocated not in (8, 16) or not 1 < stored <= allocated:
        raise Refused(f"has {stored} bits in {allocated}, and 2 to 16 are read")
    high_bit = read_integer(dataset, "HighBit")
    if high_bit is None or not stored - 1 <= high_bit < allocated:
        high_bit = stored - 1
    signed = read_integer(dataset, "PixelRepresentation") == 1
    return Format(rows, columns, allocated, stored, high_bit, signed, photometric, little_endian)


def unpack_native(dataset: Any, pixels: Format) -> np.ndarray:
    """Cells (h, w) of what is not compressed."""
    content = dataset.PixelData
    count = pixels.rows * pixels.columns
    size = count * pixels.bits_allocated // 8
    if not size <= len(content) < 2 * size:
        raise Refused(f"holds {len(content)} bytes of pixels, and its header says {size}")
    order = "<" if pixels.little_endian else ">"
    kind = "i" if pixels.signed else "u"
    if pixels.bits_allocated == 8 and order == ">" and dataset["PixelData"].VR == "OW":
        content = np.frombuffer(content[: len(content) // 2 * 2], ">u2").astype("<u2").tobytes()
    cells = np.frombuffer(content, f"{order}{kind}{pixels.bits_allocated // 8}", count)
    native = cells.astype(cells.dtype.newbyteorder("="), copy=False)
    return native.reshape(pixels.rows, pixels.columns)


def decode_rle(dataset: Any, pixels: Format) -> np.ndarray:
    """Cells (h, w) by pydicom, told the numbers of the header as they were read here."""
    dataset.Rows = pixels.rows
    dataset.Columns = pixels.columns
    dataset.SamplesPerPixel = 1
    dataset.NumberOfFrames = 1
    dataset.BitsAllocated = dataset.BitsStored = pixels.bits_allocated
    dataset.HighBit = pixels.bits_allocated - 1
    dataset.PixelRepresentation = int(pixels.signed)
    dataset.PhotometricInterpretation = pixels.photometric
    if hasattr(dataset, "pixel_array_options"):  # pydicom 3
        dataset.pixel_array_options(decoding_plugin="pydicom")
    cells = dataset.pixel_array
    if cells.ndim != 2:
        raise Refused(f"has pixels of shape {cells.shape}, and a gray X-ray has two dimensions")
    return cells


def decode_jpeg(content: bytes, pixels: Format) -> np.ndarray:
    """Stored values of a single JPEG: the items behind the first, the table of offsets, joined."""
    at = 0
    items = []
    while content[at : at + 4] == b"\xfe\xff\x00\xe0":
        length = int.from_bytes(content[at + 4 : at + 8], "little")
        items.append(content[at + 8 : at + 8 + length])
        at += 8 + length
    jpeg = b"".join(items[1:])

    # The size of the JPEG itself, before OpenCV makes room for it.
    frames = [segment[:6] for marker, segment in walk_jpeg(jpeg) if marker in JPEG_FRAMES]
    size = pixels.rows.to_bytes(2, "big") + pixels.columns.to_bytes(2, "big")
    if frames != [b"\x08" + size + b"\x01"]:  # 8 bits and one colour
        raise Refused(
            "holds a JPEG of another kind or size than it states: store it as PNG with another "
            "program"
        )
    stored = unpack(jpeg)
    if stored.dtype != np.uint8 or pixels.signed:
        raise Refused("holds a JPEG of an unusual kind: store it as PNG with another program")
    return stored


def decode_by_plugin(content: bytes, syntax: Any, pixels: Format) -> np.ndarray:
    """Stored values of a lossless JPEG, JPEG-LS or JPEG 2000, where there is a plug-in for it."""
    try:
        from pydicom.encaps import encapsulate, get_frame
        from pydicom.pixels import get_decoder
    except ImportError:
        raise Refused(
            f"is compressed as {syntax.name}, which needs pydicom 3: install it, or decompress the "
            "file first, such as with gdcmconv --raw"
        ) from None
    decoder = get_decoder(syntax)
    plugins = [name for name in PLUGINS[syntax] if name in decoder.available_plugins]
    if not plugins:
        package = PLUGIN_PACKAGES[PLUGINS[syntax][0]]
        raise Refused(
            f"is compressed as {syntax.name}, which needs a package more: pip install "
            f"{package}, or decompress it first, such as with gdcmconv --raw"
        )
    frame = get_frame(content, 0, number_of_frames=1)
    precision = check_codestream(frame, pixels)
    if plugins[0] == "gdcm":
        cells = decode_with_gdcm(frame, syntax, pixels)
    else:
        options = decoder_options(pixels)
        cells, _ = decoder.as_array(
            encapsulate([frame]), index=0, decoding_plugin=plugins[0], **options
        )
    # JPEG-LS and JPEG 2000 leave out the unused bits, unless the values stand in the upper ones.
    if syntax in LOSSLESS_JPEG or precision == pixels.bits_allocated:
        cells = used_bits(cells, pixels)
    return cells


def decoder_options(pixels: Format) -> dict[str, Any]:
    """The header as pydicom's decoders take it."""
    return {
        "rows": pixels.rows,
        "columns": pixels.columns,
        "samples_per_pixel": 1,
        "bits_allocated": pixels.bits_allocated,
        "bits_stored": pixels.bits_stored,
        "pixel_representation": int(pixels.signed),
        "photometric_interpretation": pixels.photometric,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "correct_unused_bits": False,
    }


def check_codestream(frame: bytes, pixels: Format) -> int:
    """Bits of a pixel in a compressed picture. Refused where it is not the one of the header."""
    stated = None
    at = frame.find(JPEG2000_START)
    if frame.startswith((JPEG2000_START, JP2_START)) and at >= 0:
        numbers = [int.from_bytes(frame[at + k : at + k + 4], "big") for k in (8, 12, 16, 20)]
        width, height, left, top = numbers
        components = int.from_bytes(frame[at + 40 : at + 42], "big")
        precision = (frame[at + 42] & 0x7F) + 1
        stated = (height - top, width - left, components)
    elif frame.startswith(b"\xff\xd8"):
        for marker, segment in walk_jpeg(frame):
            if marker in (*JPEG_FRAMES, JPEG_LS_FRAME) and len(segment) >= 6:
                height = int.from_bytes(segment[1:3], "big")
                width = int.from_bytes(segment[3:5], "big")
                precision = segment[0]
                stated = (height, width, segment[5])
                break
    if stated != (pixels.rows, pixels.columns, 1) or precision > pixels.bits_allocated:
        raise Refused(
            "holds a compressed picture of another kind or size than it states: store it as PNG "
            "with another program"
        )
    return precision


def decode_with_gdcm(frame: bytes, syntax: str, pixels: Format) -> np.ndarray:
    """Cells (h, w); in a process of its own, which GDCM ends where the frame is damaged."""
    done = run_apart("gdcm_here", {"syntax": syntax, "pixels": list(pixels)}, frame)
    if done.returncode:
        raise Refused("cannot be decoded by GDCM, so it is damaged: copy it again")
    return np.load(io.BytesIO(done.stdout), allow_pickle=False)


def gdcm_here(syntax: str, pixels: list[Any]) -> None:
    """Decode the frame on stdin to an array on stdout, in a process of decode_with_gdcm."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get into the answer
    form = Format(*pixels)
    # All bits of the cells, used or not: GDCM would cut off those above Bits Stored.
    options = {**decoder_options(form), "bits_stored": form.bits_allocated}
    content = encapsulate([sys.stdin.buffer.read()])
    cells, _ = get_decoder(syntax).as_array(content, index=0, decoding_plugin="gdcm", **options)
    array = io.BytesIO()  # numpy does not write into a pipe
    np.save(array, cells)
    with answer:
        answer.write(array.getvalue())


def used_bits(cells: np.ndarray, pixels: Format) -> np.ndarray:
    """Stored values without what is in the other bits of their cells."""
    above = pixels.bits_allocated - 1 - pixels.high_bit
    unused = pixels.bits_allocated - pixels.bits_stored
    if unused == 0:
        return cells
    stored = cells << above
    stored >>= unused
    return stored


def read_gray_rules(dataset: Any, pixels: Format) -> GrayRules:
    slope = read_number(dataset, "RescaleSlope")
    intercept = read_number(dataset, "RescaleIntercept")
    if not slope or intercept is None:  # a slope of 0 would leave one gray
        slope = 1.0
        intercept = 0.0
    shape = read_code(dataset, "PresentationLUTShape")
    return GrayRules(
        slope,
        intercept,
        modality_table=read_lookup_table(dataset, "ModalityLUTSequence", pixels),
        voi_table=read_lookup_table(dataset, "VOILUTSequence", pixels),
        window=read_window(dataset),
        inverse=pixels.photometric == "MONOCHROME1" or shape == "INVERSE",
        padding=read_padding(dataset, pixels),
        eight_bits=pixels.bits_stored == 8 and not pixels.signed,
        signed=pixels.signed,
    )


def read_window(dataset: Any) -> Window | None:
    """The first window; None where there is none or its width is impossible."""
    centre = read_number(dataset, "WindowCenter")
    width = read_number(dataset, "WindowWidth")
    function = read_code(dataset, "VOILUTFunction")
    if function not in ("LINEAR_EXACT", "SIGMOID"):
        function = "LINEAR"
    smallest_width = 1 if function == "LINEAR" else 1e-9
    if centre is None or width is None or width < smallest_width:
        return None
    return Window(centre, width, function)


def read_padding(dataset: Any, pixels: Format) -> tuple[int, int] | None:
    """Stored values from ... to that are no image; None in 8 bits, where they are also true grays.

    In the pixels' own sign, whatever they were written as.
    """
    ends = []
    size = 1 << pixels.bits_allocated
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        number = read_number(dataset, keyword)
        if number is not None:
            shift = size // 2 if pixels.signed else 0
            ends.append((int(number) + shift) % size - shift)
        elif keyword == "PixelPaddingValue":
            return None
    if pixels.bits_stored == 8:
        return None
    return min(ends), max(ends)


def read_lookup_table(dataset: Any, keyword: str, pixels: Format) -> LookupTable | None:
    """The first table of a sequence; items without one are passed over."""
    for item in read_values(dataset, keyword):
        described = [to_number(value) for value in read_values(item, "LUTDescriptor")[:3]]
        if len(described) < 3 or described[0] is None or described[1] is None:
            continue
        count = int(described[0]) % 2**16 or 2**16  # 0 stands for 65536
        words = to_words(read_values(item, "LUTData"), pixels.little_endian)
        is_byte = described[2] is not None and described[2] <= 8
        is_half = len(words) == (count + 1) // 2 or (is_byte and bool((words > 0xFF).any()))
        if len(words) < count and is_half:
            # Two entries of 8 bits in a word, the first in its lower half.
            words = np.stack([words & 0xFF, words >> 8], axis=1).reshape(-1)
        if len(words):
            return LookupTable(words[:count], int(described[1]))
    return None


def to_words(values: Sequence[Any], little_endian: bool) -> np.ndarray:
    """Words of 16 bits (n,) as int64."""
    if len(values) == 1 and isinstance(values[0], bytes):
        content = values[0][: len(values[0]) // 2 * 2]
        return np.frombuffer(content, "<u2" if little_endian else ">u2").astype(np.int64)
    return np.array([int(value) & 0xFFFF for value in values], np.int64)


def look_up(table: LookupTable, values: np.ndarray, signed: bool) -> np.ndarray:
    """Entries of values of any shape. The first value is read in the sign of the values."""
    first = table.first
    low = values.min()
    if first >= 2**15 and (signed or low < 0):
        first -= 2**16
    elif first < 0 and not signed and low >= 0 and values.max() >= 2**15:
        first += 2**16
    position = np.floor(np.asarray(values, np.float64)) - first
    return table.entries[np.clip(position, 0, len(table.entries) - 1).astype(np.int64)]


def by_level(
    stored: np.ndarray, function: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """A function of single pixels (h, w), done once for each value that may occur.

    function(values, present) gives an array of the values' shape; `present` is False for values
    that do not occur. It takes a tenth of the time and memory.
    """
    first = int(stored.min())
    levels = np.arange(first, int(stored.max()) + 1)
    present = np.zeros(len(levels), bool)
    for row in stored:
        present[row.astype(np.int64) - first] = True
    table = function(levels, present)
    result = np.empty(stored.shape, table.dtype)
    for target, row in zip(result, stored):
        target[:] = table[row.astype(np.int64) - first]
    return result


def shade(stored: np.ndarray, present: np.ndarray, rules: GrayRules) -> np.ndarray:
    """Stored values to uint8 of the same shape; only those that are `present` count.

    In this order: modality table or rescale, VOI table or window or full range, inversion, padding
    to black.
    """
    padding = np.zeros(stored.shape, bool)
    if rules.padding is not None:
        padding = (stored >= rules.padding[0]) & (stored <= rules.padding[1])
    if rules.modality_table is not None:
        values = look_up(rules.modality_table, stored, rules.signed)
    else:
        values = stored * rules.slope + rules.intercept
    if not np.isfinite(values).all():
        raise Refused("has pixel values that are not numbers")

    image = None
    if rules.voi_table is not None:
        signed = rules.signed and rules.modality_table is None
        entries = rules.voi_table.entries
        image = to_uint8(look_up(rules.voi_table, values, signed), entries.min(), entries.max())
    elif rules.window is not None:
        image = apply_window(values, rules.window)
    if image is None or (np.ptp(image[present]) == 0 and np.ptp(stored[present]) > 0):
        counted = values[present & ~padding]
        if rules.eight_bits and rules.modality_table is None:
            counted = np.array([0, 255]) * rules.slope + rules.intercept
        if counted.size == 0:
            counted = np.array([0, 1])
        image = to_uint8(values, counted.min(), counted.max())
    if rules.inverse:
        image = 255 - image
    return np.where(padding, np.uint8(0), image)


def apply_window(values: np.ndarray, window: Window) -> np.ndarray:
    """uint8 by DICOM PS3.3 C.11.2.1."""
    centre, width, function = window
    if function == "SIGMOID":
        share = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50)))
    elif function == "LINEAR_EXACT":
        share = np.clip((values - centre) / width + 0.5, 0, 1)
    elif width == 1:
        share = (values > centre - 0.5).astype(np.float64)
    else:
        share = np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    return np.rint(255 * share).astype(np.uint8)


def to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """low ... high to 0 ... 255, clipped; a constant gives 0."""
    low = float(low)
    high = float(high)
    scale = 255 / (high - low) if high > low else 0.0
    return np.rint(np.clip((values.astype(np.float64) - low) * scale, 0, 255)).astype(np.uint8)


def resize(picture: np.ndarray, side: int) -> np.ndarray:
    """(h, w) to (side, side), averaging where it shrinks."""
    if picture.shape == (side, side):
        return picture
    grows = max(picture.shape) <= side
    if cv2 is None:
        return resize_by_numpy(picture, side)
    interpolation = cv2.INTER_LINEAR if grows else cv2.INTER_AREA
    return cv2.resize(picture, (side, side), interpolation=interpolation)


# --- resizing without OpenCV, to the same pixels: its sums in its order and its number formats


def resize_by_numpy(picture: np.ndarray, side: int) -> np.ndarray:
    """(h, w) uint8 to (side, side), as cv2.resize does."""
    height, width = picture.shape
    if min(picture.shape) < side:
        return interpolate(picture, side, averages=max(picture.shape) > side)
    if height % side == 0 and width % side == 0:
        return average_blocks(picture, side)
    return average(picture, side)


class LinearTaps(NamedTuple):
    """For each cell of a row: the first of two pixels, and the weights of both times 2048."""

    first: np.ndarray
    weight: np.ndarray
    next_weight: np.ndarray


def linear_taps(source: int, target: int, averages: bool) -> LinearTaps:
    """averages: INTER_AREA, where one side of a picture grows and the other one shrinks."""
    growth = target / source
    scale = 1 / growth
    cells = np.arange(target)
    if averages:
        first = np.floor(cells * scale).astype(int)
        share = (cells + 1 - (first + 1) * growth).astype(np.float32)
        share = np.where(share <= 0, np.float32(0), share - np.floor(share))
    else:
        position = ((cells + 0.5) * scale - 0.5).astype(np.float32)
        first = np.floor(position).astype(int)
        share = position - first.astype(np.float32)
    return LinearTaps(first, to_2048(1 - share), to_2048(share))


def to_2048(share: np.ndarray) -> np.ndarray:
    return np.rint(share * np.float32(2048)).astype(np.int32)


def interpolate(picture: np.ndarray, side: int, averages: bool) -> np.ndarray:
    """INTER_LINEAR, or what INTER_AREA does where a side grows."""
    height, width = picture.shape
    stored = picture.astype(np.int32)
    column = linear_taps(width, side, averages)
    # Beyond its pixels a row goes on with the last one.
    is_outside = (column.first < 0) | (column.first >= width - 1)
    weight = np.where(is_outside, 2048, column.weight)
    next_weight = np.where(is_outside, 0, column.next_weight)
    left = column.first.clip(0, width - 1)
    right = (left + 1).clip(0, width - 1)
    rows = stored[:, left] * weight + stored[:, right] * next_weight

    row = linear_taps(height, side, averages)
    upper = rows[row.first.clip(0, height - 1)] >> 4
    lower = rows[(row.first + 1).clip(0, height - 1)] >> 4
    upper = (upper * row.weight[:, None]) >> 16
    lower = (lower * row.next_weight[:, None]) >> 16
    return ((upper + lower + 2) >> 2).astype(np.uint8)


def average_blocks(picture: np.ndarray, side: int) -> np.ndarray:
    """INTER_AREA where a cell is a whole number of pixels."""
    rows = picture.shape[0] // side
    columns = picture.shape[1] // side
    blocks = picture.reshape(side, rows, side, columns)
    sums = blocks.sum((1, 3), dtype=np.int64)
    if rows == columns == 2:
        return ((sums + 2) >> 2).astype(np.uint8)
    share = np.float32(1 / (rows * columns))
    return np.rint(sums.astype(np.float32) * share).astype(np.uint8)


def average(picture: np.ndarray, side: int) -> np.ndarray:
    """INTER_AREA of any other picture that shrinks."""
    height, width = picture.shape
    rows = np.zeros((height, side), np.float32)
    for column, weight in area_taps(width, side):
        rows += picture[:, column].astype(np.float32) * weight
    sums = np.zeros((side, side), np.float32)
    for row, weight in area_taps(height, side):
        sums += rows[row] * weight[:, None]
    return np.rint(sums).clip(0, 255).astype(np.uint8)


def area_taps(source: int, target: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(pixel, weight) of all cells of a row: the first pixel of each, the second, ...

    The weight is 0 where a cell has no further pixel.
    """
    scale = 1 / (target / source)
    cells = []
    for cell in range(target):
        start = cell * scale
        end = start + scale
        width = min(scale, source - start)
        last = min(int(np.floor(end)), source - 1)
        first = min(int(np.ceil(start)), last)
        taps = [(pixel, 1 / width) for pixel in range(first, last)]
        if first - start > 1e-3:
            taps.insert(0, (first - 1, (first - start) / width))
        if end - last > 1e-3:
            taps.append((last, min(end - last, 1.0, width) / width))
        cells.append(taps)
    for number in range(max(map(len, cells))):
        tap = [taps[number] if number < len(taps) else (0, 0.0) for taps in cells]
        pixels, weights = zip(*tap)
        yield np.array(pixels), np.array(weights, np.float32)


# --- files in, tables and pictures out


def find_files(paths: Sequence[str], out: Path) -> list[tuple[str, Path]]:
    """(name, path) of the files and of all that is in the folders, but for the pictures in `out`.

    The name says where a file is below its folder.
    """
    written = {(out / folder).resolve() for folder in ("overlays", "masks")}
    files = []
    for path in map(Path, paths):
        if not path.exists():
            raise Refused(f"{path} is missing: give files or folders that are there")
        if not path.is_dir():
            files.append((path.name, path))
            continue
        for inside in sorted(path.rglob("*")):
            is_hidden = inside.name.startswith(".") or written & {*inside.resolve().parents}
            if inside.is_file() and not is_hidden and inside.suffix.lower() not in NO_IMAGE:
                files.append((str(inside.relative_to(path)), inside))
    names = set()
    for name, _ in files:
        if name in names:
            raise Refused(
                f"two of the files are called {name}: give the folder that holds both, or predict "
                "them apart"
            )
        names.add(name)
    return files


def make_entry(name: str, xray: Xray, facts: dict[str, Any]) -> dict[str, Any]:
    """The entry of a file in predictions.json; facts: of its answer."""
    height, width = xray.picture.shape
    return {
        "file": printable(name),
        "width": width,
        "height": height,
        "not_frontal_chest": xray.not_frontal_chest,
        **facts,
    }


def line_width(canvas: np.ndarray) -> int:
    """Pixels, by the size of the picture."""
    return max(1, round(max(canvas.shape) / 500))


def draw(
    picture: np.ndarray, entry: dict[str, Any], answer: dict[str, Any], predictor: ModelFile
) -> np.ndarray:
    """Colour picture with what was found."""
    canvas = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    predictor.draw_answer(canvas, entry, answer)
    unit = line_width(canvas)
    corner = (4 * unit, len(canvas) - 6 * unit)
    cv2.putText(canvas, "not for diagnosis", corner, FONT, 0.4 * unit, NOTICE_COLOUR, unit)
    return canvas


def picture_path(folder: Path, name: str) -> Path:
    """Where a picture of a file goes; a name that has no room for .png is shortened."""
    path = folder / f"{name}.png"
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        check_sum = zlib.crc32(os.fsencode(name))
        path = path.with_name(f"{path.name[:40]}.{check_sum:08x}.png")
    return path


def try_folder(folder: Path) -> None:
    """Refused where no file can be written into the folder; it is made if it is not there."""
    trial = folder / ".trial.tmp"  # always the same, so that none is left by a kill
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b"trial")
        trial.unlink(missing_ok=True)  # another process may do the same
    except OSError as error:
        raise Refused(
            f"{folder} cannot be written ({error.strerror}): choose another --out"
        ) from None


def write(path: Path, content: str | bytes) -> None:
    """Write a file that is whole or absent. Refused where the disk does not take it."""
    check_sum = zlib.crc32(os.fsencode(path.name))
    temporary = path.with_name(f".{check_sum:08x}.tmp")  # short, as the name may be a long one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            sync(file)
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from None


def sync(file: IO[bytes]) -> None:
    """Wait until what was written is on the disk."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def cannot_write(path: Path, error: OSError) -> Refused:
    return Refused(
        f"{path} cannot be written ({error.strerror}): mend that and give the same command again, "
        "which goes on where this one stopped"
    )


class Source(NamedTuple):
    """An image file as it was when it was looked at."""

    name: str
    path: str
    size: int  # bytes
    modified: int  # nanoseconds


def identify(name: str, path: Path) -> Source:
    """The file as it is now; one that has vanished has no size."""
    absolute = os.path.abspath(path)
    try:
        facts = os.stat(absolute)
    except OSError:
        return Source(name, absolute, -1, -1)
    return Source(name, absolute, facts.st_size, facts.st_mtime_ns)


def describe_run(model: Path, predictor: ModelFile) -> dict[str, Any]:
    """What decides about the predictions besides the image, in JSON's own types."""
    return {
        "model": identify(predictor.settings["name"], model)._asdict(),
        "engine": predictor.engine_name,
        "networks": list(predictor.models),
        "views": len(predictor.flips),
        "program": zlib.crc32(Path(__file__).read_bytes()),
        "readers": [name for name in READERS if importlib.util.find_spec(name) is not None],
    }


def describe_answer(model: Path, predictor: ModelFile) -> dict[str, Any]:
    """What stands above the images in predictions.json: all that they were made with."""
    settings = predictor.settings
    checkpoints = list(settings.get("checkpoints", {}).items())
    used = {}
    for number in predictor.models:
        if number < len(checkpoints):
            name, check_sum = checkpoints[number]
            used[name] = check_sum
    return {
        "model": settings["name"],
        "file": printable(model.name),
        "sha256": read_check_sum(model),
        "checkpoints": used,
        "code": settings.get("code", ""),
        "program": zlib.crc32(Path(__file__).read_bytes()),
        "engine": predictor.engine_name,
        "views": len(predictor.flips),
        "written": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


class Journal:
    """What became of each image: predictions.jsonl, a line for the run, then one for each image.

    A record is {"source": a Source, "entry": as in predictions.json} or {"source": ..., "failed":
    the reason}. What an earlier run of the same description wrote is taken over.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self.path = path
        self.records: dict[Source, dict[str, Any]] = {}
        self.replaces = path.exists()  # the records of another run
        content = path.read_bytes() if self.replaces else b""
        first, *lines = content.split(b"\n")
        if parse_line(first) == {"run": run}:
            self.replaces = False
            self.take_over(lines)
        texts = [json.dumps({"run": run})]
        texts += [json.dumps(record) for record in self.records.values()]
        write(path, "\n".join(texts) + "\n")

    def take_over(self, lines: Sequence[bytes]) -> None:
        """Lines that a stop or a power cut left half-written are passed over."""
        for line in lines:
            record = parse_line(line)
            if {"entry", "failed"} & record.keys():
                self.records[Source(**record["source"])] = record

    def add(self, source: Source, facts: dict[str, Any]) -> None:
        """Keep {"entry": ...} or {"failed": ...}; it is on the disk when this returns."""
        record = {"source": source._asdict(), **facts}
        try:
            with open(self.path, "ab") as file:
                file.write(json.dumps(record).encode() + b"\n")
                sync(file)
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self.records[source] = record


def parse_line(line: bytes) -> dict[str, Any]:
    """A line of predictions.jsonl, {} for one that is not whole."""
    try:
        content = json.loads(line)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def as_csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_tables(
    out: Path,
    entries: Sequence[dict[str, Any]],
    failed: Sequence[tuple[str, str]],
    predictor: ModelFile,
    about: dict[str, Any],
) -> None:
    """predictions.csv, failed.csv and predictions.json, which begins with what is `about` them."""
    classes = [f"p_{name}" for name in predictor.settings["image_classes"]]
    header = ["file", "width", "height", *classes, *predictor.COLUMNS, "not_frontal_chest"]
    rows: list[list[Any]] = [header]
    for entry in entries:
        facts = [entry["file"], entry["width"], entry["height"], *entry["image_classes"].values()]
        for cells in predictor.rows(entry):
            rows.append([*facts, *cells, entry["not_frontal_chest"]])
    write(out / "predictions.csv", as_csv(rows))
    write(out / "failed.csv", as_csv([("file", "reason"), *failed]))
    content = {**about, "images": list(entries)}
    write(out / "predictions.json", json.dumps(content, indent=1) + "\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a file written by 06_export.py")
    parser.add_argument("inputs", nargs="+", help="image files, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--engine",
        choices=("auto", *ENGINES),
        default="auto",
        help="auto: the first of these that is installed, runs here and is right",
    )
    parser.add_argument(
        "--models",
        type=parse_numbers,
        metavar="NUMBERS",
        help="only some networks of a merged file, such as 0 or 0,2: so much less time",
    )
    parser.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="also look at the mirrored picture (default: as when the thresholds were fitted)",
    )
    parser.add_argument(
        "--overlay", action="store_true", help="write a picture of each image with what was found"
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="go on with what arrives in the folder, once it is whole, until Ctrl-C",
    )
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    return parser.parse_args(arguments)


def parse_numbers(text: str) -> list[int]:
    """Of "0" or "0,2", each once."""
    return sorted({int(word) for word in text.split(",")})


def check_models(models: Sequence[int] | None, path: Path, settings: dict[str, Any]) -> None:
    """Refused for networks that the file does not hold."""
    count = settings["models"]
    if models is not None and not all(0 <= number < count for number in models):
        raise Refused(f"{path} holds {count} networks: give --models from 0 to {count - 1}")


class Batch:
    """Predicts files, one after the other, and writes what was found into a folder."""

    def __init__(self, model: Path, predictor: ModelFile, out: Path, overlay: bool) -> None:
        self.predictor = predictor
        self.out = out
        self.overlay = overlay
        self.about = describe_answer(model, predictor)
        self.journal = Journal(out / "predictions.jsonl", describe_run(model, predictor))
        self.seconds: list[float] = []  # of each image that was predicted

    def predict(self, files: Sequence[tuple[str, Path]]) -> dict[str, dict[str, Any]]:
        """{name: its record} of all files, in their order."""
        records = {}
        done_before = 0
        for number, (name, path) in enumerate(files, 1):
            source = identify(name, path)
            overlay = self.overlay_path(name)
            if is_done(source, overlay, self.journal, self.out):
                done_before += 1
            else:
                start = time.perf_counter()
                outcome = predict_file(name, path, self.predictor, overlay, self.out)
                self.journal.add(source, outcome)
                seconds = time.perf_counter() - start
                if "entry" in outcome:
                    self.seconds.append(seconds)
                say(outcome, self.predictor, f"{seconds:.1f} s, {number} of {len(files)}")
            records[name] = self.journal.records[source]
        if done_before:
            print(f"{done_before} of the {len(files)} files were done before")
        return records

    def overlay_path(self, name: str) -> Path | None:
        return picture_path(self.out / "overlays", name) if self.overlay else None

    def write(self, records: dict[str, dict[str, Any]]) -> tuple[int, int]:
        """The tables. Returns how many files were predicted, and how many failed."""
        entries = []
        failed = []
        for name, record in records.items():
            if "entry" in record:
                entries.append(record["entry"])
            else:
                failed.append((printable(name), record["failed"]))
        write_tables(self.out, entries, failed, self.predictor, self.about)
        table = self.out / "predictions.csv"
        pace = ""
        if self.seconds:
            pace = f", {np.mean(self.seconds):.2f} s an image"
        print(f"{len(entries)} images predicted{pace}, {len(failed)} not readable: {table}")
        others = sum(bool(entry["not_frontal_chest"]) for entry in entries)
        if others:
            print(f"{others} of them are no frontal chest X-rays by their headers, and marked so")
        sys.stdout.flush()
        return len(entries), len(failed)


def watch(folder: Path, batch: Batch) -> None:
    """Predict what is in the folder and what arrives, for ever.

    A file is whole when it has not changed from one look at the folder to the next. Rows of files
    that are taken away stay.
    """
    records = {source.name: record for source, record in batch.journal.records.items()}
    before: dict[str, Source] = {}
    print(f"watching {folder} (Ctrl-C ends it)", flush=True)
    while True:
        sources = {}
        for name, path in find_files([str(folder)], batch.out):
            sources[name] = identify(name, path)
        waiting = []
        for name, source in sources.items():
            overlay = batch.overlay_path(name)
            is_whole_file = before.get(name) == source
            if is_whole_file and not is_done(source, overlay, batch.journal, batch.out):
                waiting.append((name, Path(source.path)))
        before = sources
        if waiting:
            records.update(batch.predict(waiting))
            batch.write(records)
        time.sleep(WATCH_SECONDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict all files. Returns the exit status: 2 where some could not be read.

    Raises Refused where nothing at all can be predicted.
    """
    args = parse(arguments)
    files = find_files(args.inputs, args.out)
    if args.watch and (len(args.inputs) > 1 or not Path(args.inputs[0]).is_dir()):
        raise Refused("--watch wants one folder: put what belongs together below it")
    if args.overlay and cv2 is None:
        raise Refused(f"--overlay draws with OpenCV: {INSTALL_OPENCV}")
    try_folder(args.out)
    if args.overlay:
        try_folder(args.out / "overlays")
    settings = read_settings(args.model)
    refuse_damage(args.model)
    check_models(args.models, args.model, settings)
    engine = choose_engine(args.engine, args.model, settings, args.threads, args.out)
    predictor = open_predictor(args.model, engine, args.flip, args.models, args.threads)
    print(
        f"{args.model}: {predictor.engine_name}, {len(predictor.models)} models x "
        f"{len(predictor.flips)} views"
    )
    if len(predictor.models) < settings["models"]:
        print(f"the thresholds were fitted for all {settings['models']} networks of the file")

    batch = Batch(args.model, predictor, args.out, args.overlay)
    if batch.journal.replaces:
        print(f"{batch.journal.path} is of another model or other options: all is predicted anew")
    if args.watch:
        watch(Path(args.inputs[0]), batch)
    predicted, failed = batch.write(batch.predict(files))
    if not predicted:
        raise Refused(
            f"none of the {len(files)} files could be predicted: see {args.out / 'failed.csv'}"
        )
    return SOME_FAILED if failed else 0


def is_done(source: Source, overlay: Path | None, journal: Journal, out: Path) -> bool:
    """Whether a file was looked at, and its mask and its overlay, if it is asked for, are there."""
    record = journal.records.get(source)
    if record is None:
        return False
    if "failed" in record:
        return True
    if "mask" in record["entry"] and not picture_path(out / "masks", source.name).exists():
        return False
    return overlay is None or overlay.exists()


def predict_file(
    name: str, path: Path, predictor: ModelFile, overlay: Path | None, out: Path
) -> dict[str, Any]:
    """{"entry": ...} of a file, or {"failed": why it cannot be read}; writes mask and overlay."""
    try:
        xray = read_xray(path)
    except Refused as error:
        return {"failed": str(error)}
    answer = predictor(xray.picture)
    entry = make_entry(name, xray, predictor.entry_facts(answer))
    if "mask" in entry:
        mask_path = picture_path(out / "masks", name)
        entry["mask"]["file"] = printable(mask_path.relative_to(out).as_posix())
        write_picture(mask_path, 255 * answer["mask"])
    if overlay is not None:
        write_picture(overlay, draw(xray.picture, entry, answer, predictor))
    return {"entry": entry}


def write_picture(path: Path, picture: np.ndarray) -> None:
    _, content = cv2.imencode(".png", picture)
    write(path, content.tobytes())


def say(outcome: dict[str, Any], predictor: ModelFile, progress: str) -> None:
    if "failed" in outcome:
        print(f"{outcome['failed']} ({progress})", file=sys.stderr, flush=True)
    else:
        entry = outcome["entry"]
        mark = ""
        if entry["not_frontal_chest"]:
            mark = f" (no frontal chest X-ray: {entry['not_frontal_chest']})"
        print(f"{entry['file']}: {predictor.describe(entry)}{mark} ({progress})", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Refused as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
