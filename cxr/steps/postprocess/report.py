"""report.html: what a run reached, how it was estimated, where it fails, and what was run.

Everything particular to a data set (names, boxes, scores) is handed over; nothing here reads a
competition's format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from cxr.methods.evaluation import Baseline, Boxes, FoldResult
from cxr.methods.wording import describe_fit, describe_fold_scores, describe_marks
from cxr.metrics.bootstrap import Interval
from cxr.metrics.curves import (
    OperatingPoint,
    PrecisionRecallCurve,
    Reliability,
    SensitivityLine,
    SizedScores,
)
from cxr.metrics.froc import FrocCurve
from cxr.metrics.pooled_boxes import RATES, ClassCurve
from cxr.plots.detection_curves import class_panels, detection_panels
from cxr.plots.gallery import CaseGroup, write_gallery
from cxr.plots.mask_diagrams import mask_panels
from cxr.plots.page import render_page
from cxr.plots.panels import (
    BRIGHT,
    PREDICTED_COLOUR,
    TRUE_COLOUR,
    Panel,
    colours_of,
    write_panels,
)
from cxr.plots.sensitivity import sensitivity_panels
from cxr.plots.training_curves import training_panels
from cxr.run_folder import RunFolder
from cxr.steps.postprocess.answered_images import (
    AnsweredImages,
    MeasuredTwice,
    compare_with_test,
    pick_answered_cases,
)
from cxr.steps.postprocess.cases import (
    WORDS,
    GalleryInput,
    image_outcomes,
    name_finding,
    pick_cases,
    with_columns,
)
from cxr.steps.postprocess.heat_map_summary import read_heat_map_summary
from cxr.steps.postprocess.report_tables import (
    FEW,
    FoldBar,
    ScoreBar,
    bars_axis,
    class_bars,
    confusion_rows,
    divisions_of_patients,
    outcome_rows,
)
from cxr.steps.postprocess.run_records import (
    RunLogs,
    across_folds,
    read_configs,
    read_logs,
    read_manifests,
)
from cxr.system.disk import atomic

TEMPLATE = Path(__file__).parent / "templates" / "report.html.jinja"
TEXT_COLUMNS = ("sex", "view", "png", "group", "caption")
NUMBER_COLUMNS = (
    "score",
    "n_true",
    "n_pred",
    "best_score",
    "age",
    "label",
    "predicted",
    "width",
    "height",
)
SEARCHED = (
    "One parameter is moved at a time, the others stay at their chosen values; all diagrams share "
    "one vertical scale. The orange dot is the chosen value, {marks}. Look for broad tops and "
    "triangles close together: there the choice is safe. These curves use all images at once, so "
    "a top may lie a little above the score of this report."
)


@dataclass(frozen=True)
class ReportInput:
    """What step 05 hands over. Boxes are (n, 4) x1 y1 x2 y2 in original pixels.

    interval: 95 % interval of the score, None where there is none.
    how: a sentence that says on which images the score was measured and where its parameters come
        from.
    images: one row per out-of-fold image: image_id, fold, score (nan: left out of the metric),
        n_true, n_pred, best_score (highest confidence, 0 if none), and where known age, sex, view,
        label and predicted (image class as integer), png (its 8-bit picture), width and height
        (original pixels), group (patient), study (where that is what has a class), caption (in
        place of the numbers of boxes).
    score_meaning: what the metric measures, for someone who has never heard of it.
    baselines: simpler ways.
    image_score: what `images.score` is; hit_score: above it what is marked counts as found.
    words: sentences in place of those of cases.WORDS.
    searched: how to read `sensitivity`; empty: as SEARCHED says.
    fit_on: where the parameters come from, in the words of cxr/methods/wording.py.
    class_rows: of a score that is made of classes, see `class_bars`.
    run: the run's folder.
    finding: what a mark is called, (singular, plural).
    figures: {words: number} beside the score.
    recalls: {words: number}, the means over the classes of `class_rows`.
    answered: the test images, where what was answered can be drawn.
    """

    title: str
    score_name: str
    score: float
    interval: Interval | None
    n_images: int
    n_counted: int
    how: str
    images: pd.DataFrame
    _: KW_ONLY
    score_meaning: str = ""
    baselines: Sequence[Baseline] = ()
    sensitivity: Mapping[str, SensitivityLine] = field(default_factory=dict)
    folds: Sequence[FoldResult] = ()
    true: Boxes = field(default_factory=Boxes)
    predicted: Boxes = field(default_factory=Boxes)
    image_score: str = "score"
    hit_score: float = 0.0
    words: Mapping[str, str] = field(default_factory=dict)
    searched: str = ""
    fit_on: str = "folds"
    box_classes: Sequence[str] = ()
    class_rows: Sequence[Mapping[str, Any]] = ()
    class_curves: Mapping[str, ClassCurve] = field(default_factory=dict)
    precision_recall: PrecisionRecallCurve | None = None
    froc: FrocCurve | None = None
    operating: OperatingPoint | None = None
    class_names: Sequence[str] = ()
    run: RunFolder | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    params_path: Path | None = None
    submission_path: Path | None = None
    card_path: Path | None = None
    warnings: Sequence[str] = ()
    finding: tuple[str, str] = ("box", "boxes")
    figures: Mapping[str, float] = field(default_factory=dict)
    recalls: Mapping[str, float | None] = field(default_factory=dict)
    reliability: Reliability | None = None
    sized: SizedScores | None = None
    answered: AnsweredImages | None = None

    @property
    def judged_folds(self) -> list[int]:
        return [fold.fold for fold in self.folds]

    @property
    def class_colours(self) -> dict[str, str]:
        """{class of boxes: colour in the pictures}; empty where there is only one."""
        if len(self.box_classes) < 2:
            return {}
        return colours_of(self.box_classes, BRIGHT)


@dataclass(frozen=True)
class ReportPanels:
    """The diagrams of a report, a PNG for each group."""

    curves: list[Panel]
    sensitivity: list[Panel]
    detection: list[Panel]


@dataclass(frozen=True)
class RunFacts:
    """Settings and manifest of a run as {name: text}, and sentences about unreadable files."""

    settings: dict[str, str]
    manifest: dict[str, str]
    problems: list[str]


def write_report(path: Path, report: ReportInput) -> Path:
    """Write report.html at `path`, and beside it curves, sensitivity, detection and gallery.png.

    A picture without data is not written, and one of an earlier report is removed. Returns `path`.
    """
    report = replace(report, images=complete_images(report.images, report.hit_score))
    logs = RunLogs({}, [])
    if report.run is not None:
        logs = read_logs(report.run)
    panels = make_panels(report, logs.by_fold)
    source = GalleryInput(
        report.images,
        report.true,
        report.predicted,
        report.box_classes,
        report.image_score,
        report.finding,
        report.words,
    )
    groups = pick_cases(source)
    test_groups = []
    if report.answered is not None:
        test_groups = pick_answered_cases(report.answered, source)
    fold_colours = colours_of(logs.by_fold)
    legend = {f"fold {fold}": colour for fold, colour in fold_colours.items()}
    write_panels(path.with_name("curves.png"), panels.curves, legend)
    write_panels(path.with_name("sensitivity.png"), panels.sensitivity)
    write_panels(path.with_name("detection.png"), panels.detection)
    several_classes = bool(report.class_colours)
    every_group = [*groups, *test_groups]
    write_gallery(path.with_name("gallery.png"), every_group, report.title, several_classes)
    page = make_page(report, logs, panels, groups, test_groups, legend)
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def complete_images(images: pd.DataFrame, hit_score: float = 0.0) -> pd.DataFrame:
    """The table with every optional column and each image's outcome; unknown numbers are nan."""
    images = with_columns(images, (*TEXT_COLUMNS, *NUMBER_COLUMNS))
    images["image_id"] = images["image_id"].astype(str)
    for column in NUMBER_COLUMNS:
        images[column] = pd.to_numeric(images[column], errors="coerce")
    images["outcome"] = image_outcomes(images, hit_score)
    return images


