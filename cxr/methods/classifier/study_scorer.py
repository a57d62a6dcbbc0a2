"""Judging a classifier of studies: its images' probabilities, averaged over each study, out of fold."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr.methods.classifier.mixture import mix_runs
from cxr.methods.detector.class_scorer import fit_threshold, known
from cxr.methods.evaluation import Boxes, Evaluation
from cxr.metrics.pooled_boxes import f1
from cxr.metrics.studies import (
    ALL_CLASSES,
    STUDY_CLASSES,
    STUDY_SHARE,
    competition_scores,
    image_answer,
    image_truth,
    none_scores,
    study_answer,
    study_intervals,
    study_labels,
    study_means,
    study_rankings,
    study_scores,
    study_truth,
)
from cxr.system.errors import InputError

NOTHING = (
    np.zeros((0, 4)),
    np.zeros(0),
)  # boxes and scores of an image in which nothing was looked for
HOW = (
    "Measured on the studies of every fold, each the mean of its images, predicted by models that never saw them; "
    "average precision needs no threshold."
)
WORDS = {
    "found": "Right: the class of a study that is not negative",
    "misplaced": "Confused: not negative, and called another class",
    "missed": "Missed: not negative, but called so",
    "alarm": "False alarm: negative, but called another class",
    "empty": "Rightly negative",
    "Best": "Studies whose class was found, the most certain first. Marked is where the readers saw opacities.",
    "Typical": "Studies that are not negative and fare as most of them do, right or wrong.",
    "Worst: misplaced": "Not negative, and called another class, the most certain first.",
    "Worst: missed": "Not negative, but called so; the largest marked opacities first.",
    "Worst: false alarms": "Negative, but called another class; the most certain first.",
    "Rightly empty": "Negative, and called so; shown in the order of the ids.",
}


@dataclass(frozen=True)
class Judged:
    """Out-of-fold images: table (image_id, study, label, fold, group), `boxes` {image_id: true ones (n, 4)}, and their
    probabilities (n, C)."""

    table: pd.DataFrame
    boxes: dict
    probabilities: np.ndarray

    def studies(self):
        """(table of the studies by rising id: study, label, fold, group; their probabilities (k, C))."""
        ids, means = study_means(self.table["study"], self.probabilities)
        labels = study_labels(self.table["study"], self.table["label"])
        first = self.table.drop_duplicates("study").set_index("study").loc[ids]
        return first.reset_index()[["study", "fold", "group"]].assign(label=labels), means


def mean_ap(table, probabilities):
    """Mean AP of the study classes of images with the columns study and label and probabilities (n, C)."""
    _, means = study_means(table["study"], probabilities)
    return study_scores(study_labels(table["study"], table["label"]), means)["metric"]


def collect(cases):
    """Judged of the cases, read once."""
    rows, boxes, probabilities = [], {}, []
    for case in cases():
        rows.append((case.found.image_id, case.study, case.label, case.fold, case.group))
        boxes[case.found.image_id] = case.boxes
        probabilities.append(case.found.category)
    return Judged(
        pd.DataFrame(rows, columns=["image_id", "study", "label", "fold", "group"]),
        boxes,
        np.array(probabilities, float),
    )


def evaluate(config, cases, opacities):
    """Evaluation of the images of `cases`, a function that yields a StudyCase for each.

    `opacities`: {image_id: (boxes (n, 4), scores (n,))} of a detector, whatever the score; may be empty.
    """
    if config.fit_on != "folds":
        raise InputError(
            f"--fit-on {config.fit_on} is impossible: {config.task} has no images like the test set, and "
            "no published values"
        )
    alone = collect(cases)
    mixture = mix_runs(
        config,
        alone.table["image_id"].tolist(),
        alone.probabilities,
        units_of(alone.table),
        lambda found, rows: mean_ap(alone.table[rows], found),
    )
    judged = Judged(alone.table, alone.boxes, mixture.out_of_fold)
    studies, means = judged.studies()
    intervals = study_intervals(studies["label"].to_numpy(), means, studies["group"])
    aps = study_scores(studies["label"].to_numpy(), means)
    whole = competition_scores(*all_rows(judged, studies, means, opacities))
    if not opacities:  # nobody looked for any
        whole["ap_opacity"] = math.nan
    rankings = study_rankings(studies["label"].to_numpy(), means)
    rows = [
        class_row(name, found, interval)
        for name, found, interval in zip(STUDY_CLASSES, rankings, intervals)
    ]
    true, predicted = Boxes(), Boxes()
    for image_id, boxes in judged.boxes.items():
        true.put(image_id, boxes, np.zeros(len(boxes), int))
        found = opacities.get(image_id, NOTHING)
        predicted.put(image_id, found[0], np.zeros(len(found[0]), int), found[1])
    return Evaluation(
        aps["metric"],
        intervals[-1],
        len(judged.table),
        params_of(config, mixture.weights),
        mixture.of_test,
        image_rows(judged, studies, means),
        HOW,
        true=true,
        predicted=predicted,
        baselines=[
            ("share of each class, the image not looked at", chance(studies["label"]), None)
        ],
        sensitivity={},
        folds=fold_scores(studies, means),
        figures=figures(aps["metric"], whole, opacities),
        image_score="accuracy",
        words=WORDS,
        class_rows=rows,
        notes=absent(rows),
        class_curves={
            name: found.curve() for name, found in zip(STUDY_CLASSES, rankings) if found.true_counts.any()
        },
        results={
            "n_studies": len(studies),
            "ap": {name: known(whole[f"ap_{name}"]) for name in ALL_CLASSES},
        },
    )


def units_of(table):
    """(n,) what is fitted on or held out together: folds, or the halves by patient of a single fold."""
    if table["fold"].nunique() > 1:
        return table["fold"].to_numpy()
    return np.unique(table["group"].astype(str), return_inverse=True)[1] % 2


def all_rows(judged, studies, means, opacities):
    """(truth, predictions) of studies and images, as `competition_scores` takes them."""
    none = none_of(judged.table, dict(zip(studies["study"], means)), opacities)
    truth = {
        ("study", study): study_truth(label)
        for study, label in zip(studies["study"], studies["label"])
    }
    truth |= {("image", image_id): image_truth(boxes) for image_id, boxes in judged.boxes.items()}
    found = {("study", study): study_answer(own) for study, own in zip(studies["study"], means)}
    found |= {
        ("image", image_id): image_answer(*opacities.get(image_id, NOTHING), none[image_id])
        for image_id in judged.boxes
    }
    return truth, found


def none_of(table, studies, opacities):
    """{image_id: how likely it has no box}, of studies {study: probabilities (C,)} and the boxes of a detector."""
    negative = [studies[study][0] for study in table["study"]]
    confidences = (
        [opacities.get(image_id, NOTHING)[1] for image_id in table["image_id"]]
        if opacities
        else None
    )
    return dict(zip(table["image_id"], none_scores(negative, confidences)))


def params_of(config, weights):
    """What params.json says: the share of each run in the mixture."""
    return (
        {"weights": dict(zip([config.run, *config.stack], weights.tolist()))}
        if config.stack
        else {}
    )


def image_rows(judged, studies, means):
    """A row for each image, with the class that its study is called: score 1 where that is right, else 0."""
    table = judged.table
    called = table["study"].map(dict(zip(studies["study"], means.argmax(1))))
    highest = table["study"].map(dict(zip(studies["study"], means.max(1))))
    return table[["image_id", "fold", "group", "study"]].assign(
        score=(called == table["label"]).astype(float),
        n_true=(table["label"] > 0).astype(int),
        n_pred=(called > 0).astype(int),
        best_score=highest,
        predicted=called,
        caption=[
            f"{STUDY_CLASSES[true]}, called {STUDY_CLASSES[own]} ({share:.2f})"
            for true, own, share in zip(table["label"], called, highest)
        ],
    )


def chance(labels):
    """Mean AP of a guess that ignores the image: the mean share of the classes."""
    shares = np.bincount(labels, minlength=len(STUDY_CLASSES)) / len(labels)
    return float(shares[shares > 0].mean())


def figures(score, whole, opacities):
    found = {
        "x 2/3, the studies' share of the competition's score": score * STUDY_SHARE,
        "AP of none": whole["ap_none"],
    }
    if opacities:
        found |= {"AP of opacity": whole["ap_opacity"], "competition's score": whole["metric"]}
    else:
        found |= {"competition's score without opacity boxes": whole["metric"]}
    return found


def class_row(name, found, interval):
    """What the report's table says of a class; threshold and F1 are fitted on all studies."""
    threshold = fit_threshold(found)
    hits, false, missed = (int(part[0]) for part in found.counts([threshold]))
    recalls = found.recalls()
    return {
        "name": name,
        "images": int(found.true_counts.sum()),
        "ap": found.average_precision(),
        "interval": interval,
        "recalls": recalls,
        "avgrecall": float(recalls.mean()),
        "threshold": threshold,
        "f1": float(f1(hits, false, missed)),
    }


def fold_scores(studies, means):
    """[(fold, mean AP of its studies, {})]: nothing is fitted."""
    return [
        (int(fold), study_scores(rows["label"].to_numpy(), means[rows.index])["metric"], {})
        for fold, rows in studies.groupby("fold")
    ]


def absent(rows):
    """A sentence naming the classes without a study, or none."""
    missing = [row["name"] for row in rows if not row["images"]]
    return (
        [
            f"No judged study is {', '.join(missing)}: their average precision is not defined and left out of the "
            "mean."
        ]
        if missing
        else []
    )
