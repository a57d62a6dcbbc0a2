"""Step 05: judge the out-of-fold predictions, answer the test images, write it all down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cxr.data.predictions import is_whole, read_predictions
from cxr.data.tables import read_table
from cxr.datasets.base import Answer, AnswerRequest
from cxr.inference.blend import Blend
from cxr.inference.gate import Gate, gate_of_test, out_of_fold_gate
from cxr.inference.opacity_boxes import Which, fused_boxes
from cxr.inference.run import as_trained
from cxr.methods.base import Judging
from cxr.methods.evaluation import Evaluation
from cxr.run_folder import JudgedFolder, RunFolder
from cxr.settings import Settings, flag
from cxr.steps.postprocess.answered_images import AnsweredImages
from cxr.steps.postprocess.doubts import measure_doubts
from cxr.steps.postprocess.figures import (
    fingerprint,
    format_figures,
    format_score,
    has_value,
    headline_figures,
    join_figures,
    recall_figures,
    value_or_null,
)
from cxr.steps.postprocess.model_card import CardInput, write_model_card
from cxr.steps.postprocess.report import ReportInput, write_report
from cxr.system.disk import alone, read_json, write_json
from cxr.system.errors import InputError
from cxr.tasks import Task

CHOSEN_BY_SCORE = (
    "Of each fold, {count} of the merged epochs were chosen by the score of its own validation "
    "images (--keep-best), so the out-of-fold score flatters, however the thresholds were fitted; "
    "the same run without --keep-best has an honest one."
)
FACTS = ["image_id", "age", "sex", "view", "label", "width", "height", "group"]


@dataclass
class OutOfFold:
    """The out-of-fold images of a run, read one part at a time.

    table: the judged rows of train.csv, by image_id. learned: the same and those of folds that are
    not judged. known_ids: all ids of train.csv, of which the task may judge a part. gate: what is
    joined to each prediction.
    """

    task: Task
    run: RunFolder
    predictions: str
    folds: list[int]
    table: pd.DataFrame
    learned: pd.DataFrame
    known_ids: frozenset[str]
    gate: Gate | None = None

    def cases(self) -> Iterator[Any]:
        """Yield each judged image as the scorer's case."""
        scorer = self.task.dataset.scorer
        record = self.task.method.prediction_class
        for fold in self.folds:
            folder = self.run.fold(fold).valid_predictions(self.predictions)
            for prediction in read_predictions(folder, record):
                image_id = prediction.image_id
                if image_id not in self.known_ids:
                    raise InputError(
                        f"{folder} has predictions of images that are not in train.csv: delete "
                        "that folder and run 04_predict.py again"
                    )
                if image_id in self.table.index:
                    if self.gate is not None:
                        prediction = self.gate.join(prediction)
                    yield scorer.make_case(prediction, self.table.loc[image_id], fold)


def postprocess(task: Task, settings: Settings) -> Path | None:
    """params.json, results.json, submission or results, report.html, model_card.md; prints figures.

    Returns the path of what was written for the test images, None without test predictions. Of
    --predictions NAME all of it lies in a folder of its own.
    """
    task.check(settings)
    run = RunFolder.of(settings.place)
    refuse_submission(task, settings, run)

    # What is there to judge: the folds whose predictions are whole, in the classes of the training.
    name = settings.prediction.predictions
    train = read_table(run.task.table("train")).set_index("image_id", drop=False)
    folds = finished_folds(run, name, train, settings.place.fold)
    settings = as_trained(settings, task, run.fold(folds[0]))
    learned = task.select_rows(train, settings)
    table = learned[learned["fold"].isin(folds)]
    gate = None
    if settings.method.gate:
        gate = out_of_fold_gate(task, run.task, settings.method.gate, table)
    out_of_fold = OutOfFold(task, run, name, folds, table, learned, frozenset(train.index), gate)
    warnings = run.task.read_notes()
    if settings.training.keep_best:
        warnings.append(CHOSEN_BY_SCORE.format(count=settings.training.keep_best))
    blend = Blend.read(run)
    if blend is not None:
        warnings.append(blend.describe())
        print(blend.describe())
    of_all = train["fold"].nunique()
    if len(folds) < of_all:
        warnings.append(f"Only {len(folds)} of {of_all} folds are judged; the score is of these.")

    judged = run.judged(name)
    with alone(judged.path):
        return judge_and_answer(task, settings, judged, out_of_fold, warnings)


