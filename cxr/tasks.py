"""Which data set is learned by which method, with which presets: one line a task.

Data sets and methods are named by where their classes stand and loaded when they are asked for, so
that `--help` need not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr import method_settings
from cxr import settings as areas
from cxr.datasets.chestxdet.presets import PRESETS as CHESTXDET
from cxr.datasets.covid.presets import BOX_PRESETS, STUDY_PRESETS, CovidSettings
from cxr.datasets.lungs.presets import PRESETS as LUNGS
from cxr.datasets.own.presets import BOX_PRESETS as OWN_BOXES
from cxr.datasets.own.presets import CLASS_PRESETS as OWN_CLASSES
from cxr.datasets.own.presets import MASK_PRESETS as OWN_MASKS
from cxr.datasets.own.presets import OwnSettings
from cxr.datasets.pneumothorax.presets import PRESETS as PNEUMOTHORAX
from cxr.datasets.rsna.presets import CLASS_PRESETS as RSNA_CLASSES
from cxr.datasets.rsna.presets import PRESETS as RSNA
from cxr.datasets.vinbigdata.presets import PRESETS as VINBIGDATA
from cxr.datasets.vinbigdata.presets import VinBigDataSettings
from cxr.presets import Preset
from cxr.run_folder import RunFolder, TaskFolder
from cxr.setting_checks import check_values
from cxr.settings import DatasetSettings, MethodSettings, PlaceSettings, Settings
from cxr.system.disk import read_json
from cxr.system.errors import InputError

# Settings of a method that belong to one call of a step and not to a run.
PER_CALL = ("stack", "opacities", "gate", "try_votes", "try_lone")
# Settings of a method that only some scorers read.
OF_SOME_SCORERS = ("gate", "try_votes", "try_lone")

if TYPE_CHECKING:
    import pandas as pd

    from cxr.datasets.base import Dataset
    from cxr.methods.base import Labels, Method

METHODS: dict[str, tuple[str, type[MethodSettings]]] = {
    "detector": ("cxr.methods.detector.method:Detector", method_settings.DetectorSettings),
    "segmenter": ("cxr.methods.segmenter.method:Segmenter", method_settings.SegmenterSettings),
    "classifier": ("cxr.methods.classifier.method:Classifier", method_settings.ClassifierSettings),
}


@dataclass(frozen=True)
class Task:
    """A data set, learned by a method, with named sets of settings."""

    name: str
    gloss: str  # for --help
    dataset_class: str  # "module:Class" of the data set
    method_name: str  # a key of METHODS
    presets: Mapping[str, Preset]
    dataset_settings: type[DatasetSettings] = DatasetSettings

    @cached_property
    def dataset(self) -> Dataset:
        return _load(self.dataset_class)()

    @cached_property
    def method(self) -> Method:
        return _load(METHODS[self.method_name][0])()

    @property
    def method_settings(self) -> type[MethodSettings]:
        return METHODS[self.method_name][1]

    @property
    def usual_preset(self) -> str:
        """The preset where none is named: the paper's, or settings chosen from the data."""
        return "paper" if "paper" in self.presets else next(iter(self.presets))

    def used_labels(self, settings: Settings) -> Labels:
        """Names of the classes as far as these settings use them."""
        return self.method.used_labels(settings, self.dataset.labels_of(settings))

    def select_rows(self, table: pd.DataFrame, settings: Settings) -> pd.DataFrame:
        """The rows of a table of step 02 that are learned and judged."""
        labels = self.used_labels(settings)
        return self.dataset.select_rows(self.method.select_rows(table, settings, labels), labels)

    def check(self, settings: Settings) -> None:
        """Raises InputError for what cannot work, before anything is loaded or written."""
        method = self.method
        if settings.training.augmentation not in method.augmentations:
            raise InputError(
                f"--augmentation {settings.training.augmentation} is not for a {method.name}: "
                f"choose {', '.join(method.augmentations)}"
            )
        if settings.prediction.tta not in method.view_sets:
            raise InputError(
                f"--tta {settings.prediction.tta} is not for a {method.name}: choose "
                f"{', '.join(method.view_sets)}"
            )
        if settings.training.pretrain and not self.dataset.draws_its_classes:
            raise InputError(
                f"--pretrain is not for {self.name}: nobody knows how to draw its classes; use "
                "--weights or --start"
            )
        fit_on = settings.judging.fit_on
        scorer = self.dataset.scorer
        if fit_on not in scorer.fit_choices:
            raise InputError(
                f"--fit-on {fit_on} is impossible for {self.name}: {scorer.fit_refusal}; choose "
                f"{', '.join(scorer.fit_choices)}"
            )
        for name in OF_SOME_SCORERS:
            if getattr(settings.method, name, ()) and name not in scorer.searched:
                raise InputError(
                    f"{areas.flag(name)} is not for {self.name}, whose score has no such rule: "
                    "leave it out"
                )
        method.check(settings, self.dataset.labels_of(settings))

    def make_settings(self, values: Mapping[str, Any], given: tuple[str, ...] = ()) -> Settings:
        """Settings of this task from {setting: value}; the others keep their defaults."""
        return areas.make_settings(values, self.method_settings, self.dataset_settings, given)

    def settings_of(
        self, flags: Mapping[str, Any], file: Mapping[str, Any] | None = None
    ) -> Settings:
        """Settings as the command line makes them: preset, file, flags; checked, with a run.

        flags: {setting: value} of what was given. file: the same of --config, of which only what
        differs from the preset counts as given. Raises InputError for what cannot be used.
        """
        file = dict(file or {})
        demo = bool(flags.get("demo", file.get("demo", False)))
        preset = flags.get("preset") or file.get("preset")
        if not preset:
            preset = "demo" if demo else self.usual_preset
        if preset not in self.presets:
            raise InputError(
                f"unknown --preset {preset} of task {self.name}: choose from "
                f"{', '.join(self.presets)}"
            )
        base: dict[str, Any] = {}
        if demo:
            base = {
                "input": Path("input/demo"),
                "working": Path("working/demo"),
                "parallel_folds": 2,
            }
        base |= self.presets[preset].values
        base |= {"task": self.name, "preset": preset}
        working = flags.get("working") or file.get("working") or base.get("working")
        base |= read_plan(TaskFolder(Path(working or PlaceSettings.working) / self.name))
        usual = self.make_settings(base)

        from_file = self.make_settings(base | file).flat()
        given = [name for name in file if from_file[name] != usual.flat()[name]]
        given += [name for name in flags if name not in given]
        named = {"task": self.name, "preset": preset}
        settings = self.make_settings(base | file | dict(flags) | named, tuple(given))
        check_values(settings)
        name = settings.place.run or areas.run_name(usual, settings)
        return settings.replace(run=name)

    def with_plan(self, settings: Settings) -> Settings:
        """The settings with what step 02 chose from the data, except for what was given."""
        plan = read_plan(TaskFolder.of(settings.place))
        chosen = {name: value for name, value in plan.items() if name not in settings.given}
        merged = settings.plain() | chosen
        return self.make_settings(merged, settings.given)

    def follow_search(self, settings: Settings) -> Settings:
        """The settings with the run that --search found best, for the steps after the training."""
        if not settings.training.search:
            return settings
        found = TaskFolder.of(settings.place).search(Path(settings.training.search))
        if not found.best.exists():
            raise InputError(
                f"{found.best} is missing, so the search has not ended: run step 03 with the same "
                "--search"
            )
        return settings.replace(run=read_json(found.best)["run"])

    def follow_run(self, settings: Settings) -> Settings:
        """The settings with what the run itself was made with, where it has begun training.

        So the steps after the training need no flag repeated. Flags that were given stay; those
        that disagree without changing the networks are said, and the others are refused where the
        checkpoints are read (`refuse_other_training`).
        """
        run = RunFolder.of(settings.place)
        folds = run.trained_folds()
        if not folds:
            return settings
        record = run.fold(folds[0]).read_config()
        if record["task"] != self.name:
            return settings
        stored = self.make_settings(record).flat()
        training = settings.training_values()
        changes = {}
        for name in self._names_of_a_run():
            if name not in settings.given:
                changes[name] = stored[name]
            elif name not in training and settings.flat()[name] != stored[name]:
                value = settings.flat()[name]
                print(f"note: {areas.flag(name)} {value} in place of the run's {stored[name]}")
        return settings.replace(**changes)

    def _names_of_a_run(self) -> list[str]:
        """Settings that a run keeps for the steps after its training."""
        names = ["folds", "size", "tta"]
        names += self.make_settings({}).training_values()
        names += [name for name in areas.setting_fields(self.method_settings) if name not in names]
        return [name for name in names if name not in PER_CALL]


