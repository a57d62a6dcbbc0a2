"""ChestX-Det10: boxes of nine or ten findings in NIH X-rays (arXiv 2006.10550, challenge 2010.10298).

https://github.com/Deepwise-AILab/ChestX-Det10-Dataset
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cxr.data.dataset import read_table, scaled_boxes
from cxr.datasets.chestxdet.synthetic import write_chestxdet
from cxr.methods.detector.class_scorer import (
    evaluate,
    make_rule,
    plain_rule,
    plain_score,
    quick_scores,
    score_boxes,
)
from cxr.methods.detector.method import FROM_SCRATCH, DetectionTask
from cxr.system.disk import InputError, atomic, write_csv

# The order of the course report, whose nine classes end before the last one.
FINDINGS = (
    "Consolidation",
    "Fibrosis",
    "Effusion",
    "Nodule",
    "Mass",
    "Emphysema",
    "Calcification",
    "Atelectasis",
    "Fracture",
    "Pneumothorax",
)
CLASSES = ("No finding", "Finding")
MAPPING = "nih_mapping.csv"  # file_name, nih_patient_id; not part of the data set, which has renamed the NIH's images
GRAY = ("1", "L", "I", "I;16", "F")
COLUMNS = ("file_name", "finding", "x1", "y1", "x2", "y2", "score", "above_threshold")


def read_tables(input_dir):
    """(train, test, notes) of the folder input/<slug>.

    train, test: one row per image file, sorted by image_id: image_id, path, group (patient), stratum (findings with |
    between them), boxes (JSON text, [[x1, y1, x2, y2], ...] in pixels, not yet clipped), box_labels (JSON text, indices
    into FINDINGS), n_boxes, label (index into CLASSES, -1 unknown). notes: sentences about what is unusual. Without
    test.json there are no test images, or unlabelled ones if test_data is there. InputError for labels that cannot be
    understood.
    """
    input_dir, notes = Path(input_dir), []
    entries = read_entries(input_dir / "train.json", notes)
    tests = (
        read_entries(input_dir / "test.json", notes) if (input_dir / "test.json").exists() else {}
    )
    both = entries.keys() & tests.keys()
    note(
        notes,
        len(both),
        "images of train.json are in test.json, too, and were left out of the training set",
    )
    train = make_table(
        {k: v for k, v in entries.items() if k not in both}, input_dir / "train_data", notes
    )
    if train.empty:
        raise InputError(
            f"{input_dir / 'train_data'} holds no image of train.json: unpack train_data.zip there"
        )
    if not (input_dir / "test.json").exists():
        tests = {path.name: None for path in (input_dir / "test_data").glob("*.png")}
        notes.append(f"no test.json in {input_dir}: {len(tests)} test images, without labels")
    test = make_table(tests, input_dir / "test_data", notes)
    return train.assign(group=read_groups(input_dir, train, notes)), test, notes


def read_entries(path, notes):
    """{file name: (boxes, labels)} of train.json or test.json; boxes without area are left out, with a note."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing: run 01_download.py, which tells where it belongs"
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is not readable JSON ({error}): download it again") from None
    keys = {"file_name", "syms", "boxes"}
    if not isinstance(content, list) or not all(
        isinstance(entry, dict) and keys <= entry.keys() for entry in content
    ):
        raise InputError(
            f"{path} is not a list of entries with file_name, syms and boxes: download it again"
        )
    found, flat = {}, 0
    for entry in content:
        boxes, labels = read_boxes(entry, path)
        area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        flat += int((~area).sum())
        found.setdefault(str(entry["file_name"]), (boxes[area], labels[area]))
    note(notes, flat, f"boxes of {path.name} have no area and were left out")
    note(
        notes,
        len(content) - len(found),
        f"entries of {path.name} repeat an image and were left out",
    )
    return found


def read_boxes(entry, path):
    """(boxes (n, 4), labels (n,)) of one entry. InputError naming the image where it cannot be understood."""
    where, syms = f"{path}: {entry['file_name']}", entry["syms"]
    try:
        boxes = np.array(entry["boxes"], np.float64).reshape(len(entry["boxes"]), 4)
    except (ValueError, TypeError):
        raise InputError(
            f"{where} has a box that is not four numbers: repair it or download it again"
        ) from None
    if len(syms) != len(boxes):
        raise InputError(
            f"{where} has {len(syms)} syms but {len(boxes)} boxes: repair it or download it again"
        )
    unknown = [sym for sym in syms if sym not in FINDINGS]
    if unknown:
        raise InputError(
            f"{where} has the unknown finding {unknown[0]!r}: known are {', '.join(FINDINGS)}"
        )
    return boxes, np.array([FINDINGS.index(sym) for sym in syms], int)


