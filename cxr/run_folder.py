"""The disk contract as code: every path, record and checkpoint query of a task and its runs.

    working/<task>/                     TaskFolder, written by step 02
        train.csv test.csv failed.csv preprocess.json images/<image_id>.png
        plan.json           settings chosen from the data, of --task own
        images/external/<set>/   pictures of a folder of --external   step 03
        external/<set>/          table.csv record.json failed.csv
        search-<name>/      SearchFolder: study.db trials.csv best.json     step 03, --search
        <run>/                          RunFolder
            params.json results.json submission.csv                     step 05
            report.html model_card.md
            blend.json      of a run that is a blend of others          step 04
            judged_<name>/  the same of --predictions <name>            step 05
            test_<name>/                                                step 04
            fold<k>/                    FoldFolder, written by step 03 (of a blend: by 04)
                config.json manifest.json log.csv last.pt best.pt epoch<N>.pt swa.pt
                valid_<name>/ test_<name>/ unlabelled_<name>/           step 04
                external_<set>_<name>/      what teaches another run    step 03
    working/unpacked/<check sum>/       a small --working: a run that came as one file, and
        <task>/<run>/archive.json       what that file held

Nobody else spells these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr.settings import PlaceSettings
from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError

UNPACKED = "unpacked"  # below working: runs that came as one file
EXTERNAL = "external"  # images that are not the task's own
DEFAULT_PREDICTIONS = "predictions"  # --predictions as it usually is


def unpacked_folder(working: Path) -> Path:
    """Where runs that came as one file are unpacked, each in a folder of its own."""
    return working / UNPACKED


@dataclass(frozen=True)
class TaskFolder:
    """working/<task>/: what step 02 made of a data set."""

    path: Path

    @classmethod
    def of(cls, place: PlaceSettings) -> TaskFolder:
        return cls(place.working / place.task)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def images(self) -> Path:
        return self.path / "images"

    def image(self, image_id: str) -> Path:
        return self.images / f"{image_id}.png"

    def table(self, name: str) -> Path:
        """train.csv, test.csv or failed.csv, by the name without ending."""
        return self.path / f"{name}.csv"

    @property
    def preprocess_record(self) -> Path:
        return self.path / "preprocess.json"

    @property
    def plan(self) -> Path:
        """Settings that step 02 chose from the data, of data sets that have such."""
        return self.path / "plan.json"

    def read_notes(self) -> list[str]:
        """Sentences of step 02 for the reader of a report."""
        return read_json(self.preprocess_record).get("notes", [])

    def read_input_folder(self) -> Path:
        """The data set's folder that step 02 read. Raises InputError where it is gone."""
        source = Path(read_json(self.preprocess_record)["input"])
        if not source.is_dir():
            raise InputError(
                f"{source} is missing, and the ids of a submission are in it: bring it back, or "
                "run step 02 with the --input where it is now"
            )
        return source

    def external(self, name: str) -> Path:
        """What is known of a set of further images; `images` holds their pictures."""
        return self.path / EXTERNAL / name

    def run(self, name: str) -> RunFolder:
        return RunFolder(self.path / name)

    def search(self, file: Path) -> SearchFolder:
        """What step 03 makes of a file of --search; its name is that of the file."""
        return SearchFolder(self.path / f"search-{file.stem}")

    def sibling(self, task: str) -> TaskFolder:
        """The folder of another task below the same working/."""
        return TaskFolder(self.path.parent / task)

    def run_names(self) -> list[str]:
        """Names of the runs that have begun training."""
        return sorted({path.parts[-3] for path in self.path.glob("*/fold*/config.json")})

    def crops(self, run: str) -> Path:
        """The boxes of the lungs that a run of the task lungs found in the images."""
        return self.path / f"crops-{run}.csv"

    def crops_record(self, run: str) -> Path:
        """Which checkpoints of that run found them."""
        return self.path / f"crops-{run}.json"


@dataclass(frozen=True)
class SearchFolder:
    """working/<task>/search-<name>/: a search of settings. Its trials are runs beside it."""

    path: Path

    @property
    def study(self) -> Path:
        """Optuna's own file, with which the search goes on."""
        return self.path / "study.db"

    @property
    def trials(self) -> Path:
        """What was tried, a row each."""
        return self.path / "trials.csv"

    @property
    def best(self) -> Path:
        """The name of the best run, once all trials are done."""
        return self.path / "best.json"