def read_plan(folder: TaskFolder) -> dict[str, Any]:
    """{setting: value} that step 02 chose from the data of this folder; empty where it did not."""
    if not folder.plan.exists():
        return {}
    return read_json(folder.plan)["settings"]


def _load(where: str) -> Any:
    """The class that "module:Class" names."""
    module, name = where.split(":")
    return getattr(importlib.import_module(module), name)


_TASKS = (
    Task("rsna", "lung opacities, boxes", "cxr.datasets.rsna.dataset:Rsna", "detector", RSNA),
    Task(
        "rsna-classes",
        "classes of the same images, which can gate the boxes",
        "cxr.datasets.rsna.dataset:RsnaClasses",
        "classifier",
        RSNA_CLASSES,
    ),
    Task(
        "chestxdet",
        "ChestX-Det10: boxes of ten findings",
        "cxr.datasets.chestxdet.dataset:ChestXDet",
        "detector",
        CHESTXDET,
    ),
    Task(
        "pneumothorax",
        "SIIM-ACR: masks of pneumothoraces",
        "cxr.datasets.pneumothorax.dataset:Pneumothorax",
        "segmenter",
        PNEUMOTHORAX,
    ),
    Task("lungs", "masks of the lungs", "cxr.datasets.lungs.dataset:Lungs", "segmenter", LUNGS),
    Task(
        "covid",
        "SIIM COVID-19: classes of studies",
        "cxr.datasets.covid.dataset:CovidStudies",
        "classifier",
        STUDY_PRESETS,
        CovidSettings,
    ),
    Task(
        "covid-boxes",
        "SIIM COVID-19: boxes of opacities",
        "cxr.datasets.covid.dataset:CovidOpacities",
        "detector",
        BOX_PRESETS,
        CovidSettings,
    ),
    Task(
        "vinbigdata",
        "VinBigData: boxes of fourteen findings",
        "cxr.datasets.vinbigdata.dataset:VinBigData",
        "detector",
        VINBIGDATA,
        VinBigDataSettings,
    ),
    Task(
        "own-boxes",
        "boxes of your own (--task own finds the kind)",
        "cxr.datasets.own.dataset:OwnBoxes",
        "detector",
        OWN_BOXES,
        OwnSettings,
    ),
    Task(
        "own-masks",
        "masks of your own",
        "cxr.datasets.own.dataset:OwnMasks",
        "segmenter",
        OWN_MASKS,
        OwnSettings,
    ),
    Task(
        "own-classes",
        "classes of images of your own, one or several each",
        "cxr.datasets.own.dataset:OwnClasses",
        "classifier",
        OWN_CLASSES,
        OwnSettings,
    ),
)
TASKS = {task.name: task for task in _TASKS}
