"""Step 05: let the task judge its out-of-fold predictions; write parameters, results, submission and report."""

from dataclasses import replace
from functools import partial

from cxr.data.tables import read_table
from cxr.data.predictions import part_count, part_path, read_predictions
from cxr.run_folder import RunFolder
from cxr.steps.postprocess.report import ReportInput, write_report
from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError


def postprocess(task, config):
    """params.json, results.json, submission or results, report.html; prints what a person wants to know.

    Returns the path of what was written for the test images, None if there are no test predictions.
    """
    if config.submit and not task.takes_submissions:
        raise InputError(
            f"--submit has nowhere to send the results of {task.name}, which is no Kaggle competition"
        )
    train = read_table(config.task_dir / "train.csv").set_index("image_id", drop=False)
    folds, warnings = finished_folds(config, train)
    if config.submit and not has_test_predictions(config):
        raise InputError(
            f"{config.run_dir} has no predictions named {config.predictions} of all test images, so there "
            "is nothing to submit: train all folds and run 04_predict.py without --fold"
        )
    warnings += read_json(config.task_dir / "preprocess.json").get("notes", [])
    config = as_trained(config, folds)
    every, train = train.index, task.select(train, config)
    judged = partial(cases, task, config, train, folds, every)
    evaluation = task.evaluate(config, judged, train[train["fold"].isin(folds)])
    warnings += evaluation.notes
    if config.leaderboard:
        evaluation.figures["leaderboard"] = config.leaderboard  # as entered
    write_json(config.run_dir / "params.json", evaluation.params)
    answers = answer_test(task, config, evaluation, warnings)
    submission, more = task.write_results(config, answers, judged, evaluation, warnings)
    results = summary(task, evaluation) | more
    write_json(config.run_dir / "results.json", results)
    report = write_report(
        config.run_dir / "report.html",
        report_input(task, config, train, evaluation, submission, warnings),
    )
    say(task, evaluation, submission, report)
    return submission


def finished_folds(config, train):
    """(folds with whole out-of-fold predictions, warnings). Raises InputError if there is none."""
    folds, warnings = [], []
    for fold in sorted(train["fold"].unique()):
        if is_whole(
            config.fold_dir(fold) / f"valid_{config.predictions}",
            int((train["fold"] == fold).sum()),
        ):
            folds.append(int(fold))
    if not folds:
        raise InputError(
            f"{config.run_dir} has no whole out-of-fold predictions named {config.predictions}: run "
            "04_predict.py first, with the same flags"
        )
    if len(folds) < train["fold"].nunique():
        warnings.append(
            f"Only {len(folds)} of {train['fold'].nunique()} folds are predicted; the score is of these."
        )
    return folds, warnings


def is_whole(folder, images):
    return all(part_path(folder, number).exists() for number in range(part_count(images)))


def as_trained(config, folds):
    """The settings with the box classes and image class weight of the run, which a flag cannot change afterwards."""
    path = config.fold_dir(folds[0]) / "config.json"
    stored = read_json(path) if path.exists() else {}
    return replace(
        config, **{name: stored[name] for name in ("classes", "global_weight") if name in stored}
    )


def has_test_predictions(config):
    """Whether all test images are predicted."""
    return is_whole(
        config.run_dir / f"test_{config.predictions}", len(read_table(config.task_dir / "test.csv"))
    )


def cases(task, config, train, folds, every):
    """Every out-of-fold image of `train` as the task's case, read one part at a time. `every`: the ids of train.csv, of
    which the task may judge a part."""
    for fold in folds:
        for found in read_predictions(
            config.fold_dir(fold) / f"valid_{config.predictions}", task.kind
        ):
            if found.image_id not in every:
                raise InputError(
                    f"{config.fold_dir(fold)} has predictions of images that are not in train.csv: delete "
                    f"its valid_{config.predictions} folder and run 04_predict.py again"
                )
            if found.image_id in train.index:
                yield task.case(found, train.loc[found.image_id], fold)


def answer_test(task, config, evaluation, warnings):
    """{image_id: what evaluation.detect says} of the test images, None if not all are there."""
    folder = config.run_dir / f"test_{config.predictions}"
    if not has_test_predictions(config):
        warnings.append(
            "There are no test predictions of all folds yet, so no submission was written."
        )
        return None
    return {
        found.image_id: evaluation.detect(found) for found in read_predictions(folder, task.kind)
    }


def summary(task, evaluation):
    return {
        "task": task.name,
        "score": evaluation.score,
        "interval": evaluation.interval,
        "n_images": len(evaluation.images),
        "n_counted": evaluation.counted,
        **evaluation.figures,
        **evaluation.results,
        "baselines": {name: score for name, score, _ in evaluation.baselines},
        "params": evaluation.params,
    }


def report_input(task, config, train, evaluation, submission, warnings):
    facts = train[
        ["image_id", "age", "sex", "view", "label", "width", "height", "group"]
    ].reset_index(drop=True)
    images = evaluation.images.drop(columns="group").merge(facts, on="image_id", how="left")
    images["png"] = [
        str(config.task_dir / "images" / f"{image_id}.png") for image_id in images["image_id"]
    ]
    return ReportInput(
        f"{task.title}: {config.run}",
        task.score_name,
        evaluation.score,
        evaluation.interval,
        len(images),
        evaluation.counted,
        evaluation.how,
        images,
        score_meaning=task.score_meaning,
        baselines=evaluation.baselines,
        sensitivity=evaluation.sensitivity,
        folds=evaluation.folds,
        true=evaluation.true,
        predicted=evaluation.predicted,
        precision_recall=evaluation.pr,
        froc=evaluation.froc,
        operating=evaluation.operating,
        class_names=list(task.class_names)
        if config.global_weight
        else [],  # a head without a loss knows nothing
        box_classes=list(task.used_classes(config)),
        class_rows=evaluation.class_rows,
        class_curves=evaluation.class_curves,
        figures=evaluation.figures,
        reliability=evaluation.reliability,
        sized=evaluation.sized,
        finding=task.finding,
        image_score=evaluation.image_score,
        words=evaluation.words,
        searched=evaluation.searched,
        run=RunFolder(config.run_dir),
        params=evaluation.params,
        params_path=config.run_dir / "params.json",
        submission_path=submission,
        warnings=warnings,
    )


def say(task, evaluation, submission, report):
    low, high = evaluation.interval
    figures = "".join(f"{name} {value:.4f}, " for name, value in evaluation.figures.items())
    print(
        f"\nscore {evaluation.score:.4f} (95 % interval {low:.4f} to {high:.4f}), {figures}over {evaluation.counted} "
        f"counted of {len(evaluation.images)} images; {evaluation.how}"
    )
    for name, score, _ in evaluation.baselines:
        print(f"  {name}: {score:.4f}")
    for note in evaluation.notes:
        print(note)
    print(
        f"{task.answer:<11} {submission or 'not written: test predictions are missing'}\nreport      {report}"
    )
