"""A trained run as an object of Python: pictures in, results out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxr.images.header import Header
from cxr.images.isolated import LONGEST, Picture
from cxr.images.read import read_image
from cxr.images.resize import resize, shrink
from cxr.images.study import read_study
from cxr.inference.predictor import Predictor
from cxr.inference.results import Result
from cxr.inference.run_archive import names_archive, refuse_other_task, unpack_run
from cxr.inference.studies import Study, StudyImage, merge_studies
from cxr.run_folder import RunFolder
from cxr.settings import Settings
from cxr.system.errors import InputError
from cxr.tasks import TASKS, Task

ImageSource = str | Path | np.ndarray  # a file, or gray pixels (h, w) uint8, bright = dense


class OpenRun:
    """A trained run, ready to predict; `open_run` makes it.

    predictor: the networks, views and rule of the run.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @property
    def task(self) -> str:
        """Name of the task, a key of cxr.TASKS."""
        return self.predictor.task.name

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the boxes or masks that the run looks for."""
        return self.predictor.result_maker.findings

    @property
    def image_classes(self) -> tuple[str, ...]:
        """Names of the classes of a whole image, of which results say how likely they are."""
        return self.predictor.image_classes

    @property
    def notes(self) -> list[str]:
        """What one should know of the results, such as that no thresholds were fitted."""
        return self.predictor.notes

    def predict(self, images: ImageSource | Sequence[ImageSource]) -> Any:
        """What the run says of an image (a Result), or of several (a list of them).

        images: DICOM, PNG or JPEG files, or gray pictures (h, w) uint8 as `cxr.read_image` gives
        them. Raises InputError, naming the file and the reason, for one that cannot be read.
        """
        if isinstance(images, str | Path | np.ndarray):
            return self._predict([images])[0]
        results: list[Result] = []
        batch_size = self.predictor.settings.training.batch_size
        for start in range(0, len(images), batch_size):
            results += self._predict(images[start : start + batch_size])
        return results

    def studies(self, results: Sequence[Result]) -> dict[str, Study]:
        """What the run says of the studies that the images of these results belong to.

        Of a run whose classes are of studies, as those of the task covid: {StudyInstanceUID: the
        mean of the probabilities of its images}. Images whose file names no study are left out.
        Raises InputError where the classes are of images.
        """
        if not self.predictor.of_studies:
            raise InputError(
                f"the run {self.predictor.run.path} says nothing of studies: take the results of "
                "the images"
            )
        images = [StudyImage(result.study or "", result.probabilities) for result in results]
        return merge_studies(images, self.image_classes)

    def _predict(self, images: Sequence[ImageSource]) -> list[Result]:
        pictures = [to_picture(image, self.predictor.sides) for image in images]
        return self.predictor.predict(pictures)


def open_run(
    path: str | Path,
    *,
    task: str | None = None,
    fold: int | None = None,
    tta: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    engine: str | None = None,
    working: str | Path = "working",
) -> OpenRun:
    """A trained run, ready to predict, such as that in working/rsna/small.

    path: of its folder, or of a file that step 06 has written with --zip, or "starter" for the file
    that comes with this software; files are unpacked once, below `working`.
    The kept checkpoints of all its folds are merged, with the parameters of step 05 if it was run.
    task: a key of cxr.TASKS, by default that of the run, and of a starter the usual one.
    fold: only this fold, a quarter of the time. tta: views that are merged, such as "none" for the
    plain one; by default those of the run's settings. device: auto, cpu, cuda, cuda:1 or mps.
    precision: auto, fp32, bf16 or fp16. engine: auto, torch or openvino, as --engine; by default
    that of the run's settings. Raises InputError for what is no finished run.
    """
    run = RunFolder(Path(path))
    if names_archive(path):
        run = unpack_run(path, Path(working), task)
    run_task, settings = read_run(run)
    refuse_other_task(run.path, run_task.name, task)
    changes: dict[str, Any] = {"fold": fold, "device": device, "precision": precision}
    if tta is not None:
        changes["tta"] = tta
    if engine is not None:
        changes["engine"] = engine
    return OpenRun(Predictor(run_task, settings.replace(**changes)))


def read_run(run: RunFolder) -> tuple[Task, Settings]:
    """The task of a run, and the settings it was trained with. InputError if it is no run."""
    folds = run.trained_folds()
    if not folds:
        raise InputError(
            f"{run.path} holds no trained fold: give the folder of a run, such as "
            "working/<task>/<run>, that 03_train.py has written"
        )
    stored = run.fold(folds[0]).read_config()
    if stored["task"] not in TASKS:
        raise InputError(
            f"{run.path} is a run of the unknown task {stored['task']}: this version knows "
            f"{', '.join(TASKS)}"
        )
    task = TASKS[stored["task"]]
    values: dict[str, Any] = {}
    preset = task.presets.get(stored.get("preset", ""))
    if preset is not None:  # settings that are younger than the run
        values |= preset.values
    values |= stored
    values |= {"working": run.task.path.parent, "run": run.name, "fold": None}
    return task, task.make_settings(values)


def to_picture(image: ImageSource, sides: Sequence[int]) -> Picture:
    """A file or gray pixels as a predictor takes them. `sides`: those of the predictor."""
    if isinstance(image, np.ndarray):
        pixels = check_pixels(image)
        height, width = pixels.shape
        header = Header(width, height)
        study = ""
    else:
        pixels, header = read_image(image)
        study = read_study(image)
    network = pixels
    for side in sides:
        network = resize(network, side)
    # Whether it is a DICOM matters only to structured reports, which are not made here.
    shown = shrink(pixels, LONGEST)
    return Picture(header, dicom=False, network=network, shown=shown, study=study)


def check_pixels(pixels: np.ndarray) -> np.ndarray:
    """The same; InputError unless they are a gray picture (h, w) uint8."""
    if pixels.ndim != 2 or pixels.dtype != np.uint8 or not pixels.size:
        raise InputError(
            f"an array of {pixels.dtype} with shape {pixels.shape} is no gray picture (height, "
            "width) of uint8: read the file with cxr.read_image"
        )
    return pixels
