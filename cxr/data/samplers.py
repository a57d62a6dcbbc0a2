"""Orders of training images that ask for a share of positives, as the winners of SIIM-ACR Pneumothorax drew them.

Like `ResumableSampler`: functions of seed and epoch alone, shared out over processes, ready to start at any batch.
"""

import numpy as np

from cxr.data.dataset import ResumableSampler
from cxr.system.disk import InputError

PSEUDO_FROM = 1  # epoch, counted from 0, from which the 3rd place added images with predicted masks


class ShareSampler(ResumableSampler):
    """`counts(epoch)` -> (positives, negatives) of an epoch, as whole numbers; shuffled.

    Positives are drawn without replacement where there are enough, negatives (as published) with, unless all are
    wanted; what is drawn twice is augmented in another way each time. `positive` (n,): whether an image shows what is
    looked for; the images of `pseudo` (n,) are drawn besides, `pseudo_ratio` times as many, from the second epoch on.
    """

    def __init__(
        self, positive, counts, batch_size, seed, rank=0, world=1, pseudo=None, pseudo_ratio=0.0
    ):
        positive = np.asarray(positive, bool)
        pseudo = np.zeros_like(positive) if pseudo is None else np.asarray(pseudo, bool)
        self.positive, self.counts, self.pseudo_ratio = positive, counts, pseudo_ratio
        self.groups = [
            np.flatnonzero(positive & ~pseudo),
            np.flatnonzero(~positive & ~pseudo),
            np.flatnonzero(positive & pseudo),
            np.flatnonzero(~positive & pseudo),
        ]
        super().__init__(len(positive), batch_size, seed, True, rank, world)

    def drawn(self):
        """How many of this epoch are positives, negatives, and of either with a predicted mask."""
        ratio = self.pseudo_ratio if self.epoch >= PSEUDO_FROM else 0
        real = self.counts(self.epoch)
        wanted = [*real, *(int(ratio * n) for n in real)]
        return [n if len(group) else 0 for n, group in zip(wanted, self.groups)]

    def total(self):
        return sum(self.drawn())

    def order(self):
        rng = np.random.default_rng((self.seed, self.epoch))
        rows = [
            rng.choice(group, n, replace=n > len(group) or negative and n < len(group))
            if n
            else group[:0]
            for negative, group, n in zip((False, True, False, True), self.groups, self.drawn())
        ]
        return rng.permutation(np.concatenate(rows))

    def key(self, order, place):
        return self.epoch, place, int(order[place])

    def facts(self):
        drawn = self.drawn()
        return {"positive_share": round((drawn[0] + drawn[2]) / max(1, sum(drawn)), 4)}


def negatives_for(positives, share):
    """Number of negatives beside which that many positives are this share of all."""
    return int(positives * (1 - share) / share + 1e-9)


def share_counts(positives, first, last, epochs):
    """1st and 4th place: all positives and fewer or more negatives; the share moves evenly from `first` to `last`."""
    return lambda epoch: (
        positives,
        negatives_for(positives, first + (last - first) * epoch / epochs),
    )


def balanced_counts(images):
    """3rd and 5th place: as many draws as images, half of them positive."""
    return lambda epoch: (images // 2, images - images // 2)


def make_sampler(table, config, rank, world):
    """Order of the rows of a training table by --sampling. Positives have a `label` above 0; rows whose `pseudo` is
    true have a predicted mask. Raises InputError where a share of positives is asked for and there are none."""
    pseudo = table["pseudo"].to_numpy(bool) if "pseudo" in table else np.zeros(len(table), bool)
    positive = (table["label"] > 0).to_numpy()
    images, positives = int((~pseudo).sum()), int((positive & ~pseudo).sum())
    if config.sampling != "all" and not positives:
        raise InputError(
            f"--sampling {config.sampling} needs training images with a finding, and this fold has none: "
            "use --sampling all"
        )
    if config.sampling == "all" and not pseudo.any():
        return ResumableSampler(images, config.batch_size, config.seed, True, rank, world)
    counts = {
        "all": lambda epoch: (positives, images - positives),
        "positives": lambda epoch: (positives, 0),
        "balanced": balanced_counts(images),
        "share": share_counts(
            positives,
            config.positive_share,
            config.positive_share_end or config.positive_share,
            config.epochs,
        ),
    }
    return ShareSampler(
        positive,
        counts[config.sampling],
        config.batch_size,
        config.seed,
        rank,
        world,
        pseudo,
        config.pseudo_ratio,
    )
