"""A run as one ONNX file in fp32 and int8, and what each is worth on validation images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from cxr.data.dataset import read_png
from cxr.data.tables import read_table
from cxr.images.resize import resize
from cxr.inference.checkpoint import fingerprints
from cxr.inference.predictor import choose_folds, learned_labels
from cxr.inference.run import as_trained, fold_checkpoints, load_model, views_of
from cxr.methods.base import VIEW_SETS, Method
from cxr.methods.export import Difference
from cxr.networks.network import Network
from cxr.run_folder import RunFolder, TaskFolder
from cxr.settings import Settings
from cxr.steps.export.int8 import ScoreDistance, fit_thresholds, print_int8
from cxr.steps.export.ncnn_files import EngineCheck, write_ncnn
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

FORMAT = 3  # of the settings in the file; edge_predict.py says which ones it reads
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
VIEW_SETS_OF_A_FILE = ("none", "flip", "flips")  # of one image size
# Two LA264 cores of a Loongson 2K1000LA at 1 GHz, by ncnn's table of benchmarks: ResNet-18 at 224
# pixels, which are 3.6 GFLOP, in 0.47 s.
BOARD_GFLOPS = 8
CPU = torch.device("cpu")


class FilePredictor(Protocol):
    """edge_predict.open_predictor's: a file as a function of pictures, in two parts."""

    def look(self, picture: np.ndarray) -> Any: ...

    def answer(self, outputs: Any, frame: tuple[int, int]) -> dict[str, Any]: ...

    def self_test(self, names: list[str]) -> dict[str, list[float]]: ...


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
class DealtImages:
    """Rows of train.csv that calibrate int8, and other ones to judge the files on."""

    calibration: pd.DataFrame
    judged: pd.DataFrame


def export_run(
    task: Task, settings: Settings, open_file: PredictorFactory, why_not_engine: EngineCheck
) -> None:
    """Write <run>/<name>.onnx, <name>.int8.onnx and <name>.json, what they are worth; print it.

    Of each fold only the last checkpoint is taken unless --checkpoints says otherwise: a device
    without PyTorch is slow, and the earlier ones bring little. Nothing is done where the same
    checkpoints and parameters have been written already. `open_file` is open_predictor of
    edge_predict.py, so that a file is judged by the code that will use it; `why_not_engine`, too.
    """
    settings = without_scales(settings)
    run = RunFolder.of(settings.place)
    chosen = choose_checkpoints(task, settings)
    trained = as_trained(settings, task, run.fold(chosen[0].fold))
    task.method.export.check(trained)
    contents = describe_run(task, trained, chosen)
    files = ExportFiles.of(run, settings.place.fold)
    wanted = {"settings": contents, "judge_images": settings.extra.judge_images}
    if is_written(files, wanted):
        print(
            f"{files.fp32} is there, made from the same checkpoints and parameters: nothing to do"
        )
        if settings.extra.ncnn:
            write_ncnn(files.fp32, why_not_engine)
        return

    files.report.unlink(missing_ok=True)  # without it the files are not known to be whole
    train = task.select_rows(read_table(run.home.table("train")), trained)
    images = deal_images(settings, train)
    if run.is_unpacked:  # its networks may have learned any of the images that are here
        images = DealtImages(images.calibration, images.judged.head(0))
    parity = write_files(task, trained, files, chosen, images.calibration, contents, open_file)
    worth = judge_files(task, trained, files, images.judged, chosen, open_file)
    report = wanted | {
        "images": len(images.judged),
        "score_name": task.dataset.scorer.score_name,
        "parity": parity,
        **worth,
    }
    write_json(files.report, report)
    print_report(files, report)
    if settings.extra.ncnn:
        write_ncnn(files.fp32, why_not_engine)


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
    folds = settings.wanted_folds()
    if RunFolder.of(settings.place).is_unpacked:
        folds = choose_folds(settings)  # those that came along
    chosen = []
    for fold in folds:
        for path in fold_checkpoints(task, settings, fold):
            chosen.append(ChosenCheckpoint(fold, path))
    return chosen


