"""Boxes in chest X-rays on a weak machine: this one file, numpy, OpenCV, and a model written by 06_export.py.

    python edge_predict.py merged.onnx scans/ more/a.dcm --out found        DICOMs, PNGs, JPEGs, folders with folders
    python edge_predict.py merged.int8.onnx a.png --out found --overlay     and a picture of each with its boxes
    python edge_predict.py fold0.onnx a.png --out found --no-flip           half the time: the mirrored view is left out

Writes predictions.csv (a row for each box, one without a box where there is none), predictions.json (the same, with how
likely each class of the whole image is) and failed.csv (what could not be read, and why). Boxes are x1 y1 x2 y2 in
pixels of the original image. onnxruntime is used where it is installed, else OpenCV; pydicom is needed for DICOMs only.

Everything that is particular to a model stands in the metadata of its file. Not for diagnosis.
"""

import argparse
import csv
import io
import json
import mmap
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault(
    "OPENCV_IO_MAX_IMAGE_PIXELS", "50000000"
)  # for cv2; the largest detectors have 20 million
import cv2  # noqa: E402
import numpy as np  # noqa: E402

FORMAT = 1  # of the settings in the model file
KEY = "settings"
STD = np.array(
    [0.1, 0.1, 0.2, 0.2]
)  # this and the two below as in cxr/geometry/anchors.py, which made the model
SHAPES = [(2 ** (i / 3) / r**0.5, 2 ** (i / 3) * r**0.5) for i in range(3) for r in (0.5, 1.0, 2.0)]
LIMIT = np.log(16)
FUSED_AT_MOST = 100  # as in cxr/methods/detector/records.py
NO_IMAGE = (
    ".csv",
    ".json",
    ".txt",
    ".md",
    ".html",
    ".xml",
    ".zip",
    ".onnx",
    ".py",
)  # passed over in folders
PLAIN = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
)  # uncompressed, deflated, RLE: what pydicom decodes with numpy alone
JPEG = "1.2.840.10008.1.2.4.50"


class Refused(Exception):
    """Why a model or an image cannot be used and what to do about it, in one sentence."""


