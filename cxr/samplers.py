"""Orders of training images that ask for a share of positives (first form)."""

import numpy as np

from cxr.data import ResumableSampler


class ShareSampler(ResumableSampler):
    """All positives once and as many negatives, with replacement, that positives are `share(epoch)` of the images."""

    def __init__(self, positive, share, batch_size, seed, rank=0, world=1):
        self.positives, self.negatives = np.flatnonzero(positive), np.flatnonzero(~np.asarray(positive, bool))
        self.share = share
        super().__init__(len(positive), batch_size, seed, True, rank, world)

    def drawn(self):
        share = self.share(self.epoch)
        return int(len(self.positives) * (1 - share) / share) if len(self.negatives) else 0

    def order(self):
        rng = np.random.default_rng((self.seed, self.epoch))
        rows = np.concatenate([self.positives, rng.choice(self.negatives, self.drawn())])
        return rng.permutation(rows)

    def facts(self):
        return {"positive_share": len(self.positives) / (len(self.positives) + self.drawn())}

    def batches(self):
        return max(1, (len(self.positives) + self.drawn()) // (self.batch_size * self.world))