def judge_and_answer(
    task: Task,
    settings: Settings,
    judged: JudgedFolder,
    out_of_fold: OutOfFold,
    warnings: list[str],
) -> Path | None:
    """What `postprocess` writes and prints, and the path that it returns."""
    run = out_of_fold.run
    settings = keep_earlier(settings, judged)

    # Honest scores, and parameters for new images.
    judging = Judging(
        settings=settings,
        run=run,
        folder=judged,
        labels=task.used_labels(settings),
        table=out_of_fold.table,
        further_boxes=read_further_boxes(task, settings, run, "valid", out_of_fold.table),
    )
    evaluation = task.dataset.scorer.evaluate(out_of_fold.cases, judging)
    warnings += evaluation.notes
    if settings.judging.leaderboard:
        evaluation.figures["leaderboard"] = settings.judging.leaderboard  # as entered
    write_json(judged.params, evaluation.params)

    # The test images, in the form that the competition or data set wants.
    answers = answer_test_images(task, settings, run, evaluation, warnings)
    doubts = {}
    if answers is not None:
        doubts = measure_doubts(task, settings, run, evaluation.detect)
    request = AnswerRequest(
        answers=answers,
        cases=out_of_fold.cases,
        evaluation=evaluation,
        judging=judging,
        further_boxes=read_further_boxes(task, settings, run, "test"),
        doubts=doubts,
        warnings=warnings,
    )
    answer = task.dataset.write_answer(request)
    results = summarize(task, settings, evaluation) | dict(answer.results)
    write_json(judged.results, results)
    shown = make_report_input(task, settings, judging, evaluation, answer, warnings)
    write_report(judged.report, shown)
    card = CardInput(shown, task, settings, run, out_of_fold.learned)
    write_model_card(judged.model_card, card)
    print_result(task, evaluation, answer, judged)
    return answer.path


def keep_earlier(settings: Settings, judged: JudgedFolder) -> Settings:
    """The settings with the leaderboard's score of an earlier step 05, where none is given now.

    Runs that were mixed in then and are not now are said, since the results change.
    """
    if not judged.results.exists():
        return settings
    earlier = read_json(judged.results).get("asked_for", {})
    now = asked_for(settings)
    for name in ("stack", "opacities", "gate"):
        if earlier.get(name) and not now.get(name):
            runs = earlier[name] if isinstance(earlier[name], str) else " ".join(earlier[name])
            print(
                f"note: the earlier results had {flag(name)} {runs} and these do not: give it "
                "again to keep it"
            )
    score = earlier.get("leaderboard")
    if score and not settings.judging.leaderboard:
        return settings.replace(leaderboard=score)
    return settings


def asked_for(settings: Settings) -> dict[str, Any]:
    """What was asked of this step and is worth remembering: further runs, Kaggle's score."""
    values = settings.plain()
    return {name: values.get(name) for name in ("stack", "opacities", "gate", "leaderboard")}


def refuse_submission(task: Task, settings: Settings, run: RunFolder) -> None:
    """Raises InputError for a --submit that could send nothing."""
    if not settings.judging.submit:
        return
    if not task.dataset.takes_submissions:
        raise InputError(
            f"--submit has nowhere to send the results of {task.name}, which is no Kaggle "
            "competition"
        )
    name = settings.prediction.predictions
    if not has_test_predictions(run, name, settings.place.fold):
        raise InputError(
            f"{run.path} has no predictions named {name} of all test images, so there is nothing "
            "to submit: run 04_predict.py with the same flags first"
        )


def finished_folds(run: RunFolder, name: str, train: pd.DataFrame, chosen: int | None) -> list[int]:
    """Folds with whole out-of-fold predictions, or the one of --fold among them.

    Raises InputError if there is none.
    """
    folds = []
    for fold in sorted(train["fold"].unique()):
        if chosen is not None and fold != chosen:
            continue
        images = int((train["fold"] == fold).sum())
        if is_whole(run.fold(fold).valid_predictions(name), images):
            folds.append(int(fold))
    if not folds:
        raise InputError(
            f"{run.path} has no whole out-of-fold predictions named {name}: run 04_predict.py "
            "first, with the same flags"
        )
    return folds


def has_test_predictions(run: RunFolder, name: str, fold: int | None) -> bool:
    """Whether all test images are predicted, by all folds or by that of --fold."""
    images = len(read_table(run.task.table("test")))
    return is_whole(run.chosen_test_predictions(name, fold), images)


def read_further_boxes(
    task: Task,
    settings: Settings,
    run: RunFolder,
    which: Which,
    table: pd.DataFrame | None = None,
) -> Mapping[str, Any]:
    """{image_id: (boxes, scores)} of --opacities for the rows of a table; empty without such runs.

    Of validation images out of fold. Without a table: of the test images.
    """
    runs = settings.method.opacities
    if not runs:
        return {}
    if table is None:
        table = read_table(run.task.table("test"))
    folder = run.task.sibling(task.dataset.box_task)
    return fused_boxes(folder, runs, which, table, settings.prediction.predictions)


def answer_test_images(
    task: Task, settings: Settings, run: RunFolder, evaluation: Evaluation, warnings: list[str]
) -> dict[str, Any] | None:
    """{image_id: what evaluation.detect says} of the test images, None if not all are there."""
    name = settings.prediction.predictions
    fold = settings.place.fold
    if not has_test_predictions(run, name, fold):
        networks = "all folds" if fold is None else f"fold {fold}"
        warnings.append(
            f"There are no test predictions of {networks} yet, so no {task.dataset.answer_name} "
            "of the test images was written."
        )
        return None
    if fold is not None:
        warnings.append(f"The test images are answered by the networks of fold {fold} alone.")
    gate_run = evaluation.params.get("gate_run", "")
    gate = gate_of_test(task, run.task, gate_run, fold) if gate_run else None
    answers = {}
    folder = run.chosen_test_predictions(name, fold)
    for prediction in read_predictions(folder, task.method.prediction_class):
        if gate is not None:
            prediction = gate.join(prediction)
        answers[prediction.image_id] = evaluation.detect(prediction)
    return answers