def read_settings(path):
    """The settings that 06_export.py put into the metadata of the model. Refused where there are none.

    OpenCV does not tell the metadata, so the file is walked here: it is one protobuf message, whose field 14 are the
    entries of the metadata, each with a key (field 1) and a value (field 2).
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for number, *entry in fields(data, 0, len(data)):
                parts = (
                    {name: data[first:last] for name, first, last in fields(data, *entry)}
                    if number == 14
                    else {}
                )
                if parts.get(1) == KEY.encode():
                    return checked(path, json.loads(parts[2]))
    except FileNotFoundError:
        raise Refused(f"{path} is missing: write it with 06_export.py and copy it here") from None
    except (ValueError, IndexError, KeyError):  # an empty file, no protobuf, cut off
        pass
    raise Refused(f"{path} is no whole model of 06_export.py: write it again and copy it here")


def checked(path, settings):
    if settings["format"] != FORMAT:
        raise Refused(
            f"{path} has settings of format {settings['format']}, and this edge_predict.py reads {FORMAT}: "
            "take the edge_predict.py that stands beside the 06_export.py which wrote the model"
        )
    return settings


def fields(data, at, end):
    """(number, first, last) of the fields with bytes of a protobuf message in data[at:end]."""
    while at < end:
        key, at = varint(data, at)
        size = {0: 0, 1: 8, 2: 0, 5: 4}[key & 7]  # KeyError: no protobuf
        value, at = varint(data, at) if key & 7 in (0, 2) else (0, at)
        size = value if key & 7 == 2 else size
        if at + size > end:
            raise ValueError("cut off")
        if key & 7 == 2:
            yield key >> 3, at, at + size
        at += size


def varint(data, at):
    """(number, place behind it): seven bits a byte, the lowest first."""
    value = shift = 0
    while True:
        value, shift, at = value | (data[at] & 127) << shift, shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


class OnnxRuntime:
    def __init__(self, path, threads):
        import onnxruntime  # optional, and OpenCV does without it

        options, self.run_options = onnxruntime.SessionOptions(), onnxruntime.RunOptions()
        options.intra_op_num_threads = threads  # 0: one for each core
        options.log_severity_level = 3
        self.run_options.only_execute_path_to_fetches = True
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, image, names):
        return self.session.run(names, {"image": image}, self.run_options)


class OpenCV:
    def __init__(self, path, threads):
        cv2.setNumThreads(threads or -1)
        try:
            self.net = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise Refused(
                f"OpenCV {cv2.__version__} cannot load {path} ({' '.join(str(error).split())[:200]}): take "
                "the file without int8 in its name, a newer OpenCV, or install onnxruntime"
            ) from None

    def __call__(self, image, names):
        self.net.setInput(image, "image")
        return self.net.forward(names)


ENGINES = {"onnxruntime": OnnxRuntime, "opencv": OpenCV}


def open_engine(name, path, threads):
    """(its name, the engine); 'auto' is onnxruntime where it is installed."""
    for choice in ENGINES if name == "auto" else [name]:
        try:
            return choice, ENGINES[choice](path, threads)
        except ImportError:
            if name != "auto":
                raise Refused(
                    "onnxruntime is not installed: pip install onnxruntime, or --engine opencv"
                ) from None


class Predictor:
    """A model file ready to be used.

    `flip`: also look at the mirrored picture (None: as the settings say, for which the thresholds were fitted).
    `models`: only these of the merged models, by number.
    """

    def __init__(self, path, engine="auto", flip=None, models=None, threads=0):
        self.settings = read_settings(path)
        self.engine_name, self.engine = open_engine(engine, path, threads)
        self.flips = [False, True] if (self.settings["flip"] if flip is None else flip) else [False]
        self.models = range(self.settings["models"]) if models is None else models
        self.side = self.settings["image_size"]
        self.centre, self.size = make_anchors(self.side, self.settings["levels"])
        self.mirrored = mirror_index(self.side, self.settings["levels"])

    def __call__(self, picture, frame=None):
        """Dictionary of the boxes in a picture (h, w) uint8, best first, before the thresholds.

        boxes (n, 4) in pixels of the frame (width, height; default: the picture's own), scores (n,) 0 ... 1, labels
        (n,) into `classes`, kept (n,) bool: above the thresholds; category: probabilities of the image classes.
        """
        frame = frame or picture.shape[::-1]
        scores, deltas, category = self.look(picture)
        return decide(
            self.candidates(scores, deltas, frame), category, frame, self.settings["rule"]
        )

    def look(self, picture):
        """(probabilities (A, K), deltas (N, A, 4), image classes (C,)): means, and the deltas of all models x views."""
        for side in (
            self.settings["stored_size"],
            self.side,
        ):  # as the pictures came to the network in training
            picture = resize(picture, side)
        names = [f"{part}{k}" for k in self.models for part in ("scores", "deltas", "category")]
        views = []
        for flipped in self.flips:
            image = np.ascontiguousarray(picture[:, ::-1] if flipped else picture, np.float32)[
                None, None
            ]
            outputs = [np.asarray(part) for part in self.engine(image, names)]
            views += [self.undo(outputs[i : i + 3], flipped) for i in range(0, len(outputs), 3)]
        scores, deltas, category = zip(*views)
        return np.mean(scores, 0), np.stack(deltas), np.mean(category, 0)

    def undo(self, outputs, flipped):
        count = len(self.centre)
        scores, deltas, category = (
            part.reshape(rows, -1) for part, rows in zip(outputs, (count, count, 1))
        )
        if flipped:
            scores, deltas = (
                scores[self.mirrored],
                deltas[self.mirrored] * np.float32([-1, 1, 1, 1]),
            )
        return scores, deltas, category[0]

    def candidates(self, scores, deltas, frame):
        """(centre (n, 2), 20th and 80th percentile of the size (n, 2), score (n,), class (n,)) in pixels of the frame,
        of the best anchors of each class."""
        score, anchor, label = best_anchors(scores, self.settings["floor"], self.settings["most"])
        chosen, unit, scale = (
            deltas[:, anchor] * STD,
            self.size[anchor],
            np.array(frame) / self.side,
        )
        centre = self.centre[anchor] + chosen[..., :2].mean(0) * unit
        low, high = np.quantile(chosen[..., 2:], [0.2, 0.8], axis=0)
        low, high = (unit * np.exp(np.minimum(part, LIMIT)) * scale for part in (low, high))
        return centre * scale, low, high, score.astype(np.float64), label


def make_anchors(side, levels):
    """Centres and sizes (A, 2) of the anchors in pixels of the network's input, by level, row, column, shape."""
    centres, sizes = [], []
    for level in levels:
        middle = (np.arange(side // 2**level) + 0.5) * 2**level
        grid = np.stack(np.meshgrid(middle, middle), -1).reshape(-1, 1, 2)
        centres.append(np.repeat(grid, len(SHAPES), 1).reshape(-1, 2))
        sizes.append(np.tile(np.array(SHAPES) * 2 ** (level + 2), (len(grid), 1)))
    return np.concatenate(centres), np.concatenate(sizes)


def mirror_index(side, levels):
    """(A,) so that outputs of a mirrored picture, taken at this index, belong to the anchors of the picture."""
    parts, start = [], 0
    for cells in (side // 2**level for level in levels):
        index = np.arange(start, start + cells * cells * len(SHAPES)).reshape(cells, cells, -1)
        parts.append(index[:, ::-1].reshape(-1))
        start += index.size
    return np.concatenate(parts)


def best_anchors(scores, floor, most):
    """(score, anchor, class), each (n,), of the `most` best anchors of each class above the floor, best first."""
    found = []
    for label, column in enumerate(scores.T):
        anchor = np.flatnonzero(column > floor)
        anchor = anchor[np.argsort(-column[anchor], kind="stable")][:most]
        found.append((column[anchor], anchor, np.full(len(anchor), label)))
    score, anchor, label = map(np.concatenate, zip(*found))
    order = np.argsort(-score, kind="stable")
    return score[order], anchor[order], label[order]


def decide(candidates, category, frame, rule):
    """What Predictor gives, by the rule that step 05 has fitted (cxr/methods/detector/records.py says what its parts are for)."""
    centre, low, high, score, label = candidates
    log20, log80 = np.log(low), np.log(high)
    half = np.exp(log20 + rule["percentile_shrink"] * (log20 - log80)) / 2
    boxes = clip(np.concatenate([centre - half, centre + half], 1), frame)
    usable = (score > rule["score_floor"]) & (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    found = boxes[usable], score[usable], label[usable]
    if rule["merge"] == "wbf":
        found = fuse(*found, frame, rule["wbf_iou"])
    boxes, score, label = suppress(*found, rule["nms_iou"])
    kept = score >= score[:1] / 2 if rule["half"] else np.ones(len(score), bool)
    if rule["gate_weights"]:
        score = np.sqrt(score * np.dot(category, rule["gate_weights"]))
    middle, half = (
        (boxes[:, :2] + boxes[:, 2:]) / 2,
        (boxes[:, 2:] - boxes[:, :2]) / 2 * rule["scale"],
    )
    return {
        "boxes": clip(np.concatenate([middle - half, middle + half], 1), frame),
        "scores": score,
        "labels": label,
        "kept": kept & (score > np.array(rule["thresholds"])[label]),
        "category": category,
    }


def clip(boxes, frame):
    return np.clip(boxes, 0, np.array([*frame, *frame], np.float64))


def overlap(box, boxes):
    """IoU (n,) of a box with boxes (n, 4)."""
    inside = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = inside.clip(0).prod(1)
    return shared / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - shared)


def suppress(boxes, scores, labels, iou):
    """The three without boxes that overlap a better one of their class by more than `iou`, best first."""
    waiting, kept = np.argsort(-scores, kind="stable"), []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        near = overlap(boxes[best], boxes[waiting]) > iou
        waiting = waiting[~(near & (labels[waiting] == labels[best]))]
    return boxes[kept], scores[kept], labels[kept]


def fuse(boxes, scores, labels, frame, iou):
    """Weighted boxes fusion (Solovyev et al. 2021) of the best: a cluster's mean box with its best score.

    Done in shares of the frame and in the order of the package ensemble-boxes, to give its boxes.
    """
    size, fused = np.array([*frame, *frame], np.float64), []
    boxes, scores, labels = (
        boxes[:FUSED_AT_MOST] / size,
        scores[:FUSED_AT_MOST],
        labels[:FUSED_AT_MOST],
    )
    for label in dict.fromkeys(labels.tolist()):
        means, members = np.zeros((0, 4)), []
        for i in np.flatnonzero(labels == label):
            shares = overlap(boxes[i], means)
            if shares.max(initial=0) > iou:
                members[shares.argmax()].append(i)
                own = members[shares.argmax()]
                means[shares.argmax()] = np.average(boxes[own], axis=0, weights=scores[own])
            else:
                means, members = np.vstack([means, boxes[i]]), [*members, [i]]
        fused += [(mean, scores[own[0]], label) for mean, own in zip(means, members)]
    means, best, kinds = (np.array([row[part] for row in fused]) for part in range(3))
    order = np.argsort(-best, kind="stable")
    return clip(means.reshape(-1, 4)[order] * size, frame), best[order], kinds.astype(int)[order]


def read_xray(path):
    """Picture (height, width) uint8, bright = dense, as cxr/images/read.py gives it. Refused with the reason otherwise."""
    try:
        with open(path, "rb") as file:
            start = file.read(132)
        if start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
            return read_picture(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid UIDs, ages without unit: harmless, and common
            return read_dicom(path, start)
    except Refused as error:
        raise Refused(f"{path}: {error}") from None
    except Exception as error:  # decoders raise anything at all on damaged bytes
        reason = " ".join(str(error).split())[:200]
        raise Refused(f"{path}: cannot be decoded ({type(error).__name__}: {reason})") from None


def read_picture(path):
    picture = unpack(Path(path).read_bytes())
    if picture.ndim == 2:
        return picture if picture.dtype == np.uint8 else to_uint8(picture)
    picture = picture if picture.dtype == np.uint8 else (picture >> 8).astype(np.uint8)
    luma = picture[..., :3].astype(np.int64) @ [
        7471,
        38470,
        19595,
    ]  # blue, green, red of ITU-R 601, as Pillow's
    return ((luma + 0x8000) >> 16).astype(np.uint8)


def unpack(data):
    """Pixels of a PNG or JPEG, gray or BGR(A). Without its end OpenCV would fill it up with gray."""
    whole = any(end in data[-64:] for end in (b"IEND", b"\xff\xd9"))
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if whole else None
    if picture is None:
        raise Refused("is damaged or cut off: copy it again")
    return picture


def read_dicom(path, start):
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
        implicit, little = getattr(dataset, "original_encoding", None) or (
            dataset.is_implicit_VR,
            dataset.is_little_endian,
        )
        syntax = dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(
            PLAIN[0 if implicit else 1 if little else 3]
        )
    if syntax not in (*PLAIN, JPEG):
        raise Refused(
            f"is compressed as {syntax.name}, which needs more than numpy and OpenCV: decompress it first, "
            "such as with gdcmconv --raw"
        )
    stored = decode_jpeg(dataset) if syntax == JPEG else used_bits(dataset.pixel_array, dataset)
    return gray(stored, dataset)


def refuse_unknown(dataset):
    if "PixelData" not in dataset or not dataset.get("Rows") or not dataset.get("Columns"):
        raise Refused("is no DICOM, PNG or JPEG with integer pixels")
    if dataset.Rows * dataset.Columns > int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"]):
        raise Refused(f"states {dataset.Columns} x {dataset.Rows} pixels, and no X-ray has so many")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise Refused(f"holds {dataset.NumberOfFrames} frames, and an X-ray has one")
    kind = dataset.get("PhotometricInterpretation")
    if int(dataset.get("SamplesPerPixel") or 1) > 1 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise Refused(f"has colours ({kind}): store it as MONOCHROME2 or PNG first")
    if dataset.get("ModalityLUTSequence") or dataset.get("VOILUTSequence"):
        raise Refused(
            "has a lookup table, which only the full program reads: store it as PNG with 02_preprocess.py"
        )
    if not 1 < dataset.BitsStored <= dataset.BitsAllocated <= 16:
        raise Refused(
            f"has {dataset.BitsStored} bits in {dataset.BitsAllocated}, and 2 to 16 are read"
        )


def decode_jpeg(dataset):
    """Stored values of a single JPEG: the items behind the first one, which is the table of offsets, joined."""
    data, at, items = dataset.PixelData, 0, []
    while data[at : at + 4] == b"\xfe\xff\x00\xe0":
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        items.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    image = unpack(b"".join(items[1:]))
    if image.shape != (dataset.Rows, dataset.Columns) or image.dtype != np.uint8:
        raise Refused(
            "holds a JPEG of another kind or size than it states: store it as PNG with another program"
        )
    return image


def used_bits(stored, dataset):
    """Stored values (h, w) without what old files keep in the bits above BitsStored."""
    if stored.ndim != 2:
        raise Refused(f"has pixels of shape {stored.shape}, and a gray X-ray has two dimensions")
    spare = 8 * stored.dtype.itemsize - dataset.BitsStored
    return (stored << spare) >> spare


def gray(stored, dataset):
    """Stored values to uint8: rescale, window or full range, inversion, padding to black."""
    slope, intercept = (dataset.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
    rescaled = slope is not None and intercept is not None
    slope, intercept = (float(slope), float(intercept)) if rescaled else (1.0, 0.0)
    values, padding = stored * slope + intercept, padded(stored, dataset)
    image = windowed(values, dataset)
    if image is None or (np.ptp(image) == 0 and np.ptp(stored) > 0):
        real = values[~padding]
        if dataset.BitsStored == 8 and dataset.PixelRepresentation == 0:
            real = np.array([intercept, 255 * slope + intercept])
        image = to_uint8(values, *((real.min(), real.max()) if real.size else (0, 1)))
    inverse = (
        dataset.PhotometricInterpretation == "MONOCHROME1"
        or dataset.get("PresentationLUTShape") == "INVERSE"
    )
    return np.where(padding, np.uint8(0), 255 - image if inverse else image)


def padded(stored, dataset):
    """Mask of the pixels that are no image; none in 8 bits, where the value is also a true gray."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None or dataset.BitsStored == 8:
        return np.zeros(stored.shape, bool)
    low, high = sorted((value, value if limit is None else limit))
    return (stored >= low) & (stored <= high)


def windowed(values, dataset):
    """uint8 picture of the first window by DICOM PS3.3 C.11.2.1, None without one or with an impossible width."""
    centre, width = (first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    kind = dataset.get("VOILUTFunction") or "LINEAR"
    if centre is None or width is None or width < (1 if kind == "LINEAR" else 1e-9):
        return None
    if kind == "SIGMOID":
        share = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50)))
    elif kind == "LINEAR_EXACT":
        share = np.clip((values - centre) / width + 0.5, 0, 1)
    elif width == 1:
        share = values > centre - 0.5
    else:
        share = np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    return np.rint(255 * share).astype(np.uint8)


def first(value):
    """The first number of a DICOM element as float, None where it is empty."""
    value = value if isinstance(value, (str, float, int, type(None))) else next(iter(value), None)
    return None if value is None or str(value).strip() == "" else float(value)


def to_uint8(values, low=None, high=None):
    """low ... high (default: minimum ... maximum) to 0 ... 255, clipped; a constant image gives 0."""
    low, high = (
        float(values.min() if low is None else low),
        float(values.max() if high is None else high),
    )
    scale = 255 / (high - low) if high > low else 0.0
    return np.rint(np.clip((values.astype(np.float64) - low) * scale, 0, 255)).astype(np.uint8)


def resize(picture, side):
    """(h, w) to (side, side), averaging where it shrinks."""
    if picture.shape == (side, side):
        return picture
    grows = max(picture.shape) <= side
    return cv2.resize(
        picture, (side, side), interpolation=cv2.INTER_LINEAR if grows else cv2.INTER_AREA
    )


def find_files(paths):
    """[(name, path)] of the files and of all that is in the folders; the name says where below its folder."""
    found = []
    for path in map(Path, paths):
        if not path.exists():
            raise Refused(f"{path} is missing: give files or folders that are there")
        inside = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        found += (
            [(str(p.relative_to(path)), p) for p in inside if p.suffix.lower() not in NO_IMAGE]
            if path.is_dir()
            else [(path.name, path)]
        )
    names = [name for name, _ in found]
    twice = (
        next((name for name in names if names.count(name) > 1), None)
        if len(set(names)) < len(names)
        else None
    )
    if twice:
        raise Refused(
            f"two of the files are called {twice}: give the folder that holds both, or predict them apart"
        )
    return found


def report(name, picture, found, settings):
    """The entry of a file in predictions.json."""
    kept, names = found["kept"], settings["classes"]
    rows = zip(
        found["boxes"][kept].round(1).tolist(),
        found["scores"][kept].round(6).tolist(),
        found["labels"][kept],
    )
    return {
        "file": name,
        "width": picture.shape[1],
        "height": picture.shape[0],
        "image_classes": dict(
            zip(settings["image_classes"], found["category"].astype(float).round(6).tolist())
        ),
        "boxes": [
            {"label": names[label], "score": score, "box": box} for box, score, label in rows
        ],
    }


def draw(picture, entry):
    """Colour picture with the boxes of an entry and what they are."""
    canvas, unit = (
        cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR),
        max(1, round(max(picture.shape) / 500)),
    )
    for found in entry["boxes"]:
        x1, y1, x2, y2 = (round(value) for value in found["box"])
        cv2.rectangle(canvas, (x1, y1), (x2, y2), (0, 200, 255), unit)
        cv2.putText(
            canvas,
            f"{found['label']} {found['score']:.2f}",
            (x1, max(12 * unit, y1 - 3 * unit)),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.5 * unit,
            (0, 200, 255),
            unit,
        )
    cv2.putText(
        canvas,
        "not for diagnosis",
        (4 * unit, len(canvas) - 6 * unit),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.4 * unit,
        (190, 190, 190),
        unit,
    )
    return canvas


def write(path, text):
    """Write a file that is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.replace(temporary, path)


def as_csv(rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_all(out, entries, failed, settings):
    classes = [f"p_{name}" for name in settings["image_classes"]]
    rows = [["file", "width", "height", *classes, "label", "score", "x1", "y1", "x2", "y2"]]
    for entry in entries:
        facts = [entry["file"], entry["width"], entry["height"], *entry["image_classes"].values()]
        rows += [[*facts, box["label"], box["score"], *box["box"]] for box in entry["boxes"]] or [
            [*facts, *[""] * 6]
        ]
    write(out / "predictions.csv", as_csv(rows))
    write(out / "failed.csv", as_csv([("file", "reason"), *failed]))
    write(
        out / "predictions.json",
        json.dumps({"model": settings["name"], "images": entries}, indent=1) + "\n",
    )


def parse(arguments):
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


def main(arguments=None):
    """Predict all files. Raises Refused where nothing at all can be predicted."""
    args, entries, failed = parse(arguments), [], []
    files = find_files(args.inputs)
    predictor = Predictor(args.model, args.engine, args.flip, threads=args.threads)
    print(
        f"{args.model}: {predictor.engine_name}, {len(predictor.models)} models x {len(predictor.flips)} views"
    )
    for name, path in files:
        try:
            picture = read_xray(path)
        except Refused as error:
            failed.append((name, str(error)))
            print(error, file=sys.stderr)
            continue
        entries.append(report(name, picture, predictor(picture), predictor.settings))
        print(f"{name}: {len(entries[-1]['boxes'])} boxes")
        if args.overlay:
            write(
                args.out / "overlays" / f"{name}.png",
                cv2.imencode(".png", draw(picture, entries[-1]))[1].tobytes(),
            )
    write_all(args.out, entries, failed, predictor.settings)
    print(
        f"{len(entries)} images predicted, {len(failed)} not readable: {args.out / 'predictions.csv'}"
    )
    if not entries:
        raise Refused(
            f"none of the {len(files)} files could be predicted: see {args.out / 'failed.csv'}"
        )


if __name__ == "__main__":
    try:
        main()
    except Refused as error:
        sys.exit(f"error: {error}")
