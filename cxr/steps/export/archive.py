"""A run as one file: its networks, settings, thresholds, results and model card.

`cxr/inference/run_archive.py` says what is where in it, and reads it.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cxr.data.dataset import read_png
from cxr.data.tables import read_table
from cxr.inference.checkpoint import load_state
from cxr.inference.lung_crops import LUNGS_TASK, last_checkpoints
from cxr.inference.open_run import OpenRun, read_run
from cxr.inference.predictor import Predictor, choose_folds
from cxr.inference.results import BoxResult, MaskResult, Result
from cxr.inference.run import as_trained, fold_checkpoints
from cxr.inference.run_archive import FORMAT, RECORD, unpack_run
from cxr.plots.page import count_of
from cxr.run_folder import DEFAULT_PREDICTIONS, FoldFolder, JudgedFolder, RunFolder
from cxr.settings import Settings
from cxr.system.disk import atomic, read_json, sha256_of
from cxr.system.errors import InputError
from cxr.system.manifest import git_commit
from cxr.tasks import Task

COMPARED = 16  # pictures on which the file's scores are compared with the run's
# What prediction needs of a checkpoint.
PARTS = ("task", "config", "fold", "epoch", "input_scale", "model")
# Settings that say where something was on one machine, and what a call asked for.
LEFT_OUT = ("input", "working", "out", "images", "submit")
LARGEST_HALF = torch.finfo(torch.float16).max
DATE = (1980, 1, 1, 0, 0, 0)  # of every entry, so that the same run gives the same bytes


class ArchivedNetwork(NamedTuple):
    """A checkpoint of the run, and its name in the archive."""

    path: Path
    name: str


@dataclass(frozen=True)
class Contents:
    """What goes into an archive: networks, and {name: text} of all other files."""

    task: str
    run: str
    networks: Sequence[ArchivedNetwork]
    texts: Mapping[str, str]


class Comparison(NamedTuple):
    """Largest difference of any score, of so many pictures."""

    pictures: int
    difference: float


def archive_run(task: Task, settings: Settings) -> Path:
    """Write <run>.zip, open it again, and print what it weighs and how far its scores are.

    It holds the checkpoints that step 04 would use, of all trained folds or of --fold. Raises
    InputError where something of it is missing.
    """
    run = RunFolder.of(settings.place)
    contents = collect_contents(task, settings, run)
    with atomic(run.archive) as temporary:
        weights = write_archive(temporary, contents, settings.extra.half)
    comparison = compare_with_run(task, settings, run)
    mib = run.archive.stat().st_size / 2**20
    print(
        f"{run.archive}: {count_of(len(contents.networks), ('network', 'networks'))}, "
        f"{weights / 1e6:.1f} million weights, {mib:.1f} MiB"
    )
    if comparison.pictures:
        print(
            f"its scores of {comparison.pictures} images differ from the run's by at most "
            f"{comparison.difference:.2g}"
        )
    else:
        print(f"its scores were not compared with the run's: no pictures are in {run.home.images}")
    return run.archive


def collect_contents(task: Task, settings: Settings, run: RunFolder) -> Contents:
    """Networks and texts of a run, and of the run of its --lungs."""
    if settings.prediction.merge:
        raise InputError("--zip holds one run: leave --merge out")
    folds = choose_folds(settings)
    trained = as_trained(settings, task, run.fold(folds[0]))
    folder = f"{task.name}/{run.name}"
    judged = run.judged(settings.prediction.predictions)
    texts = judged_texts(judged, folder)
    gate_run = read_json(judged.params).get("gate_run", "")
    if gate_run:
        raise InputError(
            f"--zip holds one run, and {judged.params} needs the classes of {gate_run}, too: run "
            "05_postprocess.py again without --gate"
        )
    networks = []
    for number in folds:
        fold = run.fold(number)
        for path in fold_checkpoints(task, settings, number):
            networks.append(ArchivedNetwork(path, f"{folder}/{fold.path.name}/{path.name}"))
        config = config_for_prediction(trained.replace(fold=number))
        texts[f"{folder}/{fold.path.name}/config.json"] = as_text(config)
    size = read_json(run.task.preprocess_record)["size"]
    texts[f"{task.name}/preprocess.json"] = as_text({"size": size})

    lungs = trained.method.lungs
    if lungs:
        finder = run.task.sibling(LUNGS_TASK).run(lungs)
        for path in last_checkpoints(finder):
            fold = FoldFolder(path.parent)
            inside = f"{LUNGS_TASK}/{lungs}/{fold.path.name}"
            networks.append(ArchivedNetwork(path, f"{inside}/{path.name}"))
            texts[f"{inside}/config.json"] = as_text(without_places(fold.read_config()))
    return Contents(task.name, run.name, networks, texts)


def judged_texts(judged: JudgedFolder, folder: str) -> dict[str, str]:
    """{name in the archive: text} of what step 05 wrote. Raises InputError where it is missing."""
    texts = {}
    for path in (judged.params, judged.results, judged.model_card):
        if not path.exists():
            raise InputError(f"{path} is missing: run 05_postprocess.py first, which writes it")
        texts[f"{folder}/{path.name}"] = path.read_text(encoding="utf-8")
    return texts


def config_for_prediction(settings: Settings) -> dict[str, Any]:
    """The record of a fold, with the views of now, under the usual names."""
    usual = settings.replace(
        predictions=DEFAULT_PREDICTIONS, checkpoints=0, merge=(), partial=False
    )
    return without_places(usual.plain())


def without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """A record without folders of this machine; of a file in it only the name is left."""
    kept = {}
    for name, value in config.items():
        if name in LEFT_OUT:
            continue
        if isinstance(value, str):
            value = value.replace("\\", "/").rpartition("/")[2]
        kept[name] = value
    return kept


def as_text(content: Any) -> str:
    return json.dumps(content, indent=1) + "\n"


def write_archive(path: Path, contents: Contents, half: bool) -> int:
    """Write the file, archive.json last. Returns how many weights it holds.

    Of each network the record also has the check sum of the checkpoint it was made from, which is
    that of the model card.
    """
    files = {}
    origins = {}
    weights = 0
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in contents.texts.items():
            files[name] = add_file(archive, name, text.encode())
        for network in contents.networks:
            state = archived_state(network.path, half)
            weights += sum(tensor.numel() for tensor in state["model"].values())
            files[network.name] = add_file(archive, network.name, state_bytes(state))
            origins[network.name] = sha256_of(network.path)
        record = {
            "format": FORMAT,
            "task": contents.task,
            "run": contents.run,
            "code": git_commit(),
            "half": half,
            "files": files,
            "made_from": origins,
        }
        add_file(archive, RECORD, as_text(record).encode())
    return weights


def add_file(archive: zipfile.ZipFile, name: str, content: bytes) -> dict[str, Any]:
    """Add a file; returns its entry of archive.json."""
    info = zipfile.ZipInfo(name, DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    archive.writestr(info, content)
    check_sum = hashlib.sha256(content).hexdigest()
    return {"bytes": len(content), "sha256": check_sum}


def archived_state(path: Path, half: bool) -> dict[str, Any]:
    """The parts of a checkpoint that prediction needs, without folders of this machine."""
    state = load_state(path)
    kept = {name: state[name] for name in PARTS if name in state}
    kept["config"] = without_places(kept["config"])
    if half:
        kept["model"] = {name: as_half(tensor) for name, tensor in kept["model"].items()}
    return kept


def as_half(tensor: Tensor) -> Tensor:
    """Weights of convolutions and layers in fp16.

    What has one dimension (biases, normalisation and its statistics) is one in a hundred numbers
    and stays as it is, and so do weights that are too large.
    """
    if not tensor.is_floating_point() or tensor.ndim < 2:
        return tensor
    if tensor.abs().amax() > LARGEST_HALF:
        return tensor
    return tensor.half()


def state_bytes(state: Mapping[str, Any]) -> bytes:
    """A checkpoint as `load_state` reads it."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def compare_with_run(task: Task, settings: Settings, run: RunFolder) -> Comparison:
    """How far the scores of the written file are from those of the run, both in fp32."""
    pictures = list(some_pictures(run))
    if not pictures:
        return Comparison(0, 0.0)
    own = OpenRun(Predictor(task, settings.replace(precision="fp32"))).predict(pictures)
    with tempfile.TemporaryDirectory() as folder:
        unpacked = unpack_run(run.archive, Path(folder))
        _, stored = read_run(unpacked)
        stored = stored.replace(device=settings.machine.device, precision="fp32")
        of_file = OpenRun(Predictor(task, stored)).predict(pictures)
    difference = 0.0
    for one, other in zip(own, of_file, strict=True):
        difference = max(difference, largest_difference(one, other))
    return Comparison(len(pictures), difference)


