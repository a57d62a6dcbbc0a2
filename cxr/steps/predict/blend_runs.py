"""Step 04 of a blend: the kept predictions of finished runs, mixed image by image.

Nothing is predicted here, so members may have any network. The out-of-fold predictions of a fold
are mixed with those of the same fold, so each image is still predicted only by models that never
saw it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxr.data.predictions import (
    PART,
    is_whole,
    part_count,
    part_path,
    read_predictions,
    write_part,
)
from cxr.data.tables import read_table
from cxr.inference.blend import (
    Blend,
    Weights,
    asked_files,
    asked_members,
    blend_settings,
    check_members,
    given_weights,
)
from cxr.methods.base import ImageFacts
from cxr.methods.ensemble import search_weights
from cxr.run_folder import RunFolder, TaskFolder
from cxr.settings import Settings
from cxr.system import distributed
from cxr.system.disk import read_json, remove_leftovers, write_json
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime, open_runtime
from cxr.tasks import Task

# Images on which weights are fitted: some minutes for boxes, and enough for a handful of numbers.
FIT_IMAGES = 1000
# Shares that are tried are twentieths, since each takes a mixture of all these images.
FIT_STEPS = 20
FIT_PATIENCE = 2


@dataclass(frozen=True)
class MemberRun:
    """A run that is mixed in."""

    run: RunFolder
    record: type[Any]

    @property
    def name(self) -> str:
        return self.run.name

    def source(self, folder: Path) -> Any:
        """What tells these predictions from others: the record that step 04 left with them."""
        path = self.run.path / folder / "settings.json"
        return read_json(path) if path.exists() else None

    def predictions(self, folder: Path, ids: Sequence[str]) -> Iterator[Any]:
        """Yield the predictions of these images, in order.

        folder: as seen from the run's own. Raises InputError where they are not whole, or of other
        images.
        """
        path = self.run.path / folder
        if not is_whole(path, len(ids)):
            raise InputError(
                f"{path} is not whole: run 04_predict.py --run {self.run.name} first, with the "
                "same --predictions"
            )
        count = 0
        for prediction in read_predictions(path, self.record):
            if count == len(ids) or prediction.image_id != ids[count]:
                raise InputError(self._other_images(path, prediction.image_id))
            yield prediction
            count += 1
        if count < len(ids):
            raise InputError(self._other_images(path, ids[count]))

    def _other_images(self, path: Path, image_id: str) -> str:
        return (
            f"{path} holds other images than the tables of step 02 have there now (the first: "
            f"{image_id}), so {self.run.name} has other folds, and a blend would judge what was "
            "learned: blend runs of the same folds"
        )


@dataclass(frozen=True)
class MemberFile:
    """A file of other people's predictions.

    answers: {image_id: what a rule would say}. facts: {image_id: size of the image}.
    """

    task: Task
    settings: Settings
    path: Path
    answers: Mapping[str, Any]
    facts: Mapping[str, ImageFacts]

    @property
    def name(self) -> str:
        return str(self.path)

    def predictions(self, folder: Path, ids: Sequence[str]) -> Iterator[Any]:
        """Yield what the file says of these images. InputError where it says nothing of one."""
        missing = [image_id for image_id in ids if image_id not in self.answers]
        if missing:
            raise InputError(
                f"{self.path} has no answer of {missing[0]} ({len(missing)} images of {folder}): a "
                "file that is mixed in must answer every image, labelled ones out of fold"
            )
        labels = self.task.used_labels(self.settings)
        for image_id in ids:
            image = self.facts[image_id]
            yield self.task.method.from_answer(self.answers[image_id], image, labels)

    def source(self, folder: Path) -> Any:
        """What tells these predictions from others."""
        del folder
        return zlib.crc32(self.path.read_bytes())


Member = MemberRun | MemberFile


def blend_runs(task: Task, settings: Settings) -> None:
    """Mix each wanted fold's out-of-fold predictions, then those of the test images."""
    run = RunFolder.of(settings.place)
    with open_runtime(settings.machine) as runtime:
        blend = open_blend(task, settings, run, runtime)
        runtime.say(f"run {run.path}: {blend.describe()}")
        settings = blend_settings(task, settings, next(iter(blend.weights)))
        members = open_members(task, settings, list(blend.weights), blend.files)
        name = settings.prediction.predictions
        train = read_table(run.task.table("train"))
        test = read_table(run.task.table("test"))
        for fold in settings.wanted_folds():
            ids = train["image_id"][train["fold"] == fold].tolist()
            folder = run.fold(fold).valid_predictions(name)
            mix_folder(task, settings, members, blend.of_fold(fold), folder, ids, runtime)
        folder = run.chosen_test_predictions(name, settings.place.fold)
        ids = test["image_id"].tolist()
        mix_folder(task, settings, members, blend.weights, folder, ids, runtime)