def describe_run(
    task: Task, settings: Settings, chosen: Sequence[ChosenCheckpoint]
) -> dict[str, Any]:
    """All that a predictor must know beside the graph, as plain values."""
    run = RunFolder.of(settings.place)
    part = task.method.export
    judged = run.judged(settings.prediction.predictions)
    params = {}
    if judged.params.exists():
        params = read_json(judged.params)
    elif part.needs_params:
        raise InputError(
            f"{judged.params} is missing: run 05_postprocess.py first, which fits the thresholds"
        )
    labels = learned_labels(task, settings)
    network = load_model(task, chosen[0].path, CPU)
    views = VIEW_SETS[settings.prediction.tta]
    contents = {
        "format": FORMAT,
        "name": f"{task.name} {run.name}",
        "kind": part.kind,
        "checkpoints": fingerprints([each.path for each in chosen], run.path),
        "models": len(chosen),
        "folds": [each.fold for each in chosen],  # of the models
        "flip": any(view.mirrored for view in views),
        "upside_down": any(view.upside_down for view in views),
        "gflop": round(count_flop(network, task.method.export) / 1e9, 2),  # of one, and one view
        "image_size": settings.training.image_size,
        "input_scale": list(network.scale),  # of gray values in 0 ... 1; the graph applies it
        "stored_size": read_json(run.task.preprocess_record)["size"],
        "classes": list(labels.classes),
        "image_classes": list(labels.image_classes),
    }
    used_labels = task.used_labels(settings)
    return contents | part.describe(network, params, settings, used_labels, task.dataset.scorer)


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
) -> dict[str, Any]:
    """Write both files. Returns how far the first is from PyTorch, and on how many images.

    RuntimeError where that is too far.
    """
    folder = RunFolder.of(settings.place).home
    networks = [load_model(task, each.path, CPU) for each in chosen]
    pictures = [read_png(folder.image(image_id)) for image_id in calibration["image_id"]]
    print(
        f"{files.fp32}: writing {len(networks)} networks, in int8 with the ranges of "
        f"{len(pictures)} images",
        flush=True,
    )
    contents = {**contents, "code": git_commit()}
    write_fp32(files.fp32, networks, contents, task.method.export)
    names = output_names(task.method.export, 1)
    add_self_test(files.fp32, contents, open_file, names, FP32_CORRELATION, FP32_CORRELATION)

    longer_sides = calibration[["width", "height"]].to_numpy().max(1)
    comparison = PyTorchComparison(task.method, networks, settings)
    file = open_file(files.fp32)
    differences = []
    for picture, longer_side in zip(pictures[:COMPARED], longer_sides, strict=False):
        differences.append(comparison.compare(file, picture, float(longer_side)))
    parity = describe_parity(differences)
    if parity.get("pixels", 0) > MOST_PIXELS or parity["score"] > MOST_SCORE:
        files.fp32.unlink()
        raise RuntimeError(
            f"the ONNX file differs from PyTorch by {parity}: this pair of torch and onnxruntime, "
            "or this encoder, cannot be used; the file was removed"
        )
    side = contents["image_size"]
    inputs = [resize(picture, side) for picture in pictures]
    write_int8(files.int8, files.fp32, inputs, contents)
    add_self_test(files.int8, contents, open_file, names, INT8_CORRELATION, INT8_BOX_CORRELATION)
    return parity


def describe_parity(differences: Sequence[Difference]) -> dict[str, Any]:
    """{"images", "score", "mean_score"}, largest and mean differences over some images, and
    "pixels" where there are boxes."""
    parity = {
        "images": len(differences),
        "score": max(each.score for each in differences),
        "mean_score": float(np.mean([each.mean_score for each in differences])),
    }
    pixels = [each.pixels for each in differences if each.pixels is not None]
    if pixels:
        parity["pixels"] = max(pixels)
    return parity


def add_self_test(
    path: Path,
    contents: Mapping[str, Any],
    open_file: PredictorFactory,
    names: list[str],
    correlation: float,
    box_correlation: float,
) -> None:
    """Put into the file what its first network says of a drawn picture.

    By it edge_predict.py finds out on a device whether an engine is right.
    """
    wanted = {}
    for name in names:
        wanted[name] = box_correlation if name.startswith("deltas") else correlation
    test = {"correlation": wanted, "outputs": open_file(path).self_test(names)}
    replace_settings(path, {**contents, "self_test": test})


class PyTorchComparison:
    """The networks in PyTorch, to compare a file with."""

    def __init__(self, method: Method, networks: Sequence[Network], settings: Settings) -> None:
        self.method = method
        self.networks = networks
        self.settings = settings
        self.views = views_of(method, settings.prediction)

    def compare(self, file: FilePredictor, picture: np.ndarray, longer_side: float) -> Difference:
        """Of a stored picture (s, s) whose original's longer side has so many pixels."""
        network = self.networks[0]
        with torch.inference_mode():
            difference = self.method.export.compare(
                file.look(picture), self.outputs_of(picture), network, self.settings
            )
        if difference.pixels is None:
            return difference
        scale = longer_side / network.image_size
        return replace(difference, pixels=difference.pixels * scale)

    def outputs_of(self, picture: np.ndarray) -> list[Any]:
        """What each network says of each view, brought back to the picture."""
        image = torch.from_numpy(resize(picture, self.networks[0].image_size))[None, None]
        outputs = []
        for view in self.views:
            for network in self.networks:
                shown = self.method.apply_view(image, view, network)
                outputs.append(self.method.undo_view(network(shown), view, network))
        return outputs


