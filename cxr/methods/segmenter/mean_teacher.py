"""Learning from images without labels: a slow average of the network teaches it.

Tarvainen and Valpola 2017. The 5th place of SIIM-ACR Pneumothorax showed both the same picture, to
the student in another brightness.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from cxr.data.batch import Batch, SampleContent
from cxr.data.dataset import XrayDataset
from cxr.data.loader import count_workers, make_loader
from cxr.data.samplers import ResumableSampler
from cxr.methods.base import LearningState
from cxr.networks.network import freeze_norms
from cxr.settings import Settings
from cxr.system.errors import InputError
from cxr.system.walk import files_below

# Epochs: before the first the consistency counts next to nothing, from the second on fully.
RAMP_START = 5
RAMP_END = 30
LABEL_WEIGHT = 0.001
BRIGHTNESS = (0.9, 1.1)
DECAYS = ((5, 0.5), (10, 0.9), (20, 0.99), (math.inf, 0.999))  # until which epoch


def ramp(moment: float) -> float:
    """Share of the consistency's weight at a moment, counted in epochs from 0."""
    if moment < RAMP_START:
        return 0.0005
    return math.exp(-5 * (1 - min(1, moment / RAMP_END)) ** 2)


def teacher_decay(moment: float, updates: int) -> float:
    """The teacher forgets its beginnings quickly and later ones slowly."""
    slow = next(decay for end, decay in DECAYS if moment <= end)
    return min(1 - 1 / (updates + 1), slow)


def consistency(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """Mean squared difference of the probabilities of pixels and, with a label head, of images."""
    terms = {}
    for name in student:
        terms[name] = F.mse_loss(student[name].sigmoid(), teacher[name].sigmoid())
    if "label" not in terms:
        return terms["mask"]
    return terms["mask"] + LABEL_WEIGHT * terms["label"]


class RepeatSampler(ResumableSampler):
    """As many batches as another sampler has, of pictures drawn with replacement."""

    def __init__(self, length: int, other: ResumableSampler, batch_size: int) -> None:
        super().__init__(length, batch_size, other.seed, True, other.rank, other.world)
        self.other = other

    def total(self) -> int:
        return self.other.batches() * self.batch_size * self.world

    def order(self) -> np.ndarray:
        generator = np.random.default_rng((self.seed, self.epoch, 1))
        return generator.integers(self.length, size=self.total())

    def key(self, order: np.ndarray, place: int) -> tuple[int, ...]:
        return self.epoch, place, int(order[place])


class MeanTeacher:
    """The unlabelled folder beside the labelled batches.

    `start()` at an epoch's beginning, `terms()` at each step.
    """

    def __init__(self, state: LearningState, settings: Settings, sampler: ResumableSampler) -> None:
        self.state = state
        self.weight = settings.method.consistency
        folder = Path(settings.method.unlabelled)
        table = find_pictures(folder)
        dataset = XrayDataset(
            table,
            folder,
            settings.training.image_size,
            SampleContent(annotated=False),
            augmentation=settings.training.augmentation,
            seed=settings.data.seed,
        )
        self.sampler = RepeatSampler(len(table), sampler, settings.method.unlabelled_batch)
        workers = min(2, count_workers(settings.machine.workers))
        self.loader = make_loader(dataset, self.sampler, workers)
        self.batches: Iterator[Batch] = iter(())

    def start(self) -> None:
        self.sampler.epoch = self.state.epoch
        self.sampler.first_batch = self.state.step
        self.batches = iter(self.loader)

    def terms(self) -> dict[str, Tensor]:
        """The weighted consistency of one unlabelled batch.

        The student's batch norms keep still; its parameters are reached directly, so that
        DistributedDataParallel sees one forward for one backward.
        """
        state = self.state
        assert state.average is not None
        images = next(self.batches).images.to(state.runtime.device).float()
        with state.runtime.autocast():
            with torch.no_grad():
                taught = state.average.module.eval()(images)
            freeze_norms(state.model)
            factors = torch.empty(len(images), 1, 1, 1, device=images.device).uniform_(*BRIGHTNESS)
            learned = state.model((images * factors).clamp(max=255))
            state.model.train()
        weight = self.weight * ramp(state.moment)
        return {"consistency": weight * consistency(learned, taught)}


def find_pictures(folder: Path) -> pd.DataFrame:
    """Table of the PNGs below a folder, in any tree, with their paths in it as image_id.

    Raises InputError where there are none.
    """
    names = []
    for path in files_below(folder, ".png"):
        if not path.name.startswith("."):
            names.append(path.relative_to(folder).with_suffix("").as_posix())
    if not names:
        raise InputError(f"--unlabelled {folder} holds no PNG pictures: give a folder of X-rays")
    return pd.DataFrame({"image_id": names})