def open_blend(task: Task, settings: Settings, run: RunFolder, runtime: Runtime) -> Blend:
    """The blend that a run is, which is written where it is not there yet.

    Raises InputError for one that is there and other than asked for.
    """
    known = Blend.read(run)
    files = asked_files(settings)
    members = asked_members(settings) | files
    if known is not None:
        refuse_other_blend(known, settings, run, members)
        return known
    if run.trained_folds():
        raise InputError(f"{run.path} holds a trained run: give the blend another name by --run")
    runs = [name for name in members if name not in files]
    check_members(task, settings, runs)
    own = blend_settings(task, settings, runs[0])
    if settings.prediction.blend_weights == "fit":
        blend = fit_blend(task, own, run, members, list(files))
    else:
        blend = Blend(given_weights(members), files=list(files))
    distributed.barrier()
    if runtime.is_main:
        blend.write(run)
        for fold in range(own.data.folds):
            run.fold(fold).write_config(own.replace(fold=fold).plain())
    distributed.barrier()
    return blend


def refuse_other_blend(
    blend: Blend, settings: Settings, run: RunFolder, members: Mapping[str, float | None]
) -> None:
    """Raises InputError where the flags ask for another blend than the one that is there."""
    if not members:
        return
    same = list(members) == list(blend.weights)
    if same and settings.prediction.blend_weights == "given":
        asked = given_weights(members)
        same = not blend.by_fold and np.allclose(list(asked.values()), list(blend.weights.values()))
    elif same:
        same = bool(blend.by_fold)
    if not same:
        raise InputError(
            f"{run.path} is another blend ({blend.describe()}): give this one another name by "
            "--run, or delete that folder"
        )


def mix_folder(
    task: Task,
    settings: Settings,
    members: Sequence[Member],
    weights: Weights,
    folder: Path,
    ids: Sequence[str],
    runtime: Runtime,
) -> None:
    """Mix the predictions of these images into `folder`; parts that are there already are kept."""
    run = RunFolder.of(settings.place)
    used = [member for member in members if weights[member.name] > 0]
    inside = folder.relative_to(run.path)
    refuse_other_mixture(folder, weights, used, inside, ids, runtime)
    missing = []
    for number in range(part_count(len(ids))):
        if not part_path(folder, number).exists():
            missing.append(number)
    distributed.barrier()
    if not missing:
        runtime.say(f"{folder}: {len(ids)} images are there, nothing to do")
        return

    mine = set(runtime.share(missing))
    shares = np.array([weights[member.name] for member in used])
    streams = [member.predictions(inside, ids) for member in used]
    part: list[Any] = []
    name = f"{folder.parent.name}/{folder.name}"
    bar = tqdm(total=len(ids), desc=name, disable=runtime.hides_bars, mininterval=5)
    for row, predictions in enumerate(zip(*streams, strict=True)):
        number = row // PART
        if number in mine:
            part.append(task.method.mix(predictions, shares, settings))
            if len(part) == min(PART, len(ids) - number * PART):
                write_part(folder, number, part)
                part = []
        bar.update(1)
    bar.close()
    distributed.barrier()


def open_members(
    task: Task, settings: Settings, names: Sequence[str], files: Sequence[str]
) -> list[Member]:
    """The runs of these names beside the blend, and those of the names that are files."""
    folder = RunFolder.of(settings.place).task
    members: list[Member] = []
    for name in names:
        if name in files:
            members.append(open_file(task, settings, folder, Path(name)))
        else:
            members.append(MemberRun(folder.run(name), task.method.prediction_class))
    return members


def open_file(task: Task, settings: Settings, folder: TaskFolder, path: Path) -> MemberFile:
    """A file of answers, read. Raises InputError where it is another."""
    if not path.is_file():
        raise InputError(f"{path}, which the blend mixes in, is gone: bring it back")
    table = pd.concat([read_table(folder.table("train")), read_table(folder.table("test"))])
    answers = task.dataset.read_answers(path, table)
    facts = {}
    for row in table.itertuples():
        facts[row.image_id] = ImageFacts(row.image_id, int(row.width), int(row.height))
    return MemberFile(task, settings, path, answers, facts)


def refuse_other_mixture(
    folder: Path,
    weights: Weights,
    members: Sequence[Member],
    inside: Path,
    ids: Sequence[str],
    runtime: Runtime,
) -> None:
    """Raises InputError if the folder was mixed of other predictions, weights or images."""
    sources = {member.name: member.source(inside) for member in members}
    record = {
        "weights": weights,
        "members": sources,
        "images": len(ids),
        "ids": zlib.crc32("\n".join(ids).encode()),
    }
    path = folder / "settings.json"
    if path.exists():
        old = read_json(path)
        changed = [key for key, value in record.items() if old.get(key) != value]
        if changed:
            raise InputError(
                f"{folder} was mixed of other {', '.join(changed)}: delete that folder, or choose "
                "another name with --predictions"
            )
    elif runtime.is_main:
        write_json(path, record)
    if runtime.is_main:
        remove_leftovers(folder)


