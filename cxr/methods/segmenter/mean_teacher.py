"""Learning from images without labels: a slow average of the network teaches it (Tarvainen and Valpola 2017).

The 5th place of SIIM-ACR Pneumothorax showed both the same picture, to the student in another brightness.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from cxr.data.dataset import ResumableSampler, XrayDataset, count_workers, make_loader
from cxr.networks.network import freeze_norms
from cxr.system.device import autocast
from cxr.system.errors import InputError

START, FULL = (
    5,
    30,
)  # epochs: before the first the consistency counts next to nothing, from the second on fully
LABEL_WEIGHT = 0.001
BRIGHTNESS = (0.9, 1.1)


def ramp(moment):
    """Share of the consistency's weight at a moment, counted in epochs from 0."""
    return 0.0005 if moment < START else math.exp(-5 * (1 - min(1, moment / FULL)) ** 2)


def teacher_decay(moment, updates):
    """The teacher forgets its beginnings quickly and later ones slowly."""
    slow = next(
        decay
        for end, decay in ((5, 0.5), (10, 0.9), (20, 0.99), (math.inf, 0.999))
        if moment <= end
    )
    return min(1 - 1 / (updates + 1), slow)


def consistency(student, teacher):
    """Mean squared difference of the probabilities, of pixels and, where there is a label head, of images."""
    terms = {name: F.mse_loss(student[name].sigmoid(), teacher[name].sigmoid()) for name in student}
    return terms["mask"] + LABEL_WEIGHT * terms.get("label", 0)


class RepeatSampler(ResumableSampler):
    """As many batches as another sampler has, of pictures drawn with replacement."""

    def __init__(self, length, other, batch_size):
        super().__init__(length, batch_size, other.seed, True, other.rank, other.world)
        self.other = other

    def total(self):
        return self.other.batches() * self.batch_size * self.world

    def order(self):
        return np.random.default_rng((self.seed, self.epoch, 1)).integers(
            self.length, size=self.total()
        )

    def key(self, order, place):
        return self.epoch, place, int(order[place])


class MeanTeacher:
    """The unlabelled folder beside the labelled batches: `start()` at an epoch's beginning, `terms()` at each step."""

    def __init__(self, state, sampler):
        self.state, config = state, state.config
        table = find_pictures(Path(config.unlabelled))
        dataset = XrayDataset(
            table, Path(config.unlabelled), config.image_size, config.augmentation, config.seed
        )
        self.sampler = RepeatSampler(len(table), sampler, config.unlabelled_batch)
        self.loader = make_loader(dataset, self.sampler, min(2, count_workers(config.workers)))

    def start(self):
        self.sampler.epoch, self.sampler.first_batch = self.state.epoch, self.state.step
        self.batches = iter(self.loader)

    def terms(self):
        """The student's batch norms keep still; its parameters are reached directly, so that DistributedDataParallel
        sees one forward for one backward."""
        state = self.state
        images = next(self.batches)["image"].to(state.device).float()
        with autocast(state.device, state.precision):
            with torch.no_grad():
                taught = state.average.module.eval()(images)
            freeze_norms(state.model)
            factors = torch.empty(len(images), 1, 1, 1, device=images.device).uniform_(*BRIGHTNESS)
            found = state.model((images * factors).clamp(max=255))
            state.model.train()
        return {
            "consistency": state.config.consistency
            * ramp(state.moment)
            * consistency(found, taught)
        }


def find_pictures(folder):
    """Table of the PNGs of a folder, with masks that nobody looks at, for the augmentation wants some."""
    names = sorted(path.stem for path in folder.glob("*.png"))
    if not names:
        raise InputError(f"--unlabelled {folder} holds no PNG pictures: give a folder of X-rays")
    return pd.DataFrame({"image_id": names, "label": -1, "mask": "-1", "width": 1, "height": 1})
