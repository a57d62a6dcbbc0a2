"""Studies whose images were predicted: the mean of their class probabilities, as step 05 judges."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pydicom

from cxr.images.folder import Record
from cxr.images.header import read_first
from cxr.images.printable import printable
from cxr.metrics.studies import study_means
from cxr.system.tables import write_csv

LONGEST_UID = 64  # characters (PS3.5, 9.1)
UID_TAG = "StudyInstanceUID"


@dataclass(frozen=True)
class Study:
    """images: how many of it were predicted. probabilities: {class: mean over them}."""

    images: int
    probabilities: Mapping[str, float]


def read_study(path: Path) -> str:
    """The StudyInstanceUID of a DICOM that was read before, "" where it has none."""
    # From bytes: from a file pydicom makes room for any length that an element states.
    content = io.BytesIO(path.read_bytes())
    dataset = pydicom.dcmread(content, stop_before_pixels=True, force=True)
    value = read_first(dataset, UID_TAG)
    return printable(str(value or "").strip(" \0"))[:LONGEST_UID]


def merge_studies(records: Iterable[Record], classes: Sequence[str]) -> dict[str, Study]:
    """{StudyInstanceUID: Study} of the records whose image names one, by rising UID."""
    uids = []
    rows = []
    for record in records:
        if record["study"]:
            uids.append(record["study"])
            rows.append([record["probabilities"][name] for name in classes])
    if not uids:
        return {}
    counts = pd.Series(uids).value_counts()
    studies = {}
    for uid, means in zip(*study_means(uids, rows), strict=True):
        probabilities = dict(zip(classes, means.tolist(), strict=True))
        studies[uid] = Study(int(counts[uid]), probabilities)
    return studies


def write_studies(path: Path, studies: Mapping[str, Study], classes: Sequence[str]) -> None:
    """A row for each study: its UID, the number of its images, the probability of each class."""
    rows = []
    for uid, study in studies.items():
        values = [round(study.probabilities[name], 6) for name in classes]
        rows.append([uid, study.images, *values])
    columns = [f"probability of {name}" for name in classes]
    write_csv(path, pd.DataFrame(rows, columns=[UID_TAG, "images", *columns]))


def note_lone_images(records: Iterable[Record]) -> list[str]:
    """A sentence on images that name no study, or none."""
    count = sum(not record["study"] for record in records)
    if not count:
        return []
    return [
        f"{count} images name no study (StudyInstanceUID) and stand alone: they are in no row of "
        "studies.csv"
    ]
