"""What is measured in an epoch, under explicit names: log.csv, TensorBoard, the printed line, and a
tracker if one is wanted.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from cxr.system.disk import atomic
from cxr.system.tracker import Tracker


@dataclass(frozen=True)
class EpochFigures:
    """All that is logged of one epoch, counted from 1.

    train, valid: loss terms by name, `loss` being their sum. metrics: of the scorer, `metric`
    being the one that counts. sampling: facts about the epoch's images, such as the share of
    positives. gradient_norm: mean over the updates, before clipping.
    """

    epoch: int
    lr: float
    gradient_norm: float
    train: Mapping[str, float]
    valid: Mapping[str, float]
    metrics: Mapping[str, float]
    seconds: float
    images_per_second: float
    sampling: Mapping[str, float] = field(default_factory=dict)

    def columns(self) -> dict[str, float]:
        """{column of log.csv: value}."""
        columns: dict[str, float] = {"epoch": self.epoch, "lr": self.lr}
        for name, value in self.train.items():
            columns[f"train_{name}"] = value
        for name, value in self.valid.items():
            columns[f"valid_{name}"] = value
        columns |= self.metrics
        columns |= self.sampling
        columns["gradient_norm"] = self.gradient_norm
        columns["seconds"] = self.seconds
        columns["images_per_second"] = self.images_per_second
        return columns

    def tags(self) -> dict[str, float]:
        """{tag of TensorBoard: value}; what belongs together stands in one group."""
        tags = {f"loss_{name}/train": value for name, value in self.train.items()}
        tags |= {f"loss_{name}/valid": value for name, value in self.valid.items()}
        tags |= {f"metrics/{name}": value for name, value in self.metrics.items()}
        tags |= {f"sampling/{name}": value for name, value in self.sampling.items()}
        tags["optimizer/lr"] = self.lr
        tags["optimizer/gradient_norm"] = self.gradient_norm
        tags["speed/images_per_second"] = self.images_per_second
        tags["speed/seconds"] = self.seconds
        return tags

    def line(self, printed: Sequence[str]) -> str:
        """Words for the console with these metrics."""
        metrics = [f"{name.replace('_', ' ')} {self.metrics[name]:.4f}" for name in printed]
        return (
            f"train {self.train['loss']:.4f}, valid {self.valid['loss']:.4f}, "
            f"{', '.join(metrics)}, {self.images_per_second:.1f} images/s"
        )


class MetricLog:
    """log.csv and TensorBoard events of one fold; an epoch trained again replaces itself."""

    def __init__(self, path: Path, first_epoch: int, tracker: Tracker | None = None) -> None:
        """path: of log.csv. first_epoch: the next one, counted from 1; later events are dropped."""
        self.path = path
        self.tracker = tracker
        self.writer = SummaryWriter(path.parent, purge_step=first_epoch)

    def __enter__(self) -> MetricLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.writer.close()
        if self.tracker is not None:
            self.tracker.close(interrupted=error is not None)

    def write(self, figures: EpochFigures) -> None:
        write_log_row(self.path, figures.columns())
        for tag, value in figures.tags().items():
            self.writer.add_scalar(tag, value, figures.epoch)
        self.writer.flush()
        if self.tracker is not None:
            self.tracker.write(figures.tags(), figures.epoch)


def write_log_row(path: Path, row: Mapping[str, float]) -> None:
    """Add a row to log.csv.

    Rows of this and later epochs are replaced, since a resumed run trains them again.
    """
    rows: list[Mapping[str, object]] = []
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            rows = [old for old in csv.DictReader(file) if int(old["epoch"]) < row["epoch"]]
    columns = dict.fromkeys(row)
    if rows:  # another version may have logged other things
        columns = dict.fromkeys([*rows[0], *row])
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(columns), restval="")
        writer.writeheader()
        writer.writerows([*rows, row])
