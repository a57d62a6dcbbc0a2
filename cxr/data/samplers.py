"""Orders of training images: all of them, or with a share of positives.

Each order is a function of seed and epoch alone, shared out over processes, and can start at any
batch, so that a training that was stopped goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from torch.utils.data import Sampler

from cxr.method_settings import SamplingSettings
from cxr.system.errors import InputError

# Epoch, counted from 0, from which the 3rd place of SIIM-ACR Pneumothorax added images with
# predicted masks.
PSEUDO_FROM = 1

# What XrayDataset is asked for: (epoch, row) or (epoch, position in the epoch, row).
SampleKey = tuple[int, ...]


class ResumableSampler(Sampler):
    """(epoch, row) of the samples of one process.

    The order depends on seed and epoch alone. The caller sets `epoch`, and `first_batch` to start
    in the middle of it.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world: int = 1,
    ):
        if shuffle and length < world:
            raise InputError(
                f"{world} processes cannot share {length} training images: start fewer with "
                "torchrun"
            )
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.first_batch = 0

    def total(self) -> int:
        """Images of the present epoch, over all processes."""
        return self.length

    def order(self) -> np.ndarray:
        """Rows of the present epoch (total,), of all processes."""
        if not self.shuffle:
            return np.arange(self.length)
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.length)

    def facts(self) -> dict[str, float]:
        """Numbers for the log about the order of the present epoch."""
        return {}

    def batches(self) -> int:
        """Batches of this process in one epoch.

        In training a last batch that not all processes could fill is left out.
        """
        if self.shuffle:
            return max(1, self.total() // (self.batch_size * self.world))
        images = len(range(self.rank, self.length, self.world))
        return -(-images // self.batch_size)

    def __iter__(self) -> Iterator[SampleKey]:
        order = self.order()
        positions = range(len(order))[self.rank :: self.world]
        positions = positions[: self.batches() * self.batch_size]
        positions = positions[self.first_batch * self.batch_size :]
        for position in positions:  # one by one: a list of millions of keys takes a gigabyte
            yield self.key(order, position)

    def key(self, order: np.ndarray, position: int) -> SampleKey:
        """What the dataset is asked for at a position of the epoch's order."""
        return self.epoch, int(order[position])


class RowSampler(Sampler):
    """(0, row) of given rows, in their order."""

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[SampleKey]:
        for row in self.rows:
            yield 0, row


@dataclass(frozen=True)
class DrawnCounts:
    """How many images an epoch draws."""

    positives: int
    negatives: int


# Numbers of an epoch, counted from 0.
CountsOfEpoch = Callable[[int], DrawnCounts]


@dataclass(frozen=True)
class SameCounts:
    """The same numbers in every epoch."""

    positives: int
    negatives: int

    def __call__(self, epoch: int) -> DrawnCounts:
        del epoch
        return DrawnCounts(self.positives, self.negatives)


@dataclass(frozen=True)
class MovingShare:
    """1st and 4th place of SIIM-ACR Pneumothorax: all positives and fewer or more negatives.

    The share of positives moves evenly from `first` to `last`, which it would reach after the last
    of `epochs`.
    """

    positives: int
    first: float
    last: float
    epochs: int

    def __call__(self, epoch: int) -> DrawnCounts:
        share = self.first + (self.last - self.first) * epoch / self.epochs
        return DrawnCounts(self.positives, negatives_for(self.positives, share))


def negatives_for(positives: int, share: float) -> int:
    """Number of negatives beside which that many positives are this share of all."""
    return int(positives * (1 - share) / share + 1e-9)


def balanced_counts(images: int) -> SameCounts:
    """3rd and 5th place: as many draws as images, half of them positive."""
    positives = images // 2
    return SameCounts(positives, images - positives)


@dataclass(frozen=True)
class DrawnGroup:
    """Rows of a table of which an epoch draws some.

    positive: whether they show what is looked for. pseudo: whether their masks are predicted.
    """

    rows: np.ndarray
    positive: bool
    pseudo: bool


class ShareSampler(ResumableSampler):
    """As many positives and negatives as `counts` says of the epoch, shuffled.

    Positives are drawn without replacement where there are enough, negatives (as published) with,
    unless all are wanted; what is drawn twice is augmented in another way each time.

    positive: (n,) whether an image shows what is looked for. counts: epoch, counted from 0, to
    whole numbers. pseudo: (n,) images with predicted masks, which are drawn besides,
    `pseudo_ratio` times as many, from the second epoch on. sources: (n,) where an image comes from,
    for the log.
    """

    def __init__(
        self,
        positive: ArrayLike,
        counts: CountsOfEpoch,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        pseudo: ArrayLike | None = None,
        pseudo_ratio: float = 0.0,
        sources: ArrayLike | None = None,
    ):
        is_positive = np.asarray(positive, bool)
        self.is_positive = is_positive
        self.sources = None if sources is None else np.asarray(sources, str)
        is_pseudo = np.zeros_like(is_positive)
        if pseudo is not None:
            is_pseudo = np.asarray(pseudo, bool)
        self.counts = counts
        self.pseudo_ratio = pseudo_ratio
        self.groups = [
            DrawnGroup(np.flatnonzero(is_positive & ~is_pseudo), True, False),
            DrawnGroup(np.flatnonzero(~is_positive & ~is_pseudo), False, False),
            DrawnGroup(np.flatnonzero(is_positive & is_pseudo), True, True),
            DrawnGroup(np.flatnonzero(~is_positive & is_pseudo), False, True),
        ]
        super().__init__(len(is_positive), batch_size, seed, True, rank, world)

    def number_drawn(self, group: DrawnGroup) -> int:
        """How many of a group the present epoch draws."""
        if not len(group.rows):
            return 0
        counts = self.counts(self.epoch)
        number = counts.positives if group.positive else counts.negatives
        if not group.pseudo:
            return number
        if self.epoch < PSEUDO_FROM:
            return 0
        return int(self.pseudo_ratio * number)

    def total(self) -> int:
        return sum(self.number_drawn(group) for group in self.groups)

    def order(self) -> np.ndarray:
        rng = np.random.default_rng((self.seed, self.epoch))
        drawn = []
        for group in self.groups:
            number = self.number_drawn(group)
            if number:
                drawn.append(self._draw(rng, group, number))
        if not drawn:
            return np.zeros(0, np.int64)
        return rng.permutation(np.concatenate(drawn))

    def _draw(self, rng: np.random.Generator, group: DrawnGroup, number: int) -> np.ndarray:
        available = len(group.rows)
        replace = number > available
        if not group.positive and number < available:
            replace = True
        return rng.choice(group.rows, number, replace=replace)

    def key(self, order: np.ndarray, position: int) -> SampleKey:
        return self.epoch, position, int(order[position])

    def facts(self) -> dict[str, float]:
        positives = 0
        for group in self.groups:
            if group.positive:
                positives += self.number_drawn(group)
        share = {"positive_share": round(positives / max(1, self.total()), 4)}
        return share | self.drawn_by_source()

    def drawn_by_source(self) -> dict[str, float]:
        """{images_<source>, positives_<source>: how many the present epoch draws}."""
        counts: dict[str, float] = {}
        if self.sources is None:
            return counts
        order = self.order()
        for source in np.unique(self.sources):
            drawn = self.sources[order] == source
            counts[f"images_{source}"] = int(drawn.sum())
            counts[f"positives_{source}"] = int((drawn & self.is_positive[order]).sum())
        return counts


def make_share_sampler(
    table: pd.DataFrame,
    positive: np.ndarray,
    sampling: SamplingSettings,
    batch_size: int,
    epochs: int,
    seed: int,
    rank: int,
    world: int,
) -> ResumableSampler:
    """Order of the rows of a training table by --sampling.

    positive: (n,) which rows show a finding. With --pseudo, the rows whose column `pseudo` is true
    have a predicted mask, class or boxes. Raises InputError where a share of positives is asked for
    and there are none.
    """
    if sampling.sampling == "all" and not sampling.pseudo:
        return ResumableSampler(len(table), batch_size, seed, True, rank, world)
    pseudo = np.zeros(len(table), bool)
    if sampling.pseudo:
        pseudo = table["pseudo"].to_numpy(bool)
    images = int((~pseudo).sum())
    positives = int((positive & ~pseudo).sum())
    if sampling.sampling != "all" and not positives:
        raise InputError(
            f"--sampling {sampling.sampling} needs training images with a finding, and this fold "
            "has none: use --sampling all"
        )
    if sampling.sampling == "all" and not pseudo.any():
        return ResumableSampler(images, batch_size, seed, True, rank, world)
    counts = _counts(sampling, images, positives, epochs)
    sources = table["source"] if sampling.pseudo else None
    return ShareSampler(
        positive, counts, batch_size, seed, rank, world, pseudo, sampling.pseudo_ratio, sources
    )


def _counts(sampling: SamplingSettings, images: int, positives: int, epochs: int) -> CountsOfEpoch:
    """What --sampling draws of so many images, of which so many are positive."""
    if sampling.sampling == "positives":
        return SameCounts(positives, 0)
    if sampling.sampling == "balanced":
        return balanced_counts(images)
    if sampling.sampling == "share":
        first = sampling.positive_share
        last = sampling.positive_share_end or first
        return MovingShare(positives, first, last, epochs)
    return SameCounts(positives, images - positives)