def summarize(task: Task, settings: Settings, evaluation: Evaluation) -> dict[str, Any]:
    """The content of results.json."""
    return {
        "asked_for": asked_for(settings),
        "task": task.name,
        "score": value_or_null(evaluation.score),
        "interval": [value_or_null(end) for end in evaluation.interval],
        "n_images": len(evaluation.images),
        "n_counted": evaluation.counted,
        "folds": sorted(int(fold) for fold in evaluation.images["fold"].unique()),
        "judged_images": fingerprint(evaluation.images["image_id"]),
        **{name: value_or_null(value) for name, value in evaluation.figures.items()},
        **evaluation.results,
        "baselines": {one.name: value_or_null(one.score) for one in evaluation.baselines},
        "params": evaluation.params,
    }


def make_report_input(
    task: Task,
    settings: Settings,
    judging: Judging,
    evaluation: Evaluation,
    answer: Answer,
    warnings: list[str],
) -> ReportInput:
    """What the report shows; image classes only where a network has learned them."""
    run = judging.run
    facts = judging.table[FACTS].reset_index(drop=True)
    images = evaluation.images.drop(columns="group").merge(facts, on="image_id", how="left")
    images["png"] = [str(run.task.image(image_id)) for image_id in images["image_id"]]
    class_names: list[str] = []
    if task.method.learns_image_classes(settings) and evaluation.can_confuse:
        class_names = list(judging.labels.image_classes)
    return ReportInput(
        title=f"{task.dataset.title}: {run.name}",
        score_name=task.dataset.scorer.score_name,
        score=evaluation.score,
        interval=evaluation.interval,
        n_images=len(images),
        n_counted=evaluation.counted,
        how=evaluation.how,
        images=images,
        score_meaning=task.dataset.scorer.score_meaning,
        baselines=evaluation.baselines,
        sensitivity=evaluation.sensitivity,
        folds=evaluation.folds,
        true=evaluation.true,
        predicted=evaluation.predicted,
        precision_recall=evaluation.pr,
        froc=evaluation.froc,
        operating=evaluation.operating,
        class_names=class_names,
        box_classes=list(judging.labels.classes),
        class_rows=evaluation.class_rows,
        class_curves=evaluation.class_curves,
        figures=headline_figures(evaluation),
        recalls=recall_figures(evaluation.results),
        reliability=evaluation.reliability,
        sized=evaluation.sized,
        finding=task.dataset.finding,
        image_score=evaluation.image_score,
        hit_score=evaluation.hit_score,
        words=evaluation.words,
        searched=evaluation.searched,
        fit_on=evaluation.fit_on,
        run=run,
        params=evaluation.params,
        params_path=judging.folder.params,
        submission_path=answer.path,
        card_path=judging.folder.model_card,
        answered=read_answered_images(run, answer, settings.place.fold),
        warnings=warnings,
    )


def read_answered_images(run: RunFolder, answer: Answer, fold: int | None) -> AnsweredImages | None:
    """The test images with what was answered, None where nothing of it can be drawn."""
    if not answer.predicted.corners:
        return None
    table = read_table(run.task.table("test"))
    table = table[table["image_id"].isin(answer.predicted.corners)]
    pictures = [str(run.task.image(image_id)) for image_id in table["image_id"]]
    scores = answer.results.get("test", {})
    table = table.assign(png=pictures)
    return AnsweredImages(table, answer.true, answer.predicted, scores, fold)


def print_result(task: Task, evaluation: Evaluation, answer: Answer, judged: JudgedFolder) -> None:
    """The main figures, and where everything is."""
    score = format_score(evaluation.score, evaluation.interval)
    figures = headline_figures(evaluation) | recall_figures(evaluation.results)
    print(
        f"\n{join_figures(score, figures)}, over {evaluation.counted} counted of "
        f"{len(evaluation.images)} images\n{evaluation.how}"
    )
    for baseline in evaluation.baselines:
        if has_value(baseline.score):
            print(f"  {baseline.name}: {baseline.score:.4f}")
    test_scores = answer.results.get("test")
    if test_scores:
        figures = {"score": test_scores["score"], **recall_figures(test_scores)}
        print(f"{test_scores['n_images']} labelled test images: {format_figures(figures)}")
    for note in evaluation.notes:
        print(note)
    written = answer.path or f"not written: {answer.reason}"
    print(f"{task.dataset.answer_name:<11} {written}")
    print(f"report      {judged.report}")
    print(f"model card  {judged.model_card}")