def make_panels(report: ReportInput, logs: Mapping[int, pd.DataFrame]) -> ReportPanels:
    """All diagrams of the report; logs {fold: log}."""
    fold_params = [fold.params for fold in report.folds]
    classes_have_boxes = all("boxes" in row for row in report.class_rows)
    detection = detection_panels(report.precision_recall, report.froc, report.operating)
    detection += class_panels(report.class_curves, classes_have_boxes)
    detection += mask_panels(report.reliability, report.sized)
    return ReportPanels(
        curves=training_panels(logs),
        sensitivity=sensitivity_panels(report.sensitivity, fold_params),
        detection=detection,
    )


def make_page(
    report: ReportInput,
    logs: RunLogs,
    panels: ReportPanels,
    groups: Sequence[CaseGroup],
    test_groups: Sequence[CaseGroup],
    legend: Mapping[str, str],
) -> str:
    """The page as text; legend: {fold: colour in the training curves}."""
    facts = read_run_facts(report.run)
    score_bars = make_score_bars(report)
    divisions = divisions_of_patients(report.images)
    group_bars = []
    for division in divisions:
        group_bars += division.rows
    words = WORDS | dict(report.words)
    sentences = {name: name_finding(text, report.finding) for name, text in words.items()}
    return render_page(
        TEMPLATE,
        words=sentences,
        report=report,
        problems=[*report.warnings, *logs.problems, *facts.problems],
        panels=panels,
        groups=groups,
        test_groups=test_groups,
        test_rows=make_test_rows(report),
        legend=legend,
        settings=facts.settings,
        manifest=facts.manifest | training_times(logs.by_fold, facts.manifest),
        score_bars=score_bars,
        score_axis=bars_axis(score_bars),
        fold_bars=make_fold_bars(report),
        fold_sentence=describe_fold_scores(report.judged_folds, report.fit_on),
        fit=describe_fit(report.judged_folds, report.fit_on, "thresholds"),
        searched=describe_search(report),
        outcomes=outcome_rows(report.images, sentences),
        confusion=confusion_rows(report.images, report.class_names),
        divisions=divisions,
        divisions_axis=bars_axis(group_bars),
        few=FEW,
        class_bars=class_bars(report.class_rows),
        rates=RATES,
        heat_maps=read_heat_map_summary(report.run),
        true_colour=TRUE_COLOUR,
        predicted_colour=PREDICTED_COLOUR,
    )


