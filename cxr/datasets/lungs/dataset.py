"""Lung fields in frontal chest X-rays, learned from pictures with masks.

Such as those of Montgomery County and Shenzhen: Jaeger et al. 2014,
https://doi.org/10.3978/j.issn.2223-4292.2014.11.20. Other tasks crop their images by what is found.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pandas as pd

from cxr.data.image_table import Tables
from cxr.datasets.base import Answer, AnswerRequest, Dataset
from cxr.datasets.lungs.files import CLASSES, IMAGES, MASKS, read_lungs
from cxr.datasets.lungs.synthetic import write_lungs
from cxr.geometry.masks import EMPTY
from cxr.methods.base import Scorer
from cxr.methods.segmenter.scorer import Dice
from cxr.settings import Settings
from cxr.system.tables import write_csv


class Lungs(Dataset):
    slug = "lung-masks"
    title = "Lung fields"
    terms = (
        "Frontal X-rays with masks of the lungs that the user brought, such as Montgomery County "
        "and Shenzhen of the U.S. National Library of Medicine "
        "(https://doi.org/10.3978/j.issn.2223-4292.2014.11.20): under the terms of their source."
    )
    image_classes = CLASSES
    classes = ("Lung",)
    expected_files = (IMAGES, MASKS)
    answer_name = "results"
    finding = ("region", "regions")
    by_hand = (
        "Lung masks are not of a Kaggle competition: put frontal X-rays as PNG files into "
        "{folder}/cxr and masks of the same names into {folder}/masks (Montgomery County and "
        "Shenzhen of the U.S. National Library of Medicine), and run the same command again; or "
        "add --demo to use synthetic data"
    )

    @cached_property
    def scorer(self) -> Scorer:
        return Dice(
            "For each image twice the pixels that the predicted and the marked lungs share, "
            "divided by the sum of both areas; the mean over the images. 1 is perfect.",
            logged=("metric",),
        )

    def read_tables(self, folder: Path, settings: Settings) -> Tables:
        del settings
        return read_lungs(folder)

    def write_synthetic(self, folder: Path, n_train: int) -> bool:
        return write_lungs(folder, n_train=n_train)

    def write_answer(self, request: AnswerRequest) -> Answer:
        """A csv of the test images' masks as run lengths."""
        if request.answers is None:
            return Answer(None)
        path = request.judging.folder.path / "test_masks.csv"
        masks = [runs or EMPTY for runs in request.answers.values()]
        write_csv(path, pd.DataFrame({"image_id": list(request.answers), "mask": masks}))
        return Answer(path)
