"""Studies whose images were predicted: the mean of their class probabilities, as step 05 judges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from cxr.metrics.studies import study_means


class StudyImage(NamedTuple):
    """An image's study, "" where its file names none, and {class: probability}."""

    study: str
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class Study:
    """images: how many of it were predicted. probabilities: {class: mean over them}."""

    images: int
    probabilities: Mapping[str, float]


def merge_studies(images: Iterable[StudyImage], classes: Sequence[str]) -> dict[str, Study]:
    """{StudyInstanceUID: Study} of the images that name one, by rising UID."""
    uids = []
    rows = []
    for image in images:
        if image.study:
            uids.append(image.study)
            rows.append([image.probabilities[name] for name in classes])
    if not uids:
        return {}
    counts = pd.Series(uids).value_counts()
    studies = {}
    for uid, means in zip(*study_means(uids, rows), strict=True):
        probabilities = dict(zip(classes, means.tolist(), strict=True))
        studies[uid] = Study(int(counts[uid]), probabilities)
    return studies
