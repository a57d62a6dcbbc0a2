"""Labels in a sheet, csv or xlsx: a row an image with its classes, or a row a box."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.data.image_table import NO_FINDING, note_count
from cxr.datasets.own.images import TEST, OwnImage, OwnImages
from cxr.datasets.own.labels import BOXES, CLASSES, OwnLabels
from cxr.datasets.own.presets import OwnSettings
from cxr.system.errors import InputError
from cxr.system.tables import read_whole_table, to_numbers

# Names of columns in small letters, without anything but letters and digits.
CORNERS = (
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("left", "top", "right", "bottom"),
)
SIZES = (
    ("x", "y", "width", "height"),
    ("x", "y", "w", "h"),
    ("left", "top", "width", "height"),
    ("bboxx", "bboxy", "bboxw", "bboxh"),
    ("bboxx", "bboxy", "bboxwidth", "bboxheight"),
)
CLASS_NAMES = (
    *("class", "classname", "label", "finding", "findinglabel", "findinglabels", "category"),
    *("target", "labels", "findings"),
)
BETWEEN = "|"  # stands between the findings of a cell, as in the NIH's tables
PATIENT_NAMES = ("patient", "patientid", "subject", "subjectid", "pid", "mrn", "case", "caseid")
SPLIT_NAMES = ("split", "set", "subset", "partition", "dataset")
# What a column may be called that is neither label nor place.
FACT_NAMES = (
    *("age", "sex", "gender", "patientage", "patientsex", "patientgender", "view", "viewposition"),
    *("width", "height", "date", "studydate", "followup", "modality", "site", "hospital", "index"),
    *("studyinstanceuid", "seriesinstanceuid", "study", "studyid", "series", "seriesid", "fold"),
    *("confidence", "score", "reader", "radid", "radiologist", "comment", "remark", "notes"),
    *("frontallateral", "appa", "originalimagewidth"),  # CheXpert's, the NIH's
)
UNCERTAIN = -1  # in a column of 0 and 1: the report is not sure, as in CheXpert's tables
FOUND_SHARE = 0.5  # of the rows whose image a column has to name
MOST_CLASSES = 50  # of one column; more are names or remarks
FIRST_LINE = 2  # of a file, below the names of the columns
ONE_BOX_CLASS = "finding"  # what boxes show where nothing says it


class Sheet:
    """A table as text, with what its columns seem to be. Lines count from 1, with the header."""

    def __init__(self, path: Path, images: OwnImages, settings: OwnSettings) -> None:
        self.path = path
        self.images = images
        self.settings = settings
        self.table = read_whole_table(path)
        if self.table.empty:
            raise InputError(f"{path} has no rows: give the labels of at least some images")
        self.plain = {name: plain_name(name) for name in self.table.columns}
        self.notes: list[str] = []
        self.id_column = self.find_id_column()
        self.rows = [self.find_image(text) for text in self.table[self.id_column]]
        self.missing = [number for number, image in enumerate(self.rows) if image is None]
        self.left_out: set[str] = set()  # images that nobody wants to see, not as unlabelled either
        self.choose_rows()
        self.box_columns = self.find_box_columns()
        self.patient_column = self.find_patient_column()
        self.split_column = self.find_column(SPLIT_NAMES, but=[self.id_column])

    # -- columns

    def find_id_column(self) -> str:
        """The column that names most images. Raises InputError where none or several do."""
        wanted = self.settings.id_column
        if wanted:
            self.require(wanted, "--id-column")
            return wanted
        shares = {}
        for name in self.table.columns:
            found = [self.find_image(text) is not None for text in self.table[name].unique()]
            shares[name] = float(np.mean(found))
        best = max(shares.values())
        columns = [name for name, share in shares.items() if share == best]
        naming = [name for name, share in shares.items() if share > 0]
        if best < FOUND_SHARE and len(naming) != 1:
            first = self.table.columns[0]
            raise self.images.none_of(self.path, self.table[first].dropna().unique()[:1].tolist())
        if len(columns) > 1:
            raise InputError(
                f"{self.path}: {' and '.join(columns)} both name images: say which with --id-column"
            )
        return columns[0]

    def find_image(self, text: object) -> OwnImage | None:
        if not isinstance(text, str) or not text:
            return None
        return self.images.find(text)

    def require(self, name: str, flag: str) -> None:
        if name not in self.table.columns:
            there = ", ".join(self.table.columns)
            raise InputError(f"{self.path} has no column {name} ({flag}); it has {there}")

    def find_column(self, names: Sequence[str], but: Iterable[str] = ()) -> str:
        """The first column that is called like one of the names; "" without one."""
        left_out = set(but)
        for wanted in names:
            for name, plain in self.plain.items():
                if plain == wanted and name not in left_out:
                    return name
        return ""

    def find_box_columns(self) -> tuple[list[str], bool] | None:
        """Four columns of boxes and whether the last two are sizes; None where there are none."""
        for names, are_sizes in [*((n, False) for n in CORNERS), *((n, True) for n in SIZES)]:
            columns = [self.find_column([name]) for name in names]
            if all(columns):
                return columns, are_sizes
        return None

    def find_patient_column(self) -> str:
        wanted = self.settings.patient_column
        if wanted:
            self.require(wanted, "--patient-column")
            return wanted
        return self.find_column(PATIENT_NAMES, but=[self.id_column])

    def label_candidates(self) -> list[str]:
        """Columns that may hold labels."""
        taken = {self.id_column, self.patient_column, self.split_column}
        if self.box_columns:
            taken |= set(self.box_columns[0])
        candidates = []
        for name, plain in self.plain.items():
            if name not in taken and plain not in FACT_NAMES:
                candidates.append(name)
        return candidates

    def label_columns(self) -> list[str]:
        """The columns of --label-columns, or those that can be nothing else."""
        chosen = list(self.settings.label_columns)
        for name in chosen:
            self.require(name, "--label-columns")
        return chosen

    def line(self, number: int) -> str:
        """Words for row `number`, counted from 0."""
        return f"{self.path.name} line {number + FIRST_LINE}"

    # -- rows

    def choose_rows(self) -> None:
        """Only the rows of --only-rows; the images of the others are left out."""
        for condition in self.settings.only_rows:
            name, _, wanted = condition.partition("=")
            self.require(name, "--only-rows")
            others = np.flatnonzero(self.table[name].fillna("") != wanted)
            if len(others) == len(self.table):
                there = ", ".join(sorted(self.table[name].dropna().unique())[:5])
                raise InputError(
                    f"{self.path}: no row has {wanted!r} as {name} (--only-rows); there are {there}"
                )
            self.leave_out(others, f"are not of --only-rows {condition}")

    def leave_out(self, numbers: Iterable[int], words: str) -> None:
        """Rows whose images are neither learned nor predicted, with a note."""
        count = 0
        for number in numbers:
            image = self.rows[number]
            if image is not None:
                self.left_out.add(image.image_id)
                self.rows[number] = None
                count += 1
        note_count(self.notes, count, f"rows of {self.path.name} {words} and were left out")

    def missing_images(self) -> None:
        """A note on rows whose image is not there."""
        missing = self.missing
        if not missing:
            return
        name = self.table[self.id_column].iloc[missing[0]]
        words = f"{self.line(missing[0])}: {name!r} is no image below {self.images.folder}"
        twin = self.images.twin(str(name))
        if twin:
            words += f", where one is called {twin}: write ids as the files are called, as text"
        self.notes.append(f"{len(missing)} rows have no image and were left out ({words})")

    def add_facts(self, labels: OwnLabels, number: int, image: OwnImage) -> None:
        """Patient and split of a row."""
        annotation = labels.of_image(image, self.line(number))
        if self.patient_column:
            annotation.patient = str(self.table[self.patient_column].iloc[number] or "")
        if self.split_column:
            word = str(self.table[self.split_column].iloc[number]).lower()
            annotation.is_test = word == TEST


def plain_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def read_sheet(path: Path, images: OwnImages, settings: OwnSettings, kind: str) -> OwnLabels:
    """The labels of a sheet. kind: boxes or classes. InputError with the line of what is wrong."""
    sheet = Sheet(path, images, settings)
    sheet.missing_images()
    labels = boxes_of_sheet(sheet) if kind == BOXES else classes_of_sheet(sheet)
    labels.notes = [*sheet.notes, *labels.notes]
    labels.left_out = sheet.left_out
    return labels


def kind_of_sheet(columns: Sequence[str]) -> str:
    """Boxes where four columns can be a box, else classes."""
    plain = {plain_name(name) for name in columns}
    for names in [*CORNERS, *SIZES]:
        if set(names) <= plain:
            return BOXES
    return CLASSES


# ---------------------------------------------------------------------------------- boxes


def boxes_of_sheet(sheet: Sheet) -> OwnLabels:
    if sheet.box_columns is None:
        raise InputError(
            f"{sheet.path} has no four columns of boxes, such as x1 y1 x2 y2 or x y width height"
        )
    columns, are_sizes = sheet.box_columns
    numbers = to_numbers(sheet.table[columns])
    is_text = (numbers.isna() & sheet.table[columns].notna()).any(axis=1)
    if is_text.any():
        first = int(np.flatnonzero(is_text)[0])
        raise InputError(f"{sheet.line(first)}: a box has something else than numbers: mend it")
    is_box = numbers.notna().all(axis=1).to_numpy()
    class_column = find_class_column(sheet)
    names = box_class_names(sheet, class_column, is_box)
    labels = OwnLabels(BOXES, tuple(dict.fromkeys(names[is_box])))
    if sheet.settings.class_names:
        labels.classes = sheet.settings.class_names
    for number, image in enumerate(sheet.rows):
        if image is None:
            continue
        sheet.add_facts(labels, number, image)
        if not is_box[number]:
            continue
        if names[number] not in labels.classes:
            raise InputError(
                f"{sheet.line(number)}: {names[number]!r} is none of the classes "
                f"{', '.join(labels.classes)}"
            )
        x1, y1, x2, y2 = numbers.iloc[number].tolist()
        if are_sizes:
            x2 += x1
            y2 += y1
        label = labels.classes.index(names[number])
        labels.add_box(image, sheet.line(number), [x1, y1, x2, y2], label)
    labels.classes = labels.classes or (ONE_BOX_CLASS,)
    return labels


def find_class_column(sheet: Sheet) -> str:
    """The column that says what a box shows; "" where there is one kind of box only."""
    chosen = sheet.label_columns()
    if chosen:
        return chosen[0]
    named = sheet.find_column(CLASS_NAMES, but=[sheet.id_column])
    if named:
        return named
    candidates = sheet.label_candidates()
    if len(candidates) > 1:
        raise InputError(
            f"{sheet.path}: {', '.join(candidates)} may say what the boxes show: name the column "
            "with --label-columns"
        )
    return candidates[0] if candidates else ""


def box_class_names(sheet: Sheet, column: str, is_box: np.ndarray) -> np.ndarray:
    """The class of each row's box. Where boxes have a 1 throughout, it is the column's name."""
    if not column:
        return np.array([ONE_BOX_CLASS] * len(sheet.table), object)
    texts = sheet.table[column].fillna("").to_numpy(object)
    of_boxes = set(texts[is_box])
    if of_boxes <= {"1", "1.0", "true", "True"}:
        return np.array([column] * len(texts), object)
    return texts


# -------------------------------------------------------------------------------- classes


def classes_of_sheet(sheet: Sheet) -> OwnLabels:
    columns = sheet.label_columns() or sheet.label_candidates()
    if not columns:
        raise InputError(f"{sheet.path} has no column of labels beside {sheet.id_column}")
    if len(columns) == 1 and is_joined(sheet, columns[0]):
        return read_joined(sheet, columns[0])
    binary = [name for name in columns if is_binary(sheet.table[name])]
    if len(binary) == len(columns):
        return read_findings(sheet, columns)
    if len(columns) == 1:
        return read_one_class(sheet, columns[0])
    named = sheet.find_column(CLASS_NAMES, but=[sheet.id_column])
    if not sheet.settings.label_columns and named and not binary:
        if is_joined(sheet, named):
            return read_joined(sheet, named)
        return read_one_class(sheet, named)
    raise InputError(
        f"{sheet.path}: which of {', '.join(columns)} are labels? Name one of classes, or several "
        f"of 0 and 1, with --label-columns{describe_binary(binary)}"
    )


def describe_binary(binary: Sequence[str]) -> str:
    return f" ({', '.join(binary)} hold 0 and 1)" if binary else ""


def is_binary(column: pd.Series) -> bool:
    """Whether a column holds 0, 1 and UNCERTAIN alone, however they are written."""
    numbers = to_numbers(column.to_frame())[column.name]
    has_text = (numbers.isna() & column.notna()).any()
    is_answer = numbers.dropna().isin([0, 1, UNCERTAIN]).all()
    return not has_text and bool(is_answer) and numbers.notna().any()


def is_joined(sheet: Sheet, column: str) -> bool:
    """Whether a cell of a column may name several findings, such as Mass|Nodule."""
    return bool(sheet.table[column].fillna("").str.contains(BETWEEN, regex=False).any())


def split_findings(text: str) -> list[str]:
    """The findings of a cell such as Mass|Nodule."""
    words = [word.strip() for word in text.split(BETWEEN)]
    return [word for word in words if word and word.lower() != NO_FINDING.lower()]


def read_joined(sheet: Sheet, column: str) -> OwnLabels:
    """A column whose cells name findings with | between them; "No Finding" names none."""
    cells = [split_findings(text) for text in sheet.table[column].fillna("")]
    return read_named(sheet, column, cells, several=True)


def read_findings(sheet: Sheet, columns: Sequence[str]) -> OwnLabels:
    """Columns of 0 and 1; an empty cell counts as 0, with a note, and UNCERTAIN as --uncertain
    says."""
    numbers = to_numbers(sheet.table[list(columns)])
    is_there = np.array([image is not None for image in sheet.rows])
    is_uncertain = numbers == UNCERTAIN
    uncertain = int(is_uncertain[is_there].sum().sum())
    policy = sheet.settings.uncertain
    if policy == "leave-out":
        sheet.leave_out(np.flatnonzero(is_uncertain.any(axis=1)), "hold a -1 (--uncertain)")
    else:
        note_count(sheet.notes, uncertain, f"cells hold -1 and count as {policy} (--uncertain)")
    numbers = numbers.mask(is_uncertain, int(policy == "positive"))
    empty = int(numbers[is_there].isna().sum().sum())
    labels = OwnLabels(CLASSES, tuple(columns), several=True)
    if empty:
        labels.notes.append(f"{empty} empty cells of {sheet.path.name} count as 0")
    values = numbers.fillna(0).astype(int).to_numpy()
    for number, image in enumerate(sheet.rows):
        if image is not None:
            put_classes(sheet, labels, number, image, values[number].tolist())
    return labels


def read_one_class(sheet: Sheet, column: str) -> OwnLabels:
    """A column of one class for each image."""
    cells = [[text] if text else [] for text in sheet.table[column].fillna("")]
    labels = read_named(sheet, column, cells, several=False)
    if len(labels.classes) < 2:
        found = ", ".join(map(repr, labels.classes)) or "nothing"
        raise InputError(
            f"{sheet.path}: {column} has {found} only, and there is nothing to learn from one "
            "class: name another column with --label-columns"
        )
    return labels


def read_named(
    sheet: Sheet, column: str, cells: Sequence[Sequence[str]], several: bool
) -> OwnLabels:
    """Classes that the cells of a column name; an image whose cell is empty has no label.

    cells: of each row, the names in it.
    """
    names = sheet.settings.class_names or tuple(sorted(set().union(*cells)))
    if len(names) > MOST_CLASSES:
        raise InputError(
            f"{sheet.path}: {column} names {len(names)} different classes, such as {names[0]!r}: "
            "name the column of the classes with --label-columns"
        )
    is_empty = (sheet.table[column].fillna("") == "").to_numpy()
    labels = OwnLabels(CLASSES, names, several=several)
    for number, image in enumerate(sheet.rows):
        if image is None:
            continue
        if is_empty[number]:
            labels.notes.append(f"{sheet.line(number)}: no class, so it counts as unlabelled")
            continue
        unknown = [word for word in cells[number] if word not in names]
        if unknown:
            raise InputError(
                f"{sheet.line(number)}: {unknown[0]!r} is none of the classes {', '.join(names)}"
            )
        put_classes(sheet, labels, number, image, [int(name in cells[number]) for name in names])
    return labels


def put_classes(
    sheet: Sheet, labels: OwnLabels, number: int, image: OwnImage, findings: list[int]
) -> None:
    """Raises InputError where two rows of an image disagree."""
    known = labels.annotations.get(image.image_id)
    if known is not None and list(known.findings) != findings:
        raise InputError(
            f"{sheet.line(number)}: {image.image_id} has other labels than on {known.where}: mend "
            "one of them"
        )
    sheet.add_facts(labels, number, image)
    labels.annotations[image.image_id].findings = findings