def make_table(entries, folder, notes):
    """One row for each entry {file name: (boxes, labels) or None} whose picture is there."""
    present = {path.name: path for path in folder.glob("*.png")}
    names = sorted(entries.keys() & present.keys())
    absent = sorted(entries.keys() - present.keys())
    note(
        notes,
        len(absent),
        f"images have no file in {folder.name} and were left out, such as {''.join(absent[:1])}",
    )
    note(
        notes, len(present) - len(names), f"files of {folder.name} are in no list and were left out"
    )
    note_colours(folder, names, notes)
    unknown = (np.zeros((0, 4)), np.zeros(0, int))
    boxes, labels = ([(entries[name] or unknown)[part] for name in names] for part in (0, 1))
    return pd.DataFrame(
        {
            "image_id": pd.Series([Path(name).stem for name in names], dtype=str),
            "path": [str(present[name]) for name in names],
            "group": [Path(name).stem for name in names],
            "stratum": [
                "|".join(FINDINGS[k] for k in np.unique(own)) or CLASSES[0] for own in labels
            ],
            "boxes": [json.dumps(own.tolist()) for own in boxes],
            "box_labels": [json.dumps(own.tolist()) for own in labels],
            "n_boxes": np.array([len(own) for own in boxes], int),
            "label": np.array(
                [
                    -1 if entries[name] is None else int(len(own) > 0)
                    for name, own in zip(names, boxes)
                ],
                int,
            ),
        }
    )


def note_colours(folder, names, notes):
    """A note on pictures that are not gray; step 02 makes them gray, and refuses those that cannot be read."""
    found = []
    for name in names:
        try:
            with Image.open(folder / name) as picture:
                found += [f"{name} ({picture.mode})"] if picture.mode not in GRAY else []
        except (OSError, SyntaxError, ValueError):
            continue
    note(
        notes,
        len(found),
        f"images of {folder.name} have colours or transparency and were made gray, such as "
        f"{''.join(found[:1])}",
    )


def read_groups(input_dir, table, notes):
    """(n,) patients of the rows of the table, the image itself where the patient is not known."""
    path = input_dir / MAPPING
    if not path.is_file():
        notes.append(
            f"the patients are not known (no {MAPPING} with file_name and nih_patient_id in {input_dir}), so "
            "images of one patient may fall in different folds"
        )
        return table["image_id"]
    mapping = pd.read_csv(path, dtype=str)
    if not {"file_name", "nih_patient_id"} <= set(mapping.columns):
        raise InputError(
            f"{path} lacks the column file_name or nih_patient_id: repair or remove it"
        )
    patients = (
        table["path"]
        .map(lambda name: Path(name).name)
        .map(dict(zip(mapping.file_name, mapping.nih_patient_id)))
    )
    notes.append(f"grouped by {patients.nunique()} NIH patients from {path.name}")
    note(
        notes,
        int(patients.isna().sum()),
        f"images are not in {path.name} and stand for a patient of their own",
    )
    return ("nih_" + patients).fillna(table["image_id"])


def result_of(boxes, scores, labels, size):
    """One image in the data set's result format: [{"nodule": [x1, y1, x2, y2, score]}, ...], best first.

    InputError for a box outside the image (size: width, height) or without area, or a score outside 0 ... 1.
    """
    corners = np.round(np.asarray(boxes, np.float64).reshape(-1, 4), 1)
    if (
        not ((corners >= 0) & (corners <= np.tile(size, 2))).all()
        or not (corners[:, 2:] > corners[:, :2]).all()
    ):
        raise InputError(
            f"a box lies outside its image of {size[0]} x {size[1]} pixels or has no area"
        )
    if not ((scores > 0) & (scores <= 1)).all():
        raise InputError("a score is not above 0 and at most 1")
    return [
        {FINDINGS[k].lower(): [*corner, round(float(score), 6)]}
        for corner, score, k in zip(corners.tolist(), scores, labels)
    ]


def write_results(folder, found, kept, table):
    """`folder`/<image_id>.json for each row of the table, and the same as one file `folder`.csv beside it.

    found: {image_id: (boxes, scores, labels)} whatever the score, as eval.py needs it; kept: {image_id: (n,) bool},
    which of them the thresholds keep.
    """
    rows = []
    for row in table.itertuples():
        boxes, scores, labels = found[row.image_id]
        content = result_of(boxes, scores, labels, (row.width, row.height))
        with atomic(folder / f"{row.image_id}.json") as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
        rows += [
            (f"{row.image_id}.png", FINDINGS[k], *next(iter(entry.values())), bool(own))
            for entry, k, own in zip(content, labels, kept[row.image_id])
        ]
    write_csv(folder.with_suffix(".csv"), pd.DataFrame(rows, columns=list(COLUMNS)))


