"""Further X-rays from folders of any form, for a task to learn from without labels of its own.

Their pictures are stored beside the task's own, in images/external/<set>/, under ids that begin
like this; table and record of a set are in external/<set>/. What is a copy of one of the task's
images, as it is or mirrored, is marked and never used.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxr.data.conversion import convert_all
from cxr.data.dataset import read_png
from cxr.data.duplicates import BITS, BLOCK, THRESHOLD, compare_bits, hash_image
from cxr.images.folder import search_image_files
from cxr.images.header import Header, why_not_frontal_chest
from cxr.run_folder import TaskFolder
from cxr.system import distributed
from cxr.system.disk import read_json, sync_all, write_json
from cxr.system.errors import InputError
from cxr.system.tables import write_csv

# The NIH's names: patient and image. Its images are in several data sets under other names.
NIH_NAME = re.compile(r"(\d{8})_\d{3}$")
MASKS = "mask"  # folders with this word in their names hold no X-rays
COLUMNS = ["image_id", "path", "width", "height", "not_frontal", "copy_of"]


def set_name(folder: Path) -> str:
    """Name of the set of a folder: the folder's, and a check sum of where it is."""
    where = folder.resolve()
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", where.name).strip("-") or "folder"
    return f"{plain}-{zlib.crc32(str(where).encode()):08x}"


def prepare_external(
    folder: Path, task: TaskFolder, task_ids: Sequence[str], size: int, workers: int
) -> pd.DataFrame:
    """Table (COLUMNS) of the X-rays below a folder, stored with `size` pixels.

    What is stored already is kept. task_ids: of the images that none may be a copy of; the column
    copy_of holds the one that an image is like, or "". not_frontal: why a DICOM's header speaks
    against a frontal chest X-ray, or "". Raises InputError where the folder holds no X-ray.
    """
    name = set_name(folder)
    record_path = task.external(name) / "record.json"
    table_path = task.external(name) / "table.csv"
    files = find_files(folder, task)
    origin = {
        "folder": str(folder.resolve()),
        "size": size,
        "files": check_sum(list(files)),
        "task_images": check_sum(task_ids),
    }
    with distributed.alone_together(task.external(name)):
        if not _is_made(record_path, table_path, origin):
            _make(name, files, task, task_ids, size, workers, origin)
    distributed.barrier()
    text = {"image_id": str, "path": str, "not_frontal": str, "copy_of": str}
    return pd.read_csv(table_path, dtype=text, keep_default_na=False)


def find_files(folder: Path, task: TaskFolder) -> dict[str, Path]:
    """{name below the folder: path} of the X-rays in any tree. Raises InputError without any."""
    if not folder.is_dir():
        raise InputError(f"--external {folder} is no folder: give one of X-rays")
    files = {}
    for item in search_image_files([folder], task.path.parent).items:
        parents = PurePath(item.name).parent.parts
        if not any(MASKS in part.lower() for part in parents):
            files[item.name] = item.path
    if not files:
        raise InputError(f"--external {folder} holds no DICOM, PNG or JPEG file: give another")
    return files


def check_sum(names: Sequence[str]) -> int:
    return zlib.crc32("\n".join(names).encode("utf-8", "surrogateescape"))


def _is_made(record_path: Path, table_path: Path, origin: dict) -> bool:
    """Whether the table is there and of these very files and images."""
    done = record_path.exists() and table_path.exists() and read_json(record_path) == origin
    answers = distributed.gather(done)
    return answers[0]


def _make(
    name: str,
    files: dict[str, Path],
    task: TaskFolder,
    task_ids: Sequence[str],
    size: int,
    workers: int,
    origin: dict,
) -> None:
    """Store the pictures, compare them with the task's, and write table and record."""
    rows = []
    for file, path in files.items():
        rows.append({"image_id": f"external/{name}/{file}", "path": str(path)})
    table = pd.DataFrame(rows)
    converted = convert_all(table, task.images, size, workers)
    if distributed.rank():
        return
    sync_all()
    table = table[table["image_id"].isin(converted.headers.keys())]
    if table.empty:
        raise InputError(
            f"none of the {len(files)} files below {origin['folder']} can be read; the first: "
            f"{converted.failed['reason'].iloc[0]}"
        )
    headers = [converted.headers[image_id] for image_id in table["image_id"]]
    table = table.assign(
        width=[header.width for header in headers],
        height=[header.height for header in headers],
        not_frontal=[reason_of(header) for header in headers],
        copy_of=find_copies_of(table["image_id"].tolist(), task_ids, task),
    )
    write_csv(task.external(name) / "failed.csv", converted.failed)
    write_csv(task.external(name) / "table.csv", table[COLUMNS])
    write_json(task.external(name) / "record.json", origin)


def reason_of(header: Header) -> str:
    return why_not_frontal_chest(header) or ""


def find_copies_of(ids: Sequence[str], task_ids: Sequence[str], task: TaskFolder) -> list[str]:
    """For each stored picture the task's image that it is a copy of, or "".

    By THRESHOLD of cxr/data/duplicates.py, as it is or mirrored.
    """
    own = hash_pictures(task_ids, task, "compare")
    copies = []
    if not len(own):
        return [""] * len(ids)
    for start in range(0, len(ids), BLOCK):
        block = ids[start : start + BLOCK]
        shares, _ = compare_bits(hash_pictures(block, task, "hashes"), own)
        for row in shares:
            best = int(row.argmax())
            copies.append(task_ids[best] if row[best] > THRESHOLD else "")
    return copies


def hash_pictures(ids: Sequence[str], task: TaskFolder, words: str) -> np.ndarray:
    """Bits (n, 2, BITS) of stored pictures, one at a time in memory."""
    bits = []
    for image_id in tqdm(ids, desc=words, mininterval=5, leave=False):
        bits.append(hash_image(read_png(task.image(image_id))))
    return np.array(bits).reshape(len(bits), 2, BITS)


def usable_rows(
    table: pd.DataFrame, own_names: frozenset[str], lateral: np.ndarray
) -> tuple[pd.DataFrame, Counter[str]]:
    """The rows that may be learned, and how many are left out for which reason.

    own_names: names, without ending, of the task's images in the public set that they come from.
    lateral: (n,) whether a table of labels calls an image a lateral one.
    """
    names = [PurePath(path).stem for path in table["path"]]
    by_name = np.array([name in own_names for name in names], bool)
    by_hash = (table["copy_of"] != "").to_numpy() & ~by_name
    other = (lateral | (table["not_frontal"] != "").to_numpy()) & ~by_name & ~by_hash
    reasons = Counter(
        {
            "are images of the task by its mapping": int(by_name.sum()),
            "are copies of the task's images by their pictures": int(by_hash.sum()),
            "are no frontal chest X-rays": int(other.sum()),
        }
    )
    kept = table[~(by_name | by_hash | other)].reset_index(drop=True)
    return kept.assign(group=[group_of(path) for path in kept["path"]]), +reasons


def group_of(path: str) -> str:
    """The patient of an image by the NIH's naming, as the data sets made of it call it, or ""."""
    found = NIH_NAME.match(PurePath(path).stem)
    return f"nih_{found[1]}" if found else ""
