"""A run as one ONNX file in fp32 and int8, and what each is worth on validation images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from cxr.data.dataset import boxes_in_frame, read_png
from cxr.data.tables import read_table
from cxr.geometry.anchors import decode_boxes
from cxr.geometry.frames import Frame
from cxr.images.resize import resize
from cxr.inference.checkpoint import fingerprints
from cxr.inference.predictor import learned_labels
from cxr.inference.run import as_trained, fold_checkpoints, load_model, views_of
from cxr.methods.base import Method
from cxr.methods.detector.box_scorer import BoxScorer
from cxr.methods.detector.heads import ViewOutputs
from cxr.methods.detector.method import as_detector
from cxr.networks.detector import DetectorNetwork
from cxr.run_folder import RunFolder, TaskFolder
from cxr.settings import Settings
from cxr.steps.export.onnx_files import (
    count_flop,
    output_names,
    replace_settings,
    write_fp32,
    write_int8,
)
from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError
from cxr.system.manifest import git_commit
from cxr.tasks import Task

FORMAT = 2  # of the settings in the file; edge_predict.py says which ones it reads
CALIBRATION = 48  # training images on which int8 finds its ranges; they are not judged
COMPARED = 4  # of them: where file and PyTorch must agree
# How much they may differ: in original pixels, and in probability.
MOST_PIXELS = 0.5
MOST_SCORE = 1e-3
# Correlation that an engine must reach with the answers that stand in the file. Right ones had at
# least 0.99999 with fp32; with int8, which each rounds in its own way, 0.991 of scores and 0.980 of
# boxes with random weights and 0.9998 with trained ones. Scores that were computed wrongly: 0.972.
FP32_CORRELATION = 0.999
INT8_CORRELATION = 0.98
INT8_BOX_CORRELATION = 0.95
VIEW_SETS_OF_A_FILE = ("none", "flip")  # of one image size
CPU = torch.device("cpu")


class FilePredictor(Protocol):
    """edge_predict.Predictor: a file as a function of pictures."""

    def look(self, picture: np.ndarray) -> Any: ...

    def self_test(self, names: list[str]) -> dict[str, list[float]]: ...

    def __call__(self, picture: np.ndarray, frame: tuple[int, int]) -> dict[str, np.ndarray]: ...


class PredictorFactory(Protocol):
    """Opens a file; `models`: only these of its merged networks, by number."""

    def __call__(self, path: Path, *, models: Sequence[int] | None = None) -> FilePredictor: ...


class ChosenCheckpoint(NamedTuple):
    """A network of the file and the fold whose images it has not learned."""

    fold: int
    path: Path


@dataclass(frozen=True)
class ExportFiles:
    """What is written: both model files, and a report that is written last."""

    fp32: Path
    int8: Path
    report: Path

    @classmethod
    def of(cls, run: RunFolder, fold: int | None) -> ExportFiles:
        """Their names begin with `merged`, or `fold<k>` of a single fold."""
        name = "merged" if fold is None else f"fold{fold}"
        return cls(
            run.path / f"{name}.onnx", run.path / f"{name}.int8.onnx", run.path / f"{name}.json"
        )

    def models(self) -> dict[str, Path]:
        """{number format: path}."""
        return {"fp32": self.fp32, "int8": self.int8}


@dataclass(frozen=True)
class Difference:
    """Largest differences of two predictors: of box corners in original pixels, and of scores."""

    pixels: float = 0.0
    score: float = 0.0

    def or_larger(self, other: Difference) -> Difference:
        """The larger one of each."""
        return Difference(max(self.pixels, other.pixels), max(self.score, other.score))


@dataclass(frozen=True)
class DealtImages:
    """Rows of train.csv that calibrate int8, and other ones to judge the files on."""

    calibration: pd.DataFrame
    judged: pd.DataFrame


def export_run(task: Task, settings: Settings, open_file: PredictorFactory) -> None:
    """Write <run>/<name>.onnx, <name>.int8.onnx and <name>.json, what they are worth; print it.

    Of each fold only the last checkpoint is taken unless --checkpoints says otherwise: a device
    without PyTorch is slow, and the earlier ones bring little. Nothing is done where the same
    checkpoints and parameters have been written already. `open_file` is edge_predict.Predictor,
    so that a file is judged by the code that will use it.
    """
    refuse_other_networks(task)
    settings = without_scales(settings)
    run = RunFolder.of(settings.place)
    chosen = choose_checkpoints(task, settings)
    trained = as_trained(settings, task, run.fold(chosen[0].fold))
    contents = describe_run(task, trained, chosen)
    files = ExportFiles.of(run, settings.place.fold)
    wanted = {"settings": contents, "judge_images": settings.extra.judge_images}
    if is_written(files, wanted):
        print(
            f"{files.fp32} is there, made from the same checkpoints and parameters: nothing to do"
        )
        return

    files.report.unlink(missing_ok=True)  # without it the files are not known to be whole
    train = task.select_rows(read_table(run.task.table("train")), trained)
    images = deal_images(settings, train)
    difference = write_files(task, trained, files, chosen, images.calibration, contents, open_file)
    worth = {}
    for number_format, path in files.models().items():
        worth[number_format] = judge_file(task, trained, path, images.judged, chosen, open_file)
    report = wanted | {
        "images": len(images.judged),
        "score_name": task.dataset.scorer.score_name,
        "parity": {"pixels": difference.pixels, "score": difference.score},
        **worth,
    }
    write_json(files.report, report)
    print_report(files, report)


def refuse_other_networks(task: Task) -> None:
    """InputError for networks whose outputs edge_predict.py cannot read."""
    if task.method_name != "detector":
        raise InputError(
            f"{task.name} does not look for boxes, and only detectors are exported: choose another "
            "--task"
        )


def without_scales(settings: Settings) -> Settings:
    """The settings without larger and smaller views, where no flag asks for them."""
    if settings.prediction.tta != "flip+scale" or "tta" in settings.given:
        return settings
    print(
        "larger and smaller views are left out, since the size of the image is fixed in an ONNX "
        "file"
    )
    return settings.replace(tta="flip")


def choose_checkpoints(task: Task, settings: Settings) -> list[ChosenCheckpoint]:
    """What is merged. InputError where a fold is not trained or the views cannot be had."""
    tta = settings.prediction.tta
    if tta not in VIEW_SETS_OF_A_FILE:
        raise InputError(
            f"--tta {tta} changes the size of the image, which is fixed in an ONNX file: use --tta "
            "flip or none"
        )
    if "checkpoints" not in settings.given:
        settings = settings.replace(checkpoints=1)
    chosen = []
    for fold in settings.wanted_folds():
        for path in fold_checkpoints(task, settings, fold):
            chosen.append(ChosenCheckpoint(fold, path))
    return chosen


def describe_run(
    task: Task, settings: Settings, chosen: Sequence[ChosenCheckpoint]
) -> dict[str, Any]:
    """All that a predictor must know beside the graph, as plain values."""
    run = RunFolder.of(settings.place)
    judged = run.judged(settings.prediction.predictions)
    if not judged.params.exists():
        raise InputError(
            f"{judged.params} is missing: run 05_postprocess.py first, which fits the thresholds"
        )
    labels = learned_labels(task, settings)
    network = as_detector(load_model(task, chosen[0].path, CPU))
    rule = box_scorer(task).export_rule(read_json(judged.params), settings, labels)
    return {
        "format": FORMAT,
        "name": f"{task.name} {run.name}",
        "checkpoints": fingerprints([each.path for each in chosen], run.path),
        "models": len(chosen),
        "folds": [each.fold for each in chosen],  # of the models
        "size_votes": settings.method.size_votes,
        "flip": settings.prediction.tta == "flip",
        "gflop": round(count_flop(network) / 1e9, 2),  # of one network and view
        "image_size": settings.training.image_size,
        "head": network.head_name,
        "levels": list(network.levels),  # as JSON gives them back
        "input_scale": list(network.scale),  # of gray values in 0 ... 1; the graph applies it
        "stored_size": read_json(run.task.preprocess_record)["size"],
        "classes": list(labels.classes),
        "image_classes": list(labels.image_classes),
        "floor": settings.method.candidate_floor,
        "most": settings.method.candidates,
        "rule": rule,
    }


def box_scorer(task: Task) -> BoxScorer:
    """The scorer of a detection task."""
    scorer = task.dataset.scorer
    assert isinstance(scorer, BoxScorer)
    return scorer


def is_written(files: ExportFiles, wanted: Mapping[str, Any]) -> bool:
    """Whether files of the same contents are there, whole."""
    if not all(path.exists() for path in (files.fp32, files.int8, files.report)):
        return False
    report = read_json(files.report)
    return all(report.get(name) == value for name, value in wanted.items())


def deal_images(settings: Settings, train: pd.DataFrame) -> DealtImages:
    """Of the judged images each wanted fold has its share.

    A file of one fold is calibrated on images it was trained with. In a merged file all images are
    both, so those that calibrate are taken out of the judged ones.
    """
    rng = np.random.default_rng(settings.data.seed)
    folds = settings.wanted_folds()
    learned = train[train["fold"] != settings.place.fold]
    count = min(CALIBRATION, -(-len(learned) // 4))
    calibration = learned.loc[rng.permutation(learned.index)[:count]]

    rest = train.drop(index=calibration.index)
    share = -(-settings.extra.judge_images // len(folds))
    judged: list[Any] = []
    for fold in folds:
        of_fold = rest[rest["fold"] == fold]
        judged += list(rng.permutation(of_fold.index)[:share])
    return DealtImages(calibration, train.loc[judged])


def write_files(
    task: Task,
    settings: Settings,
    files: ExportFiles,
    chosen: Sequence[ChosenCheckpoint],
    calibration: pd.DataFrame,
    contents: Mapping[str, Any],
    open_file: PredictorFactory,
) -> Difference:
    """Write both files. Returns how far the first is from PyTorch.

    RuntimeError where that is too far.
    """
    folder = RunFolder.of(settings.place).task
    networks = [as_detector(load_model(task, each.path, CPU)) for each in chosen]
    pictures = [read_png(folder.image(image_id)) for image_id in calibration["image_id"]]
    print(
        f"{files.fp32}: writing {len(networks)} networks, in int8 with the ranges of "
        f"{len(pictures)} images",
        flush=True,
    )
    contents = {**contents, "code": git_commit()}
    write_fp32(files.fp32, networks, contents)
    add_self_test(files.fp32, contents, open_file, FP32_CORRELATION, FP32_CORRELATION)

    longer_sides = calibration[["width", "height"]].to_numpy().max(1)
    comparison = PyTorchComparison(task.method, networks, settings)
    difference = comparison.largest(
        open_file(files.fp32), pictures[:COMPARED], longer_sides[:COMPARED]
    )
    if difference.pixels > MOST_PIXELS or difference.score > MOST_SCORE:
        files.fp32.unlink()
        raise RuntimeError(
            f"the ONNX file differs from PyTorch by {difference}: this pair of torch and "
            "onnxruntime, or this encoder, cannot be used; the file was removed"
        )
    side = contents["image_size"]
    inputs = [resize(picture, side) for picture in pictures]
    write_int8(files.int8, files.fp32, inputs, contents)
    add_self_test(files.int8, contents, open_file, INT8_CORRELATION, INT8_BOX_CORRELATION)
    return difference


def add_self_test(
    path: Path,
    contents: Mapping[str, Any],
    open_file: PredictorFactory,
    correlation: float,
    box_correlation: float,
) -> None:
    """Put into the file what its first network says of a drawn picture.

    By it edge_predict.py finds out on a device whether an engine is right.
    """
    names = output_names(1)
    wanted = {}
    for name in names:
        wanted[name] = box_correlation if name.startswith("deltas") else correlation
    test = {"correlation": wanted, "outputs": open_file(path).self_test(names)}
    replace_settings(path, {**contents, "self_test": test})


class PyTorchComparison:
    """The networks in PyTorch, to compare a file with."""

    def __init__(
        self, method: Method, networks: Sequence[DetectorNetwork], settings: Settings
    ) -> None:
        self.method = method
        self.networks = networks
        self.views = views_of(method, settings.prediction)
        self.floor = settings.method.candidate_floor

    @torch.inference_mode()
    def largest(
        self,
        file: FilePredictor,
        pictures: Sequence[np.ndarray],
        longer_sides: Sequence[int] | np.ndarray,
    ) -> Difference:
        """Over stored pictures (s, s) whose originals have these longer sides in pixels."""
        largest = Difference()
        for picture, longer_side in zip(pictures, longer_sides, strict=True):
            largest = largest.or_larger(self.compare(file, picture, float(longer_side)))
        return largest

    def compare(self, file: FilePredictor, picture: np.ndarray, longer_side: float) -> Difference:
        """Of one picture: box corners of the anchors above the floor, and all probabilities."""
        outputs = self.outputs_of(picture)
        scores = torch.stack([each.scores[0] for each in outputs]).mean(0)
        category = torch.stack([each.category[0] for each in outputs]).mean(0)
        of_file = file.look(picture)
        score_difference = max(
            largest_difference(of_file.scores, scores),
            largest_difference(of_file.category, category),
        )

        anchors = self.networks[0].anchors
        shown = (scores.amax(1) > self.floor).nonzero()[:, 0]
        pixels = 0.0
        for deltas, each in zip(of_file.deltas, outputs, strict=True):
            boxes = decode_boxes(torch.from_numpy(deltas)[shown], anchors[shown])
            own_boxes = decode_boxes(each.deltas_at(0 * shown, shown), anchors[shown])
            if len(shown):
                pixels = max(pixels, (boxes - own_boxes).abs().amax().item())
        scale = longer_side / self.networks[0].image_size
        return Difference(pixels * scale, score_difference)

    def outputs_of(self, picture: np.ndarray) -> list[ViewOutputs]:
        """What each network says of each view, brought back to the picture."""
        image = torch.from_numpy(resize(picture, self.networks[0].image_size))[None, None]
        outputs = []
        for view in self.views:
            for network in self.networks:
                shown = self.method.apply_view(image, view, network)
                outputs.append(self.method.undo_view(network(shown), view, network))
        return outputs


def largest_difference(of_file: np.ndarray, of_networks: Tensor) -> float:
    return (torch.from_numpy(of_file) - of_networks).abs().max().item()


def judge_file(
    task: Task,
    settings: Settings,
    path: Path,
    judged: pd.DataFrame,
    chosen: Sequence[ChosenCheckpoint],
    open_file: PredictorFactory,
) -> dict[str, Any]:
    """{"score", "bytes"} of a file on the judged rows.

    Each row is predicted only by the networks that never saw it.
    """
    folder = TaskFolder.of(settings.place)
    truth = {}
    detections = {}
    for fold in settings.wanted_folds():
        rows = judged[judged["fold"] == fold]
        numbers = [number for number, each in enumerate(chosen) if each.fold == fold]
        predict = open_file(path, models=numbers)
        name = f"{path.name}, fold {fold}"
        for _, row in tqdm(rows.iterrows(), total=len(rows), desc=name, mininterval=5):
            image_id = row["image_id"]
            width = int(row["width"])
            height = int(row["height"])
            truth[image_id] = boxes_in_frame(row, Frame("original", width, height))
            detections[image_id] = predict(read_png(folder.image(image_id)), (width, height))
    labels = task.used_labels(settings)
    score = box_scorer(task).score_exported(truth, detections, labels)
    return {"score": score, "bytes": path.stat().st_size}


def print_report(files: ExportFiles, report: Mapping[str, Any]) -> None:
    """What the files are worth, for the console."""
    parity = report["parity"]
    print(
        f"fp32 is PyTorch within {parity['pixels']:.2g} pixels and {parity['score']:.2g} of a "
        "probability"
    )
    print(
        f"{report['score_name']} on {report['images']} validation images, each predicted by the "
        "networks that never saw it:"
    )
    for number_format, path in files.models().items():
        score = report[number_format]["score"]
        words = "not defined" if score is None else f"{score:.4f}"
        mebibytes = report[number_format]["bytes"] / 2**20
        print(f"  {number_format} {words}, {mebibytes:.1f} MiB: {path}")
    settings = report["settings"]
    views = 1 + settings["flip"]
    networks = settings["models"]
    gflop = settings["gflop"]
    print(
        f"an image takes {gflop * networks * views:.1f} GFLOP: {networks} networks x {views} views "
        f"x {gflop:.1f}"
    )
    print(f"written to {files.report}; edge_predict.py uses these files without PyTorch")
