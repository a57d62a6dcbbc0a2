"""The encoder of another task's run as first weights: --weights TASK/RUN.

So a large public set with labels of images teaches an encoder what X-rays look like. What that run
learned must not be what this one is judged on: the patients of both tables are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxr.data.tables import read_table
from cxr.inference.checkpoint import load_state
from cxr.networks.network import Network
from cxr.run_folder import FoldFolder, RunFolder, TaskFolder
from cxr.settings import Settings
from cxr.system.errors import InputError
from cxr.tasks import TASKS, Task


@dataclass(frozen=True)
class EncoderRun:
    """The run that --weights names."""

    words: str  # TASK/RUN
    run: RunFolder

    @classmethod
    def of(cls, settings: Settings) -> EncoderRun | None:
        """None where --weights names something else; a file of that name goes first.

        Raises InputError for a run that has no checkpoint.
        """
        words = settings.training.weights
        task_name, _, run_name = words.partition("/")
        if not run_name or "/" in run_name or task_name not in TASKS or Path(words).is_file():
            return None
        run = TaskFolder.of(settings.place).sibling(task_name).run(run_name)
        if not any(run.fold(fold).checkpoints() for fold in run.trained_folds()):
            raise InputError(
                f"--weights {words} is a run without checkpoints in {run.path}: train it first, or "
                "give the --working where it lies"
            )
        return cls(words, run)

    def fold_for(self, fold: int) -> FoldFolder:
        """The same fold, which knows none of its patients if the folds agree; else the first."""
        trained = []
        for number in self.run.trained_folds():
            if self.run.fold(number).checkpoints():
                trained.append(number)
        return self.run.fold(fold if fold in trained else trained[0])

    def checkpoint(self, settings: Settings, fold: int) -> Path:
        """The weights that fold `fold` begins with. Raises InputError for another encoder."""
        folder = self.fold_for(fold)
        encoder = folder.read_config().get("encoder")
        if encoder != settings.training.encoder:
            raise InputError(
                f"--weights {self.words} has the encoder {encoder}: use --encoder {encoder}, or "
                f"train a run with {settings.training.encoder}"
            )
        return folder.checkpoints()[-1]


def restore_scale(model: Network, checkpoint: Path) -> None:
    """Let a network read gray values as the encoder's weights have learned to."""
    model.restore_scale(load_state(checkpoint).get("input_scale"))


def check_patients(task: Task, settings: Settings, table: pd.DataFrame, fold: int) -> str:
    """A sentence on whether the run of --weights has learned what this fold is judged on, "" where
    --weights names no run.

    table: all rows that are learned and judged here. Raises InputError where that run has learned
    validation or test patients of this task.
    """
    source = EncoderRun.of(settings)
    if source is None:
        return ""
    folder = source.fold_for(fold)
    path = source.run.task.table("train")
    if not path.exists():
        return (
            f"WARNING: {path} is missing, so nobody knows whether --weights {source.words} has "
            f"learned the validation images of fold {fold}"
        )
    learned = read_table(path)
    learned = learned[learned["fold"] != folder.number]
    judged = table[table["fold"] == fold]
    test_path = TaskFolder.of(settings.place).table("test")
    test = read_table(test_path) if test_path.exists() else judged[:0]
    for name, rows in (("validation", judged), ("test", test)):
        refuse_shared(source, folder, task, fold, name, rows, learned)
    return describe_patients(source, folder, task, pd.concat([judged, test]), learned)


def refuse_shared(
    source: EncoderRun,
    folder: FoldFolder,
    task: Task,
    fold: int,
    name: str,
    rows: pd.DataFrame,
    learned: pd.DataFrame,
) -> None:
    """Raises InputError where rows share patients or images with what was learned."""
    shared = rows["group"].isin(learned["group"]) | rows["image_id"].isin(learned["image_id"])
    if not shared.any():
        return
    raise InputError(
        f"--weights {source.words} has learned in its fold {folder.number} the patients of "
        f"{shared.sum()} {name} images of {task.name}, fold {fold} (the first is "
        f"{rows['image_id'][shared].iloc[0]}), so the score would flatter: run step 02 of "
        f"{source.run.task.name} with --folds-of {task.name} into another --working, and train "
        f"its fold {fold}, too"
    )


def describe_patients(
    source: EncoderRun,
    folder: FoldFolder,
    task: Task,
    rows: pd.DataFrame,
    learned: pd.DataFrame,
) -> str:
    """What could be compared, and what could not."""
    sentence = (
        f"encoder of {source.words}, fold {folder.number}, which shares no known patient with the "
        f"{len(rows)} validation and test images"
    )
    prefix, collection = task.dataset.collection
    if not prefix or not learned["group"].str.startswith(prefix).any():
        return sentence
    unknown = int((~rows["group"].str.startswith(prefix)).sum())
    if not unknown:
        return sentence
    return (
        f"{sentence}. WARNING: {unknown} of these are of {collection}, too, by other names, and "
        f"nobody says which: the encoder may have learned them, so the score may flatter"
    )
