"""report.html: what a run reached, how it was estimated, where it fails, and what was run, in one file.

Everything particular to a data set (names, boxes, scores) is handed over; nothing here reads a competition's format.
"""

import math
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.ticker import MaxNLocator

from cxr.methods.evaluation import Boxes
from cxr.metrics.bootstrap import bootstrap_interval
from cxr.metrics.means import mean_score
from cxr.metrics.pooled_boxes import RATES
from cxr.plots.curves import curve_panels, detection_panels, sensitivity_panels
from cxr.plots.panels import BRIGHT, colours_of, write_panels
from cxr.steps.postprocess.cases import (
    OUTCOMES,
    PREDICTED_COLOUR,
    TRUE_COLOUR,
    WORDS,
    called,
    gallery,
    outcomes,
    write_gallery,
)
from cxr.steps.postprocess.class_panels import class_panels
from cxr.steps.postprocess.heat_map_table import looked_at
from cxr.steps.postprocess.mask_panels import mask_panels
from cxr.steps.postprocess.run_records import across_folds, flatten, read_fold_json, read_logs, text
from cxr.system.disk import atomic

OPTIONAL_COLUMNS = (
    "age",
    "sex",
    "view",
    "label",
    "predicted",
    "png",
    "width",
    "height",
    "group",
    "caption",
)
FEW = 10  # counted images below which a group's score is mostly chance; such rows are grayed
AGES = {
    "under 18": (0, 18),
    "18 to 39": (18, 40),
    "40 to 59": (40, 60),
    "60 to 79": (60, 80),
    "80 and over": (80, 121),
}
SEXES = {"F": "Female", "M": "Male"}
NOT_STATED = "not stated"
SEARCHED = (
    "One parameter is moved at a time, the others stay at their chosen values; all diagrams share one vertical "
    "scale. The orange dot is the chosen value, the gray triangles are the values chosen when one fold was "
    "left out. Look for broad tops and triangles close together: there the choice is safe. These curves use "
    "all images at once, so a top may lie a little above the score of this report."
)


@dataclass(frozen=True)
class ReportInput:
    """What step 05 hands over. Boxes are (n, 4) x1 y1 x2 y2 in original pixels.

    `images`: one row per out-of-fold image: image_id, fold, score (nan: left out of the metric), n_true, n_pred,
    best_score (highest confidence, 0 if none), and where known age, sex, view, label and predicted (image class as
    integer), png (its 8-bit picture), width and height (original pixels), group (patient), study (where that is what
    has a class), caption (in place of the numbers of boxes).
    `baselines`: (name, score, (low, high) or None). `folds`: (fold, score, parameters fitted on the other folds).
    `sensitivity`: {parameter: (values, scores, chosen value)}.
    `pr`: (recall, precision) and `froc`: (false boxes per image, recall), arrays of equal length.
    `operating`: (recall, precision, false boxes per image) at the chosen settings. `class_rows`, where the score is one
    of classes: dicts with name, images, boxes (true ones; absent where the images, or studies, have the class), ap,
    interval, recalls (at RATES), avgrecall, threshold, f1. `words`: see report_cases.WORDS.
    `class_curves`: {class: (recall, precision, false boxes per image)}.
    """

    title: str
    score_name: str
    score: float
    interval: tuple | None
    n_images: int
    n_counted: int
    how: str  # a sentence saying on which images the score was measured and where its parameters come from
    images: pd.DataFrame
    _: KW_ONLY
    score_meaning: str = ""  # what the metric measures, for someone who has never heard of it
    baselines: list = field(default_factory=list)
    sensitivity: dict = field(default_factory=dict)
    folds: list = field(default_factory=list)
    true: Boxes = field(default_factory=Boxes)
    predicted: Boxes = field(default_factory=Boxes)
    image_score: str = "score"  # what `images.score` is
    words: dict = field(default_factory=dict)  # sentences in place of those of report_cases.WORDS
    searched: str = SEARCHED  # how to read `sensitivity`
    box_classes: list = field(default_factory=list)  # names of the classes of boxes
    class_rows: list = field(default_factory=list)
    class_curves: dict = field(default_factory=dict)
    pr: tuple | None = None
    froc: tuple | None = None
    operating: tuple | None = None
    class_names: list = field(default_factory=list)
    runs: Path | None = None  # the run's folder, with fold<k>/log.csv, config.json, manifest.json
    params: dict = field(default_factory=dict)
    params_path: Path | None = None
    submission_path: Path | None = None
    warnings: list = field(default_factory=list)
    finding: tuple = ("box", "boxes")  # what a mark is called
    figures: dict = field(default_factory=dict)  # {words: number} beside the score
    reliability: tuple | None = None  # (image scores (n,), whether the image has a finding (n,))
    sized: tuple | None = None  # (true area (n,), score (n,)) of the images with a finding