def make_score_bars(report: ReportInput) -> list[ScoreBar]:
    """This run, then the baselines."""
    bars = [ScoreBar("This system", report.score, report.interval, main=True)]
    for baseline in report.baselines:
        bars.append(ScoreBar(baseline.name, baseline.score, baseline.interval, main=False))
    return bars


def make_test_rows(report: ReportInput) -> list[MeasuredTwice]:
    """What was measured on labelled test images, beside the same of the out-of-fold images."""
    if report.answered is None or not report.answered.scores:
        return []
    precisions = {row["name"]: row["ap"] for row in report.class_rows}
    return compare_with_test(
        report.answered.scores, report.score_name, report.score, report.recalls, precisions
    )


def make_fold_bars(report: ReportInput) -> list[FoldBar]:
    """A bar for each fold."""
    sizes = report.images.groupby("fold").size()
    bars = []
    for fold in report.folds:
        images = int(sizes.get(fold.fold, 0))
        label = f"Fold {fold.fold}"
        bars.append(FoldBar(label, fold.score, None, images=images, params=fold.params))
    return bars


def describe_search(report: ReportInput) -> str:
    """How to read the diagrams of the searched parameters."""
    if report.searched:
        return report.searched
    return SEARCHED.format(marks=describe_marks(report.judged_folds, report.fit_on))


def read_run_facts(run: RunFolder | None) -> RunFacts:
    """Settings and manifests of all folds; nothing where there is no run."""
    if run is None:
        return RunFacts({}, {}, [])
    configs = read_configs(run)
    manifests = read_manifests(run)
    for record in configs.by_fold.values():
        record.pop("fold", None)  # says nothing beside the fold itself
    return RunFacts(
        across_folds(configs.by_fold),
        across_folds(manifests.by_fold),
        configs.problems + manifests.problems,
    )


def training_times(logs: Mapping[int, pd.DataFrame], manifest: Mapping[str, str]) -> dict[str, str]:
    """Epochs and median seconds per epoch of each fold, where the manifest does not say them."""
    epochs = {}
    seconds = {}
    for fold, log in logs.items():
        epochs[fold] = {"epochs trained": len(log)}
        if "seconds" in log:
            seconds[fold] = {"seconds per epoch": float(log["seconds"].median())}
    present = {key.replace("_", " ") for key in manifest}
    times = across_folds(epochs) | across_folds(seconds)
    return {key: text for key, text in times.items() if key not in present}