def some_pictures(run: RunFolder) -> Iterator[np.ndarray]:
    """Yield stored pictures of train.csv, spread over it; none where step 02 has left none here."""
    folder = run.home
    if not folder.table("train").exists():
        return
    image_ids = read_table(folder.table("train"))["image_id"]
    places = np.linspace(0, len(image_ids) - 1, min(COMPARED, len(image_ids))).astype(int)
    for image_id in image_ids.iloc[places]:
        if folder.image(image_id).exists():
            yield read_png(folder.image(image_id))


def largest_difference(one: Result, other: Result) -> float:
    """Of two results of an image: of class probabilities, box scores by rank, and pixels."""
    differences = [abs(one.score - other.score)]
    for name, probability in one.probabilities.items():
        differences.append(abs(probability - other.probabilities[name]))
    if isinstance(one, BoxResult) and isinstance(other, BoxResult):
        count = min(len(one.detections), len(other.detections))
        by_rank = one.detections.scores[:count] - other.detections.scores[:count]
        differences.append(float(np.abs(by_rank).max(initial=0)))
    if isinstance(one, MaskResult) and isinstance(other, MaskResult):
        pixels = one.mask_probabilities - other.mask_probabilities
        differences.append(float(np.abs(pixels).max(initial=0)))
    return max(differences)