# ------------------------------------------------------------------- fitted weights


class WeightScore:
    """The scorer's quick figure of mixtures of some images, by their weights.

    predictions: for each row of the table those of all members.
    """

    def __init__(
        self,
        task: Task,
        settings: Settings,
        table: pd.DataFrame,
        predictions: Sequence[Sequence[Any]],
    ) -> None:
        self.task = task
        self.settings = settings
        self.table = table
        self.predictions = predictions
        self.known: dict[tuple[float, ...], dict[int, Any]] = {}

    def mixtures(self, weights: np.ndarray) -> dict[int, Any]:
        """{row: quick prediction}, mixed once for each set of weights."""
        key = tuple(np.round(weights, 6))
        if key not in self.known:
            self.known[key] = self._mix(weights)
        return self.known[key]

    def _mix(self, weights: np.ndarray) -> dict[int, Any]:
        method = self.task.method
        used = [number for number, weight in enumerate(weights) if weight > 0]
        mixed = {}
        for row, predictions in enumerate(self.predictions):
            chosen = [predictions[number] for number in used]
            mixture = method.mix(chosen, weights[used], self.settings)
            mixed[row] = method.quick_prediction(mixture, self.table.iloc[row], self.settings)
        return mixed

    def on(self, rows: np.ndarray) -> Callable[[np.ndarray], float]:
        """The figure of some rows (n,) bool, as a function of the weights."""

        def score(weights: np.ndarray) -> float:
            mixtures = self.mixtures(weights)
            chosen = {int(row): mixtures[int(row)] for row in np.flatnonzero(rows)}
            labels = self.task.used_labels(self.settings)
            scorer = self.task.dataset.scorer
            metric = scorer.quick_score(chosen, self.table, self.settings, labels)["metric"]
            return -np.inf if np.isnan(metric) else metric

        return score


def fit_blend(
    task: Task,
    settings: Settings,
    run: RunFolder,
    members: Mapping[str, float | None],
    files: Sequence[str],
) -> Blend:
    """Greedily fitted weights: of each fold on the others, and on all folds for new images.

    settings: of the blend. Raises InputError with weights that are given, and with --fold.
    """
    if any(weight is not None for weight in members.values()):
        raise InputError("--blend-weights fit finds the weights: leave those of --blend out")
    if settings.place.fold is not None:
        raise InputError("--blend-weights fit needs all folds: leave --fold out")
    names = list(members)
    table = task.select_rows(read_table(run.task.table("train")), settings)
    table = sample_groups(table, FIT_IMAGES)
    opened = open_members(task, settings, names, files)
    predictions = read_sample(settings, run, opened, table)
    score = WeightScore(task, settings, table, predictions)

    folds = table["fold"].to_numpy()
    by_fold = {}
    for fold in tqdm(range(settings.data.folds), desc="fit weights", mininterval=5):
        by_fold[fold] = fit_weights(names, score.on(folds != fold))
    return Blend(fit_weights(names, score.on(folds >= 0)), by_fold, files)


def fit_weights(names: Sequence[str], score: Callable[[np.ndarray], float]) -> Weights:
    found = search_weights(len(names), score, FIT_STEPS, FIT_PATIENCE)
    return dict(zip(names, np.round(found.weights, 6).tolist(), strict=True))


def sample_groups(table: pd.DataFrame, images: int) -> pd.DataFrame:
    """At most about so many rows, spread evenly over the table, of whole groups."""
    groups = table["group"].astype(str)
    names = groups.drop_duplicates()
    wanted = max(1, round(len(names) * images / max(1, len(table))))
    places = np.linspace(0, len(names) - 1, min(wanted, len(names))).round().astype(int)
    chosen = groups.isin(names.iloc[places])
    return table[chosen].reset_index(drop=True)


def read_sample(
    settings: Settings, run: RunFolder, members: Sequence[Member], table: pd.DataFrame
) -> list[list[Any]]:
    """For each row of the table the out-of-fold predictions of all members."""
    name = settings.prediction.predictions
    train = read_table(run.task.table("train"))
    wanted = set(table["image_id"])
    by_image: dict[str, list[Any]] = {image_id: [] for image_id in table["image_id"]}
    for member in members:
        for fold in range(settings.data.folds):
            ids = train["image_id"][train["fold"] == fold].tolist()
            folder = run.fold(fold).valid_predictions(name).relative_to(run.path)
            for prediction in member.predictions(folder, ids):
                if prediction.image_id in wanted:
                    by_image[prediction.image_id].append(prediction)
    return list(by_image.values())
