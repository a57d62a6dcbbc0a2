"""Mirrors of a data set: its images as PNG or JPEG files, mostly smaller, as people share them.

The boxes of the tables stay in pixels of the original images. A mirror brings a table that says how
large these were: `meta.csv` with image_id, dim0 and dim1 (rows and columns, as numpy has them), or
one with width and height. Where it stands, every picture is taken for its original, and all that
is answered is in original pixels, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.data.image_table import note_count
from cxr.images.identity import read_identity
from cxr.system.errors import InputError
from cxr.system.tables import read_whole_table, to_numbers

PICTURES = (".png", ".jpg", ".jpeg")
# Names of columns in small letters, without anything but letters and digits.
IDS = ("imageid", "image", "imgid", "id", "filename", "name")
SIZES = (("dim1", "dim0"), ("width", "height"), ("origwidth", "origheight"), ("columns", "rows"))
PATIENTS = ("patientid", "patient", "pid")
STUDIES = ("studyid", "studyinstanceuid", "study")
COLUMNS = ["width", "height", "patient", "study"]
ROUNDING = 1.0  # pixels by which a box may reach out of its image
SIZES_IN_WORDS = (
    "a csv file with image_id, dim0 (rows) and dim1 (columns), or with width and height"
)


def image_ending(folder: Path, usual: str, pattern: str = "*") -> str:
    """The ending of the images of a folder: the usual one where there is one such file, else that
    of the first picture; the usual one in an empty folder."""
    found = {path.suffix.lower() for path in folder.glob(pattern) if path.is_file()}
    for ending in (usual, *PICTURES):
        if ending in found:
            return ending
    return usual


def read_originals(folder: Path, suffix: str = "") -> pd.DataFrame:
    """What the csv files of a mirror say of its originals: COLUMNS by image_id.

    Texts are "" where nothing says them. A csv file counts that names images and has both columns
    of SIZES, if these are no sizes of boxes; of several rows of an image the first. suffix: what
    may stand behind the ids.
    """
    parts = []
    for path in sorted(folder.glob("*.csv")):
        part = facts_of(path)
        if part is not None:
            parts.append(part)
    if not parts:
        return pd.DataFrame(columns=COLUMNS, index=pd.Index([], dtype=str))
    facts = pd.concat(parts)
    facts.index = [name.removesuffix(suffix) for name in facts.index]
    return facts[~facts.index.duplicated()]


def facts_of(path: Path) -> pd.DataFrame | None:
    """The facts of one csv file; None where it is no table of sizes."""
    by_name = {plain(name): name for name in read_whole_table(path, rows=1).columns}
    id_name = first_of(by_name, IDS)
    sizes = [pair for pair in SIZES if set(pair) <= by_name.keys()]
    has_boxes = {"x", "y"} <= by_name.keys()
    if not id_name or not sizes or has_boxes:
        return None
    table = read_whole_table(path)
    width_name, height_name = sizes[0]
    numbers = to_numbers(table[[by_name[width_name], by_name[height_name]]])
    wrong = ~(numbers > 0).all(axis=1)
    if wrong.any():
        raise InputError(
            f"{path} has {wrong.sum()} rows whose {width_name} and {height_name} are no size (the "
            f"first is of {table[id_name][wrong].iloc[0]}): repair it"
        )
    facts = pd.DataFrame({"width": numbers.iloc[:, 0], "height": numbers.iloc[:, 1]})
    for name, columns in (("patient", PATIENTS), ("study", STUDIES)):
        column = first_of(by_name, columns)
        facts[name] = table[column].fillna("") if column else ""
    names = table[id_name].fillna("")
    facts.index = pd.Index([name_of(text) for text in names])
    return facts


def plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def first_of(by_name: Mapping[str, str], wanted: tuple[str, ...]) -> str:
    """The table's own name of the first column that is called so; "" without one."""
    for name in wanted:
        if name in by_name:
            return by_name[name]
    return ""


def name_of(text: str) -> str:
    """An id as the file is called, without its ending."""
    ending = Path(text).suffix.lower()
    return text[: -len(ending)] if ending in PICTURES else text


def with_original_sizes(
    table: pd.DataFrame, facts: pd.DataFrame, folder: Path, notes: list[str]
) -> pd.DataFrame:
    """A table of pictures with the columns known_width and known_height, which step 02 takes for
    the sizes of the images; nan where nothing says them.

    table: as `make_image_table` gives it. facts: what `read_originals` found in `folder`. Raises
    InputError where boxes lie outside of pictures whose originals' size is not known: these are
    smaller copies, and nobody knows by how much.
    """
    is_picture = table["path"].map(lambda path: Path(path).suffix.lower() in PICTURES)
    if not is_picture.any():
        return table
    known = facts.reindex(table["image_id"])[["width", "height"]].astype(float)
    table = table.assign(
        known_width=known["width"].where(is_picture.to_numpy()).to_numpy(),
        known_height=known["height"].where(is_picture.to_numpy()).to_numpy(),
    )
    unknown = is_picture & table["known_width"].isna()
    for row in table[unknown & (table["n_boxes"] > 0)].itertuples():
        refuse_outside(Path(row.path), row.boxes, folder)
    note_count(
        notes,
        int(unknown.sum()),
        "pictures are of unknown original size and taken for the originals themselves; if they are "
        f"smaller copies, boxes are in the wrong place: put {SIZES_IN_WORDS} into {folder}",
    )
    return table


def refuse_outside(path: Path, boxes_text: str, folder: Path) -> None:
    """Raises InputError where a picture is too small for its boxes (JSON text)."""
    size = read_identity(path)
    if not size.width:  # step 02 will say what is wrong with it
        return
    boxes = np.array(json.loads(boxes_text), float).reshape(-1, 4)
    right, bottom = boxes[:, 2:].max(axis=0)
    if right <= size.width + ROUNDING and bottom <= size.height + ROUNDING:
        return
    raise InputError(
        f"{path} has {size.width} x {size.height} pixels and a box that ends at {right:g}, "
        f"{bottom:g}: it is a smaller copy, and no table says how large the original is. Put "
        f"{SIZES_IN_WORDS} into {folder}"
    )
