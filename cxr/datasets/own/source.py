"""Which labels a folder holds, and so which task it is: by the looks of its files only.

Imports no PyTorch, since the command line asks it before it knows the task.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cxr.datasets.own.coco import is_coco, kind_of_coco, read_content
from cxr.datasets.own.labels import BOXES, CLASSES, MASKS
from cxr.datasets.own.masks import find_masks
from cxr.datasets.own.sheet import kind_of_sheet
from cxr.datasets.own.voc import find_voc
from cxr.datasets.own.yolo import find_yolo
from cxr.run_folder import TaskFolder
from cxr.system.errors import InputError
from cxr.system.tables import EXCEL, read_whole_table
from cxr.system.walk import files_below

NAME = "own"  # as --task, for whichever of these the labels are of
TASK_NAMES = {BOXES: "own-boxes", MASKS: "own-masks", CLASSES: "own-classes"}
SHEETS = (".csv", *EXCEL)
FORMS_IN_WORDS = (
    "labels.csv or labels.xlsx, a COCO json, YOLO's labels/*.txt, Pascal VOC's xml files, or a "
    "folder masks/"
)


class LabelSource(NamedTuple):
    """form: sheet, coco, yolo, voc or masks. paths: its files."""

    form: str
    paths: list[Path]

    def describe(self) -> str:
        if len(self.paths) == 1:
            return str(self.paths[0])
        return f"{len(self.paths)} files such as {self.paths[0]}"


def find_source(folder: Path, labels: str) -> LabelSource:
    """The labels of a folder. labels: the file or folder of --labels, "" where none is named.

    Raises InputError where there are none, or several forms of which one has to be named.
    """
    if labels:
        return named_source(folder, labels)
    found = [LabelSource(form, paths) for form, find in FINDERS.items() if (paths := find(folder))]
    if not found:
        raise InputError(f"{folder} holds no labels that are known: put {FORMS_IN_WORDS} there")
    if len(found) > 1:
        choices = "; ".join(source.describe() for source in found)
        raise InputError(f"{folder} holds several labels: name one with --labels ({choices})")
    return found[0]


def named_source(folder: Path, labels: str) -> LabelSource:
    """What --labels names: a path, seen from the folder or from here."""
    path = folder / labels
    if not path.exists():
        path = Path(labels)
    if path.is_dir():
        for form in ("yolo", "voc", "masks"):
            paths = FINDERS[form](path.parent)
            inside = [each for each in paths if path in each.parents]
            if inside:
                return LabelSource(form, inside)
        raise InputError(f"--labels {labels} holds no labels that are known: {FORMS_IN_WORDS}")
    if not path.is_file():
        raise InputError(f"--labels {labels} does not exist, neither in {folder} nor here")
    if path.suffix.lower() in SHEETS:
        return LabelSource("sheet", [path])
    if path.suffix.lower() == ".json":
        return LabelSource("coco", [path])
    raise InputError(f"--labels {labels} is none of {FORMS_IN_WORDS}")


def find_sheets(folder: Path) -> list[Path]:
    """Sheets in the folder itself: those called labels, else the only one."""
    sheets = [path for path in sorted(folder.glob("*")) if path.suffix.lower() in SHEETS]
    called = [path for path in sheets if path.stem.lower() == "labels"]
    sheets = called or sheets
    if len(sheets) > 1:
        names = ", ".join(path.name for path in sheets)
        raise InputError(f"{folder} holds several sheets ({names}): name one with --labels")
    return sheets


def find_coco(folder: Path) -> list[Path]:
    """COCO files: one, or one in each folder of a split."""
    files = [path for path in files_below(folder, ".json") if is_coco(path)]
    if len({path.parent for path in files}) < len(files):
        names = ", ".join(path.name for path in files)
        raise InputError(f"{folder} holds several COCO files ({names}): name one with --labels")
    return files


FINDERS: dict[str, Callable[[Path], list[Path]]] = {
    "sheet": find_sheets,
    "coco": find_coco,
    "yolo": find_yolo,
    "voc": find_voc,
    "masks": find_masks,
}


def kind_of(source: LabelSource) -> str:
    """Boxes, masks or classes."""
    if source.form == "sheet":
        return kind_of_sheet(read_whole_table(source.paths[0], rows=1).columns.tolist())
    if source.form == "coco":
        return kind_of_coco(read_content(source.paths[0]))
    if source.form == "masks":
        return MASKS
    return BOXES


def find_task_name(folder: Path, working: Path, labels: str, is_demo: bool) -> str:
    """The task that --task own stands for.

    What step 02 has made of it before counts, where it made one only; so the images may be gone
    when a trained run predicts. Raises InputError where nothing tells.
    """
    if is_demo:
        return TASK_NAMES[BOXES]
    made = made_before(working)
    if len(made) == 1 and not labels:
        return made[0]
    if not folder.is_dir():
        raise InputError(f"--input {folder} of --task own is the folder of the images: not there")
    return TASK_NAMES[kind_of(find_source(folder, labels))]


def made_before(working: Path) -> list[str]:
    """Those of the three tasks that step 02 has worked for."""
    folders = {name: TaskFolder(working / name) for name in TASK_NAMES.values()}
    return [name for name, folder in folders.items() if folder.plan.exists()]