def judge_files(
    task: Task,
    settings: Settings,
    files: ExportFiles,
    judged: pd.DataFrame,
    chosen: Sequence[ChosenCheckpoint],
    open_file: PredictorFactory,
) -> dict[str, dict[str, Any]]:
    """{number format: {"score", "bytes"}} on the judged rows, and how far int8 is from fp32.

    Each row is predicted only by the networks that never saw it. Without rows there is no score.
    The int8 file gets thresholds of its own, where boxes or masks are kept by thresholds.
    """
    folder = TaskFolder.of(settings.place)
    part = task.method.export
    worth: dict[str, dict[str, Any]] = {}
    for name, path in files.models().items():
        worth[name] = {"score": None, "bytes": path.stat().st_size}
    if judged.empty:
        worth["int8"] |= ScoreDistance().describe()
        return worth
    kept: dict[str, list[Any]] = {name: [] for name in files.models()}
    judged_parts = []
    distance = ScoreDistance()
    for fold in settings.wanted_folds():
        rows = judged[judged["fold"] == fold]
        judged_parts.append(rows)
        numbers = [number for number, each in enumerate(chosen) if each.fold == fold]
        predictors = {}
        for name, path in files.models().items():
            predictors[name] = open_file(path, models=numbers)
        title = f"{files.fp32.name}, fold {fold}"
        for _, row in tqdm(rows.iterrows(), total=len(rows), desc=title, mininterval=5):
            picture = read_png(folder.image(row["image_id"]))
            frame = (int(row["width"]), int(row["height"]))
            outputs = {name: predictor.look(picture) for name, predictor in predictors.items()}
            for name, predictor in predictors.items():
                answer = predictor.answer(outputs[name], frame)
                kept[name].append(part.keep(row, answer))
            distance.add(part.compared_scores(**outputs))

    table = pd.concat(judged_parts)
    labels = task.used_labels(settings)
    for name, answers in kept.items():
        worth[name]["score"] = part.score(answers, table, settings, labels, task.dataset.scorer)
    worth["int8"] |= distance.describe()
    thresholds = fit_thresholds(files.int8, part, kept)
    if thresholds is not None:
        worth["fp32"]["thresholds"] = thresholds.fp32
        worth["int8"]["thresholds"] = thresholds.int8
        worth["int8"]["score_with_those_of_fp32"] = worth["int8"]["score"]
        answers = thresholds.int8_answers
        worth["int8"]["score"] = part.score(answers, table, settings, labels, task.dataset.scorer)
    return worth


def print_report(files: ExportFiles, report: Mapping[str, Any]) -> None:
    """What the files are worth, for the console."""
    parity = report["parity"]
    words = f"{parity['score']:.2g} of a probability (mean {parity['mean_score']:.2g})"
    if "pixels" in parity:
        words = f"{parity['pixels']:.2g} pixels and {words}"
    print(f"fp32 is PyTorch within {words}")
    if not report["images"]:
        print("not judged: whether its networks have learned the images that are here is not known")
    print(
        f"{report['score_name']} on {report['images']} validation images, each predicted by the "
        "networks that never saw it:"
    )
    for number_format, path in files.models().items():
        score = report[number_format]["score"]
        words = "not defined" if score is None else f"{score:.4f}"
        mebibytes = report[number_format]["bytes"] / 2**20
        print(f"  {number_format} {words}, {mebibytes:.1f} MiB: {path}")
    print_int8(report["int8"], report["fp32"])
    settings = report["settings"]
    views = (1 + settings["flip"]) * (1 + settings["upside_down"])
    networks = settings["models"]
    gflop = settings["gflop"]
    image_gflop = gflop * networks * views
    print(
        f"an image takes {image_gflop:.1f} GFLOP: {networks} networks x {views} views x "
        f"{gflop:.1f}; on a board of two cores at 1 GHz about {image_gflop / BOARD_GFLOPS:.1f} s "
        "(an estimate)"
    )
    print(f"written to {files.report}; edge_predict.py uses these files without PyTorch")