@dataclass(frozen=True)
class RunFolder:
    """working/<task>/<run>/."""

    path: Path

    @classmethod
    def of(cls, place: PlaceSettings) -> RunFolder:
        return cls(place.working / place.task / place.run)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def task(self) -> TaskFolder:
        return TaskFolder(self.path.parent)

    @property
    def archive(self) -> Path:
        """The run as one file, by step 06 with --zip."""
        return self.path / f"{self.name}.zip"

    @property
    def archive_record(self) -> Path:
        """What the file held that this run was unpacked from."""
        return self.path / "archive.json"

    @property
    def is_unpacked(self) -> bool:
        """Whether it came as one file; then it is whole, and no table or picture is beside it."""
        return self.archive_record.exists()

    @property
    def home(self) -> TaskFolder:
        """The task's tables and pictures, of an unpacked run those of the --working around it."""
        if not self.is_unpacked:
            return self.task
        working = self.path.parents[3]  # working/unpacked/<check sum>/<task>/<run>
        return TaskFolder(working / self.task.name)

    def fold(self, number: int) -> FoldFolder:
        return FoldFolder(self.path / f"fold{number}")

    def trained_folds(self) -> list[int]:
        """The folds that have begun training, in order."""
        names = [path.parent.name for path in self.path.glob("fold*/config.json")]
        return sorted(int(name.removeprefix("fold")) for name in names)

    def test_predictions(self, name: str) -> Path:
        return self.path / f"test_{name}"

    def chosen_test_predictions(self, name: str, fold: int | None) -> Path:
        """Those of all folds, or with --fold those of that fold's models alone."""
        if fold is None:
            return self.test_predictions(name)
        return self.fold(fold).test_predictions(name)

    def judged(self, name: str = DEFAULT_PREDICTIONS) -> JudgedFolder:
        """What step 05 made of the predictions of this name; variants have folders of their own."""
        if name == DEFAULT_PREDICTIONS:
            return JudgedFolder(self.path)
        return JudgedFolder(self.path / f"judged_{name}")

    @property
    def heat_maps(self) -> Path:
        return self.path / "heat_maps"

    @property
    def blend(self) -> Path:
        """Of which runs it is a blend; only there if it is one."""
        return self.path / "blend.json"


@dataclass(frozen=True)
class JudgedFolder:
    """working/<task>/<run>/, or judged_<name>/ in it: parameters, results and answer of step 05."""

    path: Path

    @property
    def params(self) -> Path:
        return self.path / "params.json"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def submission(self) -> Path:
        return self.path / "submission.csv"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def model_card(self) -> Path:
        return self.path / "model_card.md"


@dataclass(frozen=True)
class FoldFolder:
    """working/<task>/<run>/fold<k>/."""

    path: Path

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.path.parent)

    @property
    def number(self) -> int:
        return int(self.path.name.removeprefix("fold"))

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def log(self) -> Path:
        return self.path / "log.csv"

    @property
    def tracked(self) -> Path:
        """How a tracker calls the training of this fold."""
        return self.path / "tracker.json"

    @property
    def last(self) -> Path:
        """Everything that is needed to go on."""
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        return self.path / "best.pt"

    def epoch(self, number: int) -> Path:
        return self.path / f"epoch{number:03d}.pt"

    def epochs(self) -> list[Path]:
        """The kept epochs' checkpoints, in order."""
        return sorted(self.path.glob("epoch*.pt"))

    @property
    def swa(self) -> Path:
        """The mean of the kept epochs' weights, of --swa."""
        return self.path / "swa.pt"

    def checkpoints(self) -> list[Path]:
        """Those that answer, the newest last: the mean, where there is one, or the kept epochs."""
        if self.swa.exists():
            return [self.swa]
        return self.epochs()

    def valid_predictions(self, name: str) -> Path:
        return self.path / f"valid_{name}"

    def test_predictions(self, name: str) -> Path:
        return self.path / f"test_{name}"

    def unlabelled_predictions(self, name: str) -> Path:
        """What this fold alone says of the test images without labels."""
        return self.path / f"unlabelled_{name}"

    def external_predictions(self, external: str, name: str) -> Path:
        return self.path / f"{EXTERNAL}_{external}_{name}"

    def read_config(self) -> dict[str, Any]:
        """The settings that the fold was trained with, as JSON's own types.

        Raises InputError where the file is missing or not what step 03 wrote.
        """
        values = read_json(self.config)
        if not isinstance(values, dict) or "task" not in values:
            raise InputError(
                f"{self.config} does not say which task was trained: copy it back from another "
                f"fold, or delete {self.path} and train the fold again"
            )
        return values

    def write_config(self, values: Mapping[str, Any]) -> None:
        write_json(self.config, dict(values))
