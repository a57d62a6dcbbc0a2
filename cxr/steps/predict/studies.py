"""What step 04 writes of studies whose images were predicted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from cxr.images.folder import Record
from cxr.images.study import UID_TAG
from cxr.inference.studies import Study, StudyImage, merge_studies
from cxr.system.tables import write_csv


def studies_of_records(records: Iterable[Record], classes: Sequence[str]) -> dict[str, Study]:
    """{StudyInstanceUID: Study} of the records of a run whose classes are of studies."""
    images = (StudyImage(record["study"], record["probabilities"]) for record in records)
    return merge_studies(images, classes)


def write_studies(path: Path, studies: Mapping[str, Study], classes: Sequence[str]) -> None:
    """A row for each study: its UID, the number of its images, the probability of each class."""
    rows = []
    for uid, study in studies.items():
        values = [round(study.probabilities[name], 6) for name in classes]
        rows.append([uid, study.images, *values])
    columns = [f"probability of {name}" for name in classes]
    write_csv(path, pd.DataFrame(rows, columns=[UID_TAG, "images", *columns]))


def note_lone_images(records: Iterable[Record]) -> list[str]:
    """A sentence on images that name no study, or none. Only runs of studies record them."""
    count = sum(record.get("study") == "" for record in records)
    if not count:
        return []
    return [
        f"{count} images name no study (StudyInstanceUID) and stand alone: they are in no row of "
        "studies.csv"
    ]
