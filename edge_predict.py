"""Boxes in chest X-rays on a weak machine: this file, numpy, OpenCV, a model of 06_export.py.

    python edge_predict.py merged.onnx scans/ more/a.dcm --out results      files, nested folders
    python edge_predict.py merged.int8.onnx a.png --out results --overlay   pictures with the boxes
    python edge_predict.py fold0.onnx a.png --out results --no-flip         half the time: without
                                                                            the mirrored view

Writes predictions.csv (a row for each box, one without a box where there is none), predictions.json
(the same, with how likely each class of the whole image is) and failed.csv (what could not be read,
and why). Boxes are x1 y1 x2 y2 in pixels of the original image. onnxruntime is used where it is
installed, else OpenCV; pydicom is needed for DICOMs only. Python 3.9 or newer.

Everything that is particular to a model stands in the metadata of its file. Not for diagnosis.
"""

# ruff: noqa: B905  (Python 3.9 does not know zip's `strict`)

from __future__ import annotations

import argparse
import csv
import io
import json
import mmap
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

# For cv2, before it is imported; the largest detectors have 20 million.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "50000000")
import cv2
import numpy as np

FORMAT = 1  # of the settings in the model file
KEY = "settings"
# This and the three below as in cxr/geometry, which made the model.
STD = np.array([0.1, 0.1, 0.2, 0.2])
SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
RATIOS = (0.5, 1.0, 2.0)  # height : width
LIMIT = np.log(16)
FUSED_AT_MOST = 100  # as in cxr/methods/detector/records.py
# Passed over in folders.
NO_IMAGE = (".csv", ".json", ".txt", ".md", ".html", ".xml", ".zip", ".onnx", ".py")
PICTURE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG = "1.2.840.10008.1.2.4.50"
# What pydicom decodes with numpy alone.
PLAIN = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG, RLE)
BOX_COLOUR = (0, 200, 255)  # blue, green, red
NOTICE_COLOUR = (190, 190, 190)


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
            for number, start, end in walk_fields(data, 0, len(data)):
                if number != 14:
                    continue
                entry = {name: data[a:b] for name, a, b in walk_fields(data, start, end)}
                if entry.get(1) == KEY.encode():
                    return check_format(path, json.loads(entry[2]))
    except FileNotFoundError:
        raise Refused(f"{path} is missing: write it with 06_export.py and copy it here") from None
    except (ValueError, IndexError, KeyError):  # an empty file, no protobuf, cut off
        pass
    raise Refused(f"{path} is no whole model of 06_export.py: write it again and copy it here")