class ChestXDet(DetectionTask):
    name = "chestxdet"
    slug = "chestx-det10"
    title = "ChestX-Det10 findings"
    answer = "results"
    takes_submissions = False
    score_name = "Mean AP at IoU 0.5"
    score_meaning = (
        "For every finding, its boxes in all images are sorted by confidence; the average precision (AP) "
        "is the area under the curve of precision over recall, where a box is right if it shares at least "
        "half of the joint area with a marked one. The score is the mean over the findings. 1 is perfect."
    )
    class_names, box_classes = CLASSES, FINDINGS
    expected_files, archives = ("train.json", "train_data"), ("train_data", "test_data")
    by_hand = (
        "ChestX-Det10 is not on Kaggle: download train_data.zip and test_data.zip (addresses in the README of "
        "https://github.com/Deepwise-AILab/ChestX-Det10-Dataset), train.json and test.json of that repository, "
        "put all four into {folder} and run the same command again; or add --demo to use synthetic data"
    )
    nms_iou = 0.5  # findings of a class may lie side by side; the usual value of RetinaNet
    most = 300  # times ten classes
    # The course report's RetinaNet: no class of the whole image, flips and small warps. At small sizes with level 2,
    # whose anchors begin at 16 pixels: a fracture would fit none of the others.
    presets = {
        "paper": {
            "classes": 9,
            "encoder": "resnet101",
            "levels": "3-7",
            "size": 1024,
            "image_size": 1024,
            "epochs": 10,
            "batch_size": 2,
            "global_weight": 0.0,
            "dropout": 0.0,
            "augmentation": "15",
        },
        "small": FROM_SCRATCH
        | {
            "classes": 9,
            "encoder": "resnet18",
            "image_size": 320,
            "epochs": 50,
            "batch_size": 8,
            "lr": 4e-4,
            "levels": "2-5",
            "channels": 64,
            "head_convs": 2,
        },
        "demo": FROM_SCRATCH
        | {
            "classes": 9,
            "encoder": "resnet18",
            "image_size": 256,
            "epochs": 9,
            "batch_size": 8,
            "lr": 5e-4,
            "levels": "2-5",
            "channels": 64,
            "head_convs": 2,
            "size": 256,
        },
    }
    read_tables = staticmethod(read_tables)
    write_synthetic = staticmethod(write_chestxdet)

    def select(self, table, config):
        """The rows with the boxes of the used classes; images that had only others show no finding."""
        table = super().select(table, config)
        return table.assign(
            label=np.where(table["label"] < 0, -1, table["n_boxes"] > 0).astype(int)
        )

    def quick_score(self, predictions, table, config):
        return quick_scores(predictions, table, self.used_classes(config))

    def evaluate(self, config, cases, train):
        return evaluate(config, cases, train, self.used_classes(config), self.nms_iou)

    def rule(self, params, config):
        return make_rule(params, self.used_classes(config), self.nms_iou)

    def write_results(self, config, answers, cases, evaluation, warnings):
        """Results of the validation and the test images: (path of the latter if there are any, else of the former,
        scores of the test images where they are labelled)."""
        valid = {case.candidates.image_id: evaluation.detect(case.candidates) for case in cases()}
        train, test = (
            self.select(read_table(config.task_dir / f"{name}.csv"), config)
            for name in ("train", "test")
        )
        kept = {key: is_kept(found, evaluation.predicted, key) for key, found in valid.items()}
        write_results(
            config.run_dir / "valid_results",
            valid,
            kept,
            train[train["image_id"].isin(valid.keys())],
        )
        if not answers:
            return config.run_dir / "valid_results", {}
        thresholds = np.array(list(evaluation.params["threshold"].values()))
        kept = {key: found[1] > thresholds[found[2].astype(int)] for key, found in answers.items()}
        write_results(config.run_dir / "test_results", answers, kept, test)
        if (test["label"] < 0).any():
            return config.run_dir / "test_results", {}
        truth = {
            row["image_id"]: scaled_boxes(row, row["width"], row["height"])
            for _, row in test.iterrows()
        }
        return config.run_dir / "test_results", {
            "test": score_boxes(truth, answers, self.used_classes(config))
        }

    def plain_rule(self, params, config):
        return plain_rule(params, self.used_classes(config))

    def plain_score(self, truth, found, config):
        return plain_score(truth, found, self.used_classes(config))


def is_kept(found, predicted, key):
    """(n,) bool: which boxes of an image are among those that its thresholds kept."""
    lowest = {
        k: predicted.scores[key][predicted.labels[key] == k].min()
        for k in np.unique(predicted.labels[key])
    }
    return np.array([score >= lowest.get(k, np.inf) for score, k in zip(*found[1:])], bool)


def note(notes, count, words):
    if count:
        notes.append(f"{count} {words}")