def write_report(path, report):
    """Write report.html at `path`, and beside it curves.png, sensitivity.png, detection.png and gallery.png.

    A picture without data is not written, and an older one of that name is removed. Returns `path`.
    """
    path = Path(path)
    report = _completed(report)
    logs, problems = read_logs(report.runs) if report.runs else ({}, [])
    panels = {
        "curves": curve_panels(logs),
        "sensitivity": sensitivity_panels(report.sensitivity, report.folds),
        "detection": [
            *detection_panels(report.pr, report.froc, report.operating),
            *class_panels(report.class_curves, all("boxes" in row for row in report.class_rows)),
            *mask_panels(report.reliability, report.sized),
        ],
    }
    cases = gallery(report)
    classes = colours_of(report.box_classes, BRIGHT) if len(report.box_classes) > 1 else {}
    legend = {f"fold {fold}": colour for fold, colour in colours_of(logs).items()}
    for name, group in panels.items():
        write_panels(path.with_name(f"{name}.png"), group, legend if name == "curves" else None)
    write_gallery(
        path.with_name("gallery.png"), cases, report.title, report.image_score, bool(classes)
    )
    settings, manifest, more = _records(report.runs)
    page = render(
        "report.html.jinja",
        report=report,
        problems=[*report.warnings, *problems, *more],
        panels=panels,
        cases=cases,
        legend=legend,
        settings=settings,
        manifest=manifest | _speed(logs, manifest),
        score_rows=score_rows(report),
        fold_rows=fold_rows(report),
        outcome_rows=outcome_rows(report.images, report.finding, WORDS | report.words),
        confusion=confusion(report.images, report.class_names),
        subgroups=subgroups(report.images),
        few=FEW,
        class_rows=[
            bar(row["name"], row["ap"], row["interval"]) | row for row in report.class_rows
        ],
        rates=RATES,
        looked=looked_at(report.runs),
        class_colours=classes,
        colours={"true": TRUE_COLOUR, "predicted": PREDICTED_COLOUR},
    )
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def render(template, **content):
    """The page as text; a name the template uses and `content` lacks is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "called": called,
        "number": number,
        "share": share,
        "text": text,
        "flatten": flatten,
    }
    environment.globals |= {"scale": scale, "isfinite": _finite}
    return environment.get_template(template).render(**content)


def _completed(report):
    """The same report with every optional column in `images`, texts of unknown values made nan."""
    images = report.images.reset_index(drop=True).copy()
    for column in OPTIONAL_COLUMNS:
        if column not in images:
            images[column] = np.nan
    images["image_id"] = images.image_id.astype(str)
    for column in (
        "score",
        "n_true",
        "n_pred",
        "best_score",
        "age",
        "label",
        "predicted",
        "width",
        "height",
    ):
        images[column] = pd.to_numeric(images[column], errors="coerce")
    return ReportInput(
        **(vars(report) | {"images": images, "runs": Path(report.runs) if report.runs else None})
    )


def _finite(value):
    return value is not None and math.isfinite(value)


def number(value, digits=3):
    return f"{value:.{digits}f}" if _finite(value) else "–"


def share(part, whole):
    if not whole:
        return "–"
    return "<1%" if 0 < part / whole < 0.005 else f"{part / whole:.0%}"


def scale(rows):
    """(top, ticks) of an axis from 0 that holds every score and interval of the rows."""
    values = [row[key] for row in rows for key in ("score", "low", "high") if _finite(row[key])]
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0, max(values, default=0) or 1)
    ticks = [round(float(tick), 6) for tick in ticks if tick >= 0]
    return ticks[-1], ticks


def bar(label, score, interval=None, **more):
    """One row of a bar diagram: label, score, low, high and whatever the page shows beside them."""
    low, high = interval if interval is not None else (math.nan, math.nan)
    return {
        "label": label,
        "score": float(score) if score is not None else math.nan,
        "low": low,
        "high": high,
    } | more


def score_rows(report):
    """This run, then the baselines."""
    return [
        bar("This system", report.score, report.interval, main=True),
        *(bar(name, score, interval, main=False) for name, score, interval in report.baselines),
    ]


def fold_rows(report):
    sizes = report.images.groupby("fold").size()
    return [
        bar(f"Fold {fold}", score, images=int(sizes.get(fold, 0)), params=params)
        for fold, score, params in report.folds
    ]


def outcome_rows(images, finding, words):
    """(key, sentence, number of images) of each outcome."""
    counts = outcomes(images).value_counts()
    return [(key, called(words[key], finding), int(counts.get(key, 0))) for key in OUTCOMES]


def confusion(images, class_names):
    """Rows of (true class, number, [(count, share of the row)]) of the images, or of their studies where these have
    the class; [] where classes are not known."""
    images = images.drop_duplicates("study") if "study" in images else images
    known = images[
        images.label.between(0, len(class_names) - 1)
        & images.predicted.between(0, len(class_names) - 1)
    ]
    if not len(known):
        return []
    counts = np.zeros((len(class_names), len(class_names)), int)
    np.add.at(counts, (known.label.astype(int), known.predicted.astype(int)), 1)
    return [
        (name, int(row.sum()), [(int(count), count / max(1, row.sum())) for count in row])
        for name, row in zip(class_names, counts)
    ]


def subgroups(images):
    """[(what divides the images, rows)] for sex, age and view; a division that is not recorded is left out."""
    ages = pd.Series(NOT_STATED, index=images.index)
    for name, (low, high) in AGES.items():
        ages[images.age.between(low, high, inclusive="left")] = name
    sexes = _stated(images.sex)
    divisions = [
        ("Sex", sexes.map(SEXES).fillna(sexes), list(SEXES.values())),
        ("Age", ages, list(AGES)),
        ("View", _stated(images["view"]), []),
    ]
    tables = [(title, _group_rows(images, values, order)) for title, values, order in divisions]
    return [
        (title, rows) for title, rows in tables if any(row["label"] != NOT_STATED for row in rows)
    ]


def _stated(column):
    return column.astype(object).fillna("").astype(str).str.strip().replace("", NOT_STATED)


def _group_rows(images, values, order):
    present = set(values)
    names = [name for name in order if name in present] + sorted(
        present - set(order) - {NOT_STATED}
    )
    names += [NOT_STATED] * (NOT_STATED in present)
    return [_group_row(name, images[values == name]) for name in names]


def _group_row(name, images):
    counted = int(images.score.notna().sum())
    marked, kinds = images.n_true > 0, outcomes(images)
    # One image has no spread to draw from: an interval of width 0 would look like certainty.
    interval = bootstrap_interval(images.score, _patients(images)) if counted > 1 else None
    return bar(
        name,
        mean_score(images.score) if counted else math.nan,
        interval,
        images=len(images),
        counted=counted,
        marked=int(marked.sum()),
        missed=int(kinds.isin(["missed", "misplaced"]).sum()),
        unmarked=int((~marked).sum()),
        alarms=int((kinds == "alarm").sum()),
        few=counted < FEW,
    )


def _patients(images):
    """Patients, the image itself where the patient is not known."""
    return images.group.where(images.group.notna() & (images.group != ""), images.image_id).astype(
        str
    )


def _records(run_dir):
    if run_dir is None:
        return {}, {}, []
    settings, problems = read_fold_json(run_dir, "config.json")
    manifest, more = read_fold_json(run_dir, "manifest.json")
    for record in settings.values():
        record.pop("fold", None)  # says nothing beside the fold itself
    return across_folds(settings), across_folds(manifest), problems + more


def _speed(logs, manifest):
    """Epochs and median seconds per epoch of each fold from the logs, where the manifest does not say."""
    found = {
        "epochs trained": across_folds({fold: {"": len(log)} for fold, log in logs.items()}).get("")
    }
    seconds = {
        fold: {"": float(log.seconds.median())} for fold, log in logs.items() if "seconds" in log
    }
    found["seconds per epoch"] = across_folds(seconds).get("")
    present = {key.replace("_", " ") for key in manifest}
    return {key: value for key, value in found.items() if value and key not in present}
