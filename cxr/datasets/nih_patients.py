"""Patients of images that come from NIH ChestX-ray14, where one patient may own several of them.

The data sets made of it have new names for the images, and a file beside them tells the old ones:
the NIH's 00019124_092.png begins with the patient's number.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from cxr.data.image_table import note_count, note_twins
from cxr.system.tables import read_csv

# How the groups of such patients begin, and what the data set of all of them is called.
COLLECTION = ("nih_", "NIH ChestX-ray14")
NIH_NAME = re.compile(r"(\d{8})_\d{3}")  # of an image: patient and follow-up


def patient_by_name(image_id: str) -> str:
    """ "nih_<patient>" of an image that is called as the NIH calls it; else ""."""
    match = NIH_NAME.fullmatch(image_id)
    return f"{COLLECTION[0]}{match[1]}" if match else ""


def find_mapping(input_dir: Path, names: Collection[str]) -> Path | None:
    """The first of these files in input/<slug>/ or else in input/."""
    for folder in (input_dir, input_dir.parent):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    return None


def read_public_names(path: Path | None, columns: tuple[str, str]) -> dict[str, str]:
    """{image_id: the NIH's name without ending} of a csv with these two columns; {} without it."""
    if path is None:
        return {}
    table = read_csv(path, columns, may_be_empty=True, remedy="repair or remove it").fillna("")
    names = {}
    for image_id, name in table.itertuples(index=False):
        if name:
            names[image_id] = Path(name).stem
    return names


def group_by_nih_patient(
    names: Collection[str], patients: Mapping[str, str], source: Path, notes: list[str]
) -> dict[str, str]:
    """{name: "nih_<patient>"} of the images whose patient is known; what was done goes to notes.

    patients: {name: patient, or "" where it is unknown}, as the file `source` says.
    """
    groups = {}
    for name in names:
        patient = patients.get(name, "")
        if patient:
            groups[name] = f"{COLLECTION[0]}{patient}"
    notes.append(f"grouped by {len(set(groups.values()))} NIH patients from {source.name}")
    unknown = len(names) - len(groups)
    note_count(
        notes, unknown, f"images are not in {source.name} and stand for a patient of their own"
    )
    note_twins(notes, names, patients)
    return groups
