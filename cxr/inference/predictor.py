"""A run as a function of pictures: its models, views and post-processing, loaded once."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from cxr.inference.checkpoint import fingerprints
from cxr.inference.run import fold_checkpoints, load_model, predict_batch, views_of
from cxr.steps.postprocess.postprocess import as_trained
from cxr.system.device import choose_device, choose_precision, describe
from cxr.system.disk import InputError, read_json

MOST_LISTED = 50  # boxes of an image; those above their threshold are never left out


@dataclass(frozen=True)
class Found:
    """What the models say of an image: boxes (n, 4) in original pixels by falling score (n,), in 0 ... 1."""

    boxes: np.ndarray
    scores: np.ndarray
    findings: list  # (n,) names of the box classes
    above: np.ndarray  # (n,) bool: the score is above the threshold of its class
    probabilities: dict  # {class of the whole image: probability}; empty where that was not trained

    def plain(self):
        """As JSON's own types: {"probabilities": {...}, "boxes": [{finding, score, above_threshold, x1, ...}]}."""
        rows = zip(self.findings, self.scores.tolist(), self.above.tolist(), self.boxes.tolist())
        boxes = [
            {
                "finding": finding,
                "score": round(score, 6),
                "above_threshold": above,
                **{name: round(value, 2) for name, value in zip(("x1", "y1", "x2", "y2"), box)},
            }
            for finding, score, above, box in rows
        ]
        return {
            "probabilities": {name: round(value, 6) for name, value in self.probabilities.items()},
            "boxes": boxes,
        }


class Predictor:
    """The kept checkpoints of all trained folds of a run (or of --fold), merged, with the parameters of step 05.

    Raises InputError for a run that is not there or not finished, or belongs to another task.
    """

    def __init__(self, task, config):
        if not hasattr(task, "rule"):
            raise InputError(
                f"{task.name} does not look for boxes, and single images are predicted only by tasks that "
                "do: choose another --task"
            )
        self.views, folds = views_of(task, config), trained_folds(config)
        self.task, self.config = task, as_trained(config, folds)
        self.paths = [path for fold in folds for path in fold_checkpoints(task, config, fold)]
        self.device = choose_device(config.device)
        self.precision = choose_precision(config.precision, self.device)
        self.params, self.notes = read_params(config)
        self.rule = make_rule(task, self.params, self.config)

    @cached_property
    def models(self):
        return [load_model(self.task, path, self.device) for path in self.paths]

    @cached_property
    def sides(self):
        """Sides of the squares that an image becomes on its way into the network, first that of step 02's PNGs."""
        prepared = self.config.task_dir / "preprocess.json"
        source = (
            prepared if prepared.exists() else self.paths[0].with_name("config.json")
        )  # a run that was moved
        return [int(read_json(source)["size"]), self.models[0].image_size]

    @property
    def image_classes(self):
        """Names of the classes of a whole image; none where they were not trained, since such a head knows nothing."""
        return list(self.task.class_names) if self.config.global_weight else []

    def settings(self):
        """What decides the predictions, as JSON's own types."""
        return {
            "task": self.task.name,
            "checkpoints": fingerprints(self.paths, self.config.run_dir),
            "tta": self.config.tta,
            "params": self.params,
        }

    def describe(self):
        return (
            f"run {self.config.run_dir}: {len(self.paths)} checkpoints, views {self.config.tta}, "
            f"{describe(self.device, self.precision)}"
        )

    def predict(self, pictures):
        """[Found] of a list of reading.Picture."""
        images = torch.from_numpy(np.stack([picture.network for picture in pictures]))[:, None].to(
            self.device
        )
        merged = predict_batch(self.task, self.models, self.views, images, self.precision)
        return [self.found(outputs, picture) for outputs, picture in zip(merged, pictures)]

    def found(self, outputs, picture):
        row = {"image_id": "", "width": picture.width, "height": picture.height}
        candidates = self.task.candidates(outputs, row, self.models[0], self.config)
        boxes, scores, labels = self.rule.detect(candidates)
        thresholds = np.array(list(self.rule.thresholds.values()))[labels.astype(int)]
        listed = (scores > thresholds) | (np.arange(len(scores)) < MOST_LISTED)
        names = list(self.rule.thresholds)
        return Found(
            boxes[listed],
            scores[listed],
            [names[k] for k in labels[listed]],
            (scores > thresholds)[listed],
            dict(zip(self.image_classes, candidates.category.tolist())),
        )


def trained_folds(config):
    """The folds of the run that have begun training, or the one that is asked for."""
    if config.fold is not None:
        return config.wanted_folds()
    folds = sorted(int(path.parent.name[4:]) for path in config.run_dir.glob("fold*/config.json"))
    if not folds:
        runs = sorted({path.parts[-3] for path in config.task_dir.glob("*/fold*/config.json")})
        there = f"there are: {', '.join(runs)}" if runs else f"there are none in {config.task_dir}"
        raise InputError(
            f"{config.run_dir} holds no trained fold: name a trained run by --run ({there}), or train one "
            "with 03_train.py"
        )
    return folds


def read_params(config):
    """(content of params.json or None, notes): without it the task's plainest parameters serve, and a note says so."""
    path = config.run_dir / "params.json"
    if path.exists():
        return read_json(path), []
    return None, [
        f"{path} is missing, since step 05 was not run: thresholds are plain defaults that were fitted to "
        "nothing, so judge by the scores rather than by what is above a threshold"
    ]


def make_rule(task, params, config):
    try:
        return task.rule(params, config)
    except (TypeError, LookupError, ValueError) as error:
        raise InputError(
            f"{config.run_dir / 'params.json'} does not fit this run ({error}): run 05_postprocess.py "
            "again"
        ) from None