def check_format(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    if settings["format"] != FORMAT:
        raise Refused(
            f"{path} has settings of format {settings['format']}, and this edge_predict.py reads "
            f"{FORMAT}: take the edge_predict.py that stands beside the 06_export.py which wrote "
            "the model"
        )
    return settings


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
    """Runs the networks of a model file."""

    def __call__(self, image: np.ndarray, names: list[str]) -> Sequence[np.ndarray]: ...


class OnnxRuntime:
    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime  # optional, and OpenCV does without it

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
        return self.net.forward(names)


ENGINES = {"onnxruntime": OnnxRuntime, "opencv": OpenCV}


def open_engine(name: str, path: Path, threads: int) -> tuple[str, Engine]:
    """(its name, the engine); 'auto' is onnxruntime where it is installed."""
    if name != "opencv":
        try:
            return "onnxruntime", OnnxRuntime(path, threads)
        except ImportError:
            if name == "onnxruntime":
                raise Refused(
                    "onnxruntime is not installed: pip install onnxruntime, or --engine opencv"
                ) from None
    return "opencv", OpenCV(path, threads)


# --- from a picture to boxes


class Predictor:
    """A model file ready to be used.

    `flip`: also look at the mirrored picture (None: as the settings say, for which the thresholds
    were fitted). `models`: only these of the merged models, by number.
    """

    def __init__(
        self,
        path: Path,
        engine: str = "auto",
        flip: bool | None = None,
        models: Sequence[int] | None = None,
        threads: int = 0,
    ) -> None:
        self.settings = read_settings(path)
        self.engine_name, self.engine = open_engine(engine, path, threads)
        if flip is None:
            flip = self.settings["flip"]
        self.flips = [False, True] if flip else [False]
        self.models = range(self.settings["models"]) if models is None else models
        self.side = self.settings["image_size"]
        self.centre, self.size = make_anchors(self.side, self.settings["levels"])
        self.mirrored = mirror_index(self.side, self.settings["levels"])

    def __call__(
        self, picture: np.ndarray, frame: tuple[int, int] | None = None
    ) -> dict[str, np.ndarray]:
        """The boxes in a picture (h, w) uint8, best first, before the thresholds.

        boxes (n, 4) x1 y1 x2 y2 in pixels of the frame (width, height; default: the picture's own),
        scores (n,) 0 ... 1, labels (n,) into `classes`, kept (n,) bool: above the thresholds;
        category: probabilities of the image classes.
        """
        if frame is None:
            height, width = picture.shape
            frame = (width, height)
        outputs = self.look(picture)
        candidates = self.find_candidates(outputs, frame)
        return decide(candidates, outputs.category, frame, self.settings["rule"])

    def look(self, picture: np.ndarray) -> Outputs:
        """Means over models and views; the deltas of all of them."""
        # As the pictures came to the network in training.
        picture = resize(resize(picture, self.settings["stored_size"]), self.side)
        names = []
        for model in self.models:
            names += [f"scores{model}", f"deltas{model}", f"category{model}"]

        views = []
        for flipped in self.flips:
            image = np.ascontiguousarray(picture[:, ::-1] if flipped else picture, np.float32)
            raw = self.engine(image[None, None], names)
            for start in range(0, len(names), 3):
                views.append(self.undo_view(raw[start : start + 3], flipped))
        return Outputs(
            scores=np.mean([view.scores for view in views], 0),
            deltas=np.stack([view.deltas for view in views]),
            category=np.mean([view.category for view in views], 0),
        )

    def undo_view(self, raw: Sequence[np.ndarray], flipped: bool) -> Outputs:
        """Outputs of one network for one view, brought back to the unchanged picture."""
        count = len(self.centre)
        scores = np.asarray(raw[0]).reshape(count, -1)
        deltas = np.asarray(raw[1]).reshape(count, -1)
        category = np.asarray(raw[2]).reshape(-1)
        if flipped:
            scores = scores[self.mirrored]
            deltas = deltas[self.mirrored] * np.array([-1, 1, 1, 1], np.float32)
        return Outputs(scores, deltas, category)

    def find_candidates(self, outputs: Outputs, frame: tuple[int, int]) -> Candidates:
        """The best anchors of each class, in pixels of the frame."""
        score, anchor, label = best_anchors(
            outputs.scores, self.settings["floor"], self.settings["most"]
        )
        deltas = outputs.deltas[:, anchor] * STD
        unit = self.size[anchor]
        scale = np.array(frame) / self.side
        centre = self.centre[anchor] + deltas[..., :2].mean(0) * unit
        low, high = np.quantile(deltas[..., 2:], [0.2, 0.8], axis=0)
        size20 = unit * np.exp(np.minimum(low, LIMIT)) * scale
        size80 = unit * np.exp(np.minimum(high, LIMIT)) * scale
        return Candidates(centre * scale, size20, size80, score.astype(np.float64), label)


def make_anchors(side: int, levels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Centres and sizes (A, 2) of the anchors in pixels of the network's input.

    Ordered by level, row, column, shape.
    """
    shapes = np.array(
        [(scale / ratio**0.5, scale * ratio**0.5) for scale in SCALES for ratio in RATIOS]
    )
    centres = []
    sizes = []
    for level in levels:
        middle = (np.arange(side // 2**level) + 0.5) * 2**level
        grid = np.stack(np.meshgrid(middle, middle), -1).reshape(-1, 1, 2)
        centres.append(np.repeat(grid, len(shapes), 1).reshape(-1, 2))
        sizes.append(np.tile(shapes * 2 ** (level + 2), (len(grid), 1)))
    return np.concatenate(centres), np.concatenate(sizes)


def mirror_index(side: int, levels: Sequence[int]) -> np.ndarray:
    """(A,) so that outputs of a mirrored picture, at this index, belong to the picture."""
    per_cell = len(SCALES) * len(RATIOS)
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


# --- reading X-rays


def read_xray(path: Path) -> np.ndarray:
    """Picture (height, width) uint8, bright = dense, as cxr/images/read.py gives it.

    Refused with the reason otherwise.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(132)
        if start.startswith(PICTURE_STARTS):
            return read_picture(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid UIDs, ages without unit: harmless, and common
            return read_dicom(path, start)
    except Refused as error:
        raise Refused(f"{path}: {error}") from None
    except Exception as error:  # decoders raise anything at all on damaged bytes
        reason = " ".join(str(error).split())[:200]
        raise Refused(f"{path}: cannot be decoded ({type(error).__name__}: {reason})") from None


def read_picture(path: Path) -> np.ndarray:
    picture = unpack(Path(path).read_bytes())
    if picture.ndim == 2:
        return picture if picture.dtype == np.uint8 else to_uint8(picture)
    if picture.dtype != np.uint8:
        picture = (picture >> 8).astype(np.uint8)
    # Blue, green, red of ITU-R 601, as Pillow's.
    luma = picture[..., :3].astype(np.int64) @ [7471, 38470, 19595]
    return ((luma + 0x8000) >> 16).astype(np.uint8)


def unpack(data: bytes) -> np.ndarray:
    """Pixels of a PNG or JPEG, gray or BGR(A).

    Without its end it is refused, since OpenCV would fill it up with gray.
    """
    picture = None
    if any(end in data[-64:] for end in (b"IEND", b"\xff\xd9")):
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise Refused("is damaged or cut off: copy it again")
    return picture


def read_dicom(path: Path, start: bytes) -> np.ndarray:
    try:
        import pydicom  # not needed for PNGs and JPEGs
    except ImportError as error:
        raise Refused(
            f"is a DICOM or nothing known, and DICOMs need pydicom ({error}): pip install pydicom"
        ) from None
    dataset = pydicom.dcmread(path, force=start[128:132] != b"DICM")
    refuse_unknown(dataset)
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if syntax is None:  # no meta header: the pixels are taken as uncompressed
        dataset.ensure_file_meta()
        encoding = getattr(dataset, "original_encoding", None)
        implicit, little_endian = encoding or (dataset.is_implicit_VR, dataset.is_little_endian)
        explicit = EXPLICIT_LITTLE if little_endian else EXPLICIT_BIG
        syntax = pydicom.uid.UID(IMPLICIT_LITTLE if implicit else explicit)
        dataset.file_meta.TransferSyntaxUID = syntax
    if syntax not in (*PLAIN, JPEG):
        raise Refused(
            f"is compressed as {syntax.name}, which needs more than numpy and OpenCV: decompress "
            "it first, such as with gdcmconv --raw"
        )
    if syntax == JPEG:
        return gray(decode_jpeg(dataset), dataset)
    return gray(used_bits(dataset.pixel_array, dataset), dataset)


def refuse_unknown(dataset: Any) -> None:
    if "PixelData" not in dataset or not dataset.get("Rows") or not dataset.get("Columns"):
        raise Refused("is no DICOM, PNG or JPEG with integer pixels")
    if dataset.Rows * dataset.Columns > int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"]):
        raise Refused(f"states {dataset.Columns} x {dataset.Rows} pixels, and no X-ray has so many")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise Refused(f"holds {dataset.NumberOfFrames} frames, and an X-ray has one")
    photometric = dataset.get("PhotometricInterpretation")
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if samples > 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Refused(f"has colours ({photometric}): store it as MONOCHROME2 or PNG first")
    if dataset.get("ModalityLUTSequence") or dataset.get("VOILUTSequence"):
        raise Refused(
            "has a lookup table, which only the full program reads: store it as PNG with "
            "02_preprocess.py"
        )
    if not 1 < dataset.BitsStored <= dataset.BitsAllocated <= 16:
        raise Refused(
            f"has {dataset.BitsStored} bits in {dataset.BitsAllocated}, and 2 to 16 are read"
        )


def decode_jpeg(dataset: Any) -> np.ndarray:
    """Stored values of a single JPEG: the items behind the first, the table of offsets, joined."""
    data = dataset.PixelData
    at = 0
    items = []
    while data[at : at + 4] == b"\xfe\xff\x00\xe0":
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        items.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    image = unpack(b"".join(items[1:]))
    if image.shape != (dataset.Rows, dataset.Columns) or image.dtype != np.uint8:
        raise Refused(
            "holds a JPEG of another kind or size than it states: store it as PNG with another "
            "program"
        )
    return image


def used_bits(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Stored values (h, w) without what old files keep in the bits above BitsStored."""
    if stored.ndim != 2:
        raise Refused(f"has pixels of shape {stored.shape}, and a gray X-ray has two dimensions")
    spare = 8 * stored.dtype.itemsize - dataset.BitsStored
    return (stored << spare) >> spare


def gray(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Stored values to uint8: rescale, window or full range, inversion, padding to black."""
    slope = dataset.get("RescaleSlope")
    intercept = dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        slope = 1.0
        intercept = 0.0
    values = stored * float(slope) + float(intercept)
    padding = padding_mask(stored, dataset)
    image = windowed(values, dataset)
    if image is None or (np.ptp(image) == 0 and np.ptp(stored) > 0):
        shown = values[~padding]
        if dataset.BitsStored == 8 and dataset.PixelRepresentation == 0:
            shown = np.array([0.0, 255.0]) * float(slope) + float(intercept)
        image = to_uint8(values, shown.min(), shown.max()) if shown.size else to_uint8(values, 0, 1)
    inverse = (
        dataset.PhotometricInterpretation == "MONOCHROME1"
        or dataset.get("PresentationLUTShape") == "INVERSE"
    )
    if inverse:
        image = 255 - image
    return np.where(padding, np.uint8(0), image)


def padding_mask(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Mask of the pixels that are no image; none in 8 bits, where the value is also a true gray."""
    value = dataset.get("PixelPaddingValue")
    limit = dataset.get("PixelPaddingRangeLimit")
    if value is None or dataset.BitsStored == 8:
        return np.zeros(stored.shape, bool)
    if limit is None:
        limit = value
    return (stored >= min(value, limit)) & (stored <= max(value, limit))


def windowed(values: np.ndarray, dataset: Any) -> np.ndarray | None:
    """uint8 picture of the first window by DICOM PS3.3 C.11.2.1.

    None without one or with an impossible width.
    """
    centre = first_number(dataset.get("WindowCenter"))
    width = first_number(dataset.get("WindowWidth"))
    function = dataset.get("VOILUTFunction") or "LINEAR"
    smallest_width = 1 if function == "LINEAR" else 1e-9
    if centre is None or width is None or width < smallest_width:
        return None
    if function == "SIGMOID":
        share = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50)))
    elif function == "LINEAR_EXACT":
        share = np.clip((values - centre) / width + 0.5, 0, 1)
    elif width == 1:
        share = values > centre - 0.5
    else:
        share = np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    return np.rint(255 * share).astype(np.uint8)


def first_number(value: Any) -> float | None:
    """The first number of a DICOM element, None where it is empty."""
    if value is not None and not isinstance(value, (str, float, int)):
        value = next(iter(value), None)
    if value is None or str(value).strip() == "":
        return None
    return float(value)


def to_uint8(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """low ... high (default: minimum ... maximum) to 0 ... 255, clipped. A constant gives 0."""
    low = float(values.min() if low is None else low)
    high = float(values.max() if high is None else high)
    scale = 255 / (high - low) if high > low else 0.0
    return np.rint(np.clip((values.astype(np.float64) - low) * scale, 0, 255)).astype(np.uint8)


def resize(picture: np.ndarray, side: int) -> np.ndarray:
    """(h, w) to (side, side), averaging where it shrinks."""
    if picture.shape == (side, side):
        return picture
    grows = max(picture.shape) <= side
    interpolation = cv2.INTER_LINEAR if grows else cv2.INTER_AREA
    return cv2.resize(picture, (side, side), interpolation=interpolation)


# --- files in, tables and pictures out


def find_files(paths: Sequence[str]) -> list[tuple[str, Path]]:
    """(name, path) of the files and of all that is in the folders.

    The name says where a file is below its folder.
    """
    files = []
    for path in map(Path, paths):
        if not path.exists():
            raise Refused(f"{path} is missing: give files or folders that are there")
        if not path.is_dir():
            files.append((path.name, path))
            continue
        for inside in sorted(path.rglob("*")):
            is_hidden = inside.name.startswith(".")
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


def make_entry(
    name: str, picture: np.ndarray, prediction: dict[str, np.ndarray], settings: dict[str, Any]
) -> dict[str, Any]:
    """The entry of a file in predictions.json."""
    kept = prediction["kept"]
    boxes = []
    for box, score, label in zip(
        prediction["boxes"][kept].round(1).tolist(),
        prediction["scores"][kept].round(6).tolist(),
        prediction["labels"][kept],
    ):
        boxes.append({"label": settings["classes"][label], "score": score, "box": box})
    probabilities = prediction["category"].astype(float).round(6).tolist()
    height, width = picture.shape
    return {
        "file": name,
        "width": width,
        "height": height,
        "image_classes": dict(zip(settings["image_classes"], probabilities)),
        "boxes": boxes,
    }


def draw(picture: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    """Colour picture with the boxes of an entry and what they are."""
    canvas = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    unit = max(1, round(max(picture.shape) / 500))
    font = cv2.FONT_HERSHEY_SIMPLEX
    for box in entry["boxes"]:
        x1, y1, x2, y2 = (round(value) for value in box["box"])
        cv2.rectangle(canvas, (x1, y1), (x2, y2), BOX_COLOUR, unit)
        words = f"{box['label']} {box['score']:.2f}"
        corner = (x1, max(12 * unit, y1 - 3 * unit))
        cv2.putText(canvas, words, corner, font, 0.5 * unit, BOX_COLOUR, unit)
    corner = (4 * unit, len(canvas) - 6 * unit)
    cv2.putText(canvas, "not for diagnosis", corner, font, 0.4 * unit, NOTICE_COLOUR, unit)
    return canvas


def write(path: Path, content: str | bytes) -> None:
    """Write a file that is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)


def as_csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_tables(
    out: Path,
    entries: Sequence[dict[str, Any]],
    failed: Sequence[tuple[str, str]],
    settings: dict[str, Any],
) -> None:
    """predictions.csv, failed.csv and predictions.json."""
    classes = [f"p_{name}" for name in settings["image_classes"]]
    rows: list[list[Any]] = [
        ["file", "width", "height", *classes, "label", "score", "x1", "y1", "x2", "y2"]
    ]
    for entry in entries:
        facts = [entry["file"], entry["width"], entry["height"], *entry["image_classes"].values()]
        for box in entry["boxes"]:
            rows.append([*facts, box["label"], box["score"], *box["box"]])
        if not entry["boxes"]:
            rows.append([*facts, "", "", "", "", "", ""])
    write(out / "predictions.csv", as_csv(rows))
    write(out / "failed.csv", as_csv([("file", "reason"), *failed]))
    content = {"model": settings["name"], "images": list(entries)}
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
        choices=("auto", "onnxruntime", "opencv"),
        default="auto",
        help="auto: onnxruntime if installed",
    )
    parser.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="also look at the mirrored picture (default: as when the thresholds were fitted)",
    )
    parser.add_argument(
        "--overlay", action="store_true", help="write a picture of each image with its boxes"
    )
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict all files. Raises Refused where nothing at all can be predicted."""
    args = parse(arguments)
    files = find_files(args.inputs)
    predictor = Predictor(args.model, args.engine, args.flip, threads=args.threads)
    print(
        f"{args.model}: {predictor.engine_name}, {len(predictor.models)} models x "
        f"{len(predictor.flips)} views"
    )

    entries = []
    failed = []
    for name, path in files:
        try:
            picture = read_xray(path)
        except Refused as error:
            failed.append((name, str(error)))
            print(error, file=sys.stderr)
            continue
        entry = make_entry(name, picture, predictor(picture), predictor.settings)
        entries.append(entry)
        print(f"{name}: {len(entry['boxes'])} boxes")
        if args.overlay:
            _, overlay = cv2.imencode(".png", draw(picture, entry))
            write(args.out / "overlays" / f"{name}.png", overlay.tobytes())

    write_tables(args.out, entries, failed, predictor.settings)
    table = args.out / "predictions.csv"
    print(f"{len(entries)} images predicted, {len(failed)} not readable: {table}")
    if not entries:
        raise Refused(
            f"none of the {len(files)} files could be predicted: see {args.out / 'failed.csv'}"
        )


if __name__ == "__main__":
    try:
        main()
    except Refused as error:
        sys.exit(f"error: {error}")
