"""Blends of finished runs: the same folds, honest weights, files that are whole, refusals."""

import numpy as np
import pandas as pd
import pytest
from steps import link_tree
from test_predictor import read_pictures
from tiny_task import TINY_TASK
from untrained import write_untrained_run
from xrays import png, xray

from cxr.data import predictions
from cxr.data.predictions import read_predictions, write_part
from cxr.datasets.covid.submission import Prior, format_covid_submission
from cxr.inference import predict_table
from cxr.inference.blend import Blend
from cxr.inference.networks import BlendNetworks
from cxr.inference.predictor import Predictor
from cxr.inference.run import fold_checkpoints
from cxr.methods.classifier.records import ClassPrediction
from cxr.methods.segmenter.records import MaskPrediction
from cxr.run_folder import RunFolder
from cxr.steps.predict import blend_runs as blend_runs_module
from cxr.steps.predict.blend_runs import blend_runs
from cxr.steps.predict.predict_run import predict_run
from cxr.steps.train.engine import train_folds
from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError
from cxr.tasks import TASKS

COVID = TASKS["covid"]
IMAGES = 12  # of three folds; every image is a study of its own
CLASSES = 4


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Three images in a file."""
    monkeypatch.setattr(predictions, "PART", 3)
    monkeypatch.setattr(predict_table, "PART", 3)
    monkeypatch.setattr(blend_runs_module, "PART", 3)


def write_tables(task_folder):
    rows = []
    for number in range(IMAGES):
        rows.append(
            {
                "image_id": f"x{number:02}",
                "study_id": f"s{number:02}",
                "group": f"g{number:02}",
                "fold": number % 3,
                "label": number % CLASSES,
                "width": 64,
                "height": 64,
                "boxes": "[]",
                "box_labels": "[]",
            }
        )
    train = pd.DataFrame(rows)
    task_folder.path.mkdir(parents=True, exist_ok=True)
    train.to_csv(task_folder.table("train"), index=False)
    train[:4].drop(columns="fold").to_csv(task_folder.table("test"), index=False)
    return train


def write_classes(folder, ids, probabilities):
    records = []
    for image_id in ids:
        records.append(ClassPrediction(image_id, 64, 64, probabilities[image_id]))
    for number in range(0, len(records), 3):
        write_part(folder, number // 3, records[number : number + 3])


def one_hot(label, certainty):
    """Probabilities of which the label's is `certainty` above the others."""
    probabilities = np.full(CLASSES, (1 - certainty) / CLASSES)
    probabilities[label] += certainty
    return probabilities


@pytest.fixture
def classes(tmp_path):
    """Settings of the run `good`, which knows every class; beside it `bad`, which knows none.

    table: train.csv. known: {run: {image_id: probabilities}}.
    """
    settings = write_untrained_run(tmp_path, "covid", run="good", folds=3, tta="none")
    write_untrained_run(tmp_path, "covid", run="bad", folds=3, tta="none", image_size=96)
    task_folder = RunFolder.of(settings.place).task
    table = write_tables(task_folder)
    known = {"good": {}, "bad": {}}
    for image_id, label in zip(table["image_id"], table["label"], strict=True):
        known["good"][image_id] = one_hot(label, 0.4)
        known["bad"][image_id] = one_hot((label + 1) % CLASSES, 0.4)
    for name, probabilities in known.items():
        run = task_folder.run(name)
        for fold in range(3):
            ids = table["image_id"][table["fold"] == fold]
            write_classes(run.fold(fold).valid_predictions("predictions"), ids, probabilities)
        write_classes(run.test_predictions("predictions"), table["image_id"][:4], probabilities)
    return settings, table, known


def mixed_classes(settings, folder):
    return {p.image_id: p.category for p in read_predictions(folder, ClassPrediction)}


def blend_of(settings, *words, run="mix", **changes):
    return settings.replace(run=run, blend=words, **changes)


def test_each_fold_is_mixed_with_the_same_fold(classes):
    settings, table, known = classes
    mix = blend_of(settings, "good=3", "bad=1")
    blend_runs(COVID, mix)
    run = RunFolder.of(mix.place)
    assert run.trained_folds() == [0, 1, 2]
    for fold in range(3):
        mixed = mixed_classes(mix, run.fold(fold).valid_predictions("predictions"))
        assert list(mixed) == table["image_id"][table["fold"] == fold].tolist()
        for image_id, category in mixed.items():
            expected = 0.75 * known["good"][image_id] + 0.25 * known["bad"][image_id]
            np.testing.assert_allclose(category, expected, atol=1e-6)
    assert len(mixed_classes(mix, run.test_predictions("predictions"))) == 4


def test_fitted_weights_of_a_fold_do_not_know_it(classes):
    """`bad` is right in fold 0 alone, so only the weights of the other two folds may use it."""
    settings, table, known = classes
    run = RunFolder.of(settings.place).task
    of_first = table[table["fold"] == 0]
    for image_id, label in zip(of_first["image_id"], of_first["label"], strict=True):
        known["bad"][image_id] = one_hot(label, 0.9)
        known["good"][image_id] = one_hot((label + 1) % CLASSES, 0.4)
    for name in ("good", "bad"):
        folder = run.run(name).fold(0).valid_predictions("predictions")
        write_classes(folder, of_first["image_id"], known[name])

    mix = blend_of(settings, "good", "bad", blend_weights="fit")
    blend_runs(COVID, mix)
    blend = Blend.read(RunFolder.of(mix.place))
    assert blend.by_fold[0] == {"good": 1, "bad": 0}
    assert blend.by_fold[1]["bad"] > 0
    assert blend.weights["bad"] > 0
    folder = RunFolder.of(mix.place).fold(0).valid_predictions("predictions")
    for image_id, category in mixed_classes(mix, folder).items():
        np.testing.assert_allclose(category, known["good"][image_id], atol=1e-6)
    with pytest.raises(InputError, match="fit finds the weights: leave those of --blend out"):
        blend_runs(COVID, blend_of(settings, "good=1", "bad=1", run="x", blend_weights="fit"))
    with pytest.raises(InputError, match="fit needs all folds: leave --fold out"):
        blend_runs(COVID, blend_of(settings, "good", "bad", run="x", blend_weights="fit", fold=0))


def test_a_stop_in_the_middle_changes_nothing(classes):
    settings, _, _ = classes
    mix = blend_of(settings, "good", "bad")
    blend_runs(COVID, mix)
    folder = RunFolder.of(mix.place).fold(1).valid_predictions("predictions")
    before = mixed_classes(mix, folder)
    (folder / "part-00001.npz").unlink()
    blend_runs(COVID, mix)
    after = mixed_classes(mix, folder)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[image_id], after[image_id]) for image_id in before)


def test_refusals(classes, monkeypatch):
    settings, table, known = classes
    with pytest.raises(InputError, match=r"names gone, and .* holds no trained fold: name trained"):
        blend_runs(COVID, blend_of(settings, "good", "gone"))
    with pytest.raises(InputError, match="good holds a trained run: give the blend another name"):
        blend_runs(COVID, blend_of(settings, "good", "bad", run="good"))
    mix = blend_of(settings, "good", "bad")
    blend_runs(COVID, mix)
    with pytest.raises(InputError, match=r"mix is another blend .*another name by --run"):
        blend_runs(COVID, blend_of(settings, "good=1", "bad=2"))
    with pytest.raises(InputError, match="mix is a blend and has no networks of its own"):
        fold_checkpoints(COVID, mix, 0)
    with pytest.raises(InputError, match="mix is a blend of other runs: train with another --run"):
        train_folds(COVID, settings.replace(run="mix"))
    with pytest.raises(InputError, match=r"valid_plain is not whole: run 04_predict.py --run good"):
        blend_runs(COVID, settings.replace(run="mix", predictions="plain"))

    # One image of fold 0 was predicted as one of fold 1.
    folder = RunFolder.of(settings.place).task.run("bad").fold(0)
    ids = ["x01", *table["image_id"][table["fold"] == 0].tolist()[1:]]
    write_classes(folder.valid_predictions("predictions"), ids, known["bad"])
    with pytest.raises(InputError, match=r"\(the first: x01\), so bad has other folds"):
        blend_runs(COVID, blend_of(settings, "good", "bad", run="other"))


def write_study_answers(path, table, probabilities):
    """A submission with answers of the studies of a table; every image is its own study."""
    studies = {}
    for image_id, study in zip(table["image_id"], table["study_id"], strict=True):
        studies[study] = probabilities[image_id]
    ids = [f"{study}_study" for study in studies]
    format_covid_submission(ids, studies, {}, Prior(np.full(CLASSES, 0.25), 0.5)).to_csv(
        path, index=False
    )


def test_other_peoples_answers_are_mixed_in(classes, tmp_path):
    settings, table, known = classes
    path = tmp_path / "theirs.csv"
    write_study_answers(path, table, known["bad"])
    mix = blend_of(settings, "good=3", blend_csv=(f"{path}=1",))
    blend_runs(COVID, mix)
    run = RunFolder.of(mix.place)
    mixed = mixed_classes(mix, run.fold(2).valid_predictions("predictions"))
    for image_id, category in mixed.items():
        expected = 0.75 * known["good"][image_id] + 0.25 * known["bad"][image_id]
        np.testing.assert_allclose(category, expected, atol=1e-5)
    blend = Blend.read(run)
    assert blend.weights == {"good": 0.75, str(path): 0.25}
    assert blend.of_runs() == {"good": 1}
    predictor = Predictor(COVID, settings.replace(run="mix", fold=0))
    assert "say nothing of other images" in predictor.notes[0]

    write_study_answers(path, table[:-1], known["bad"])
    other = blend_of(settings, "good", run="other", blend_csv=(str(path),))
    with pytest.raises(InputError, match=r"theirs.csv has no answer of x11 \(1 images of fold2"):
        blend_runs(COVID, other)
    with pytest.raises(InputError, match=r"--blend-csv gone.csv does not exist"):
        blend_runs(COVID, blend_of(settings, "good", run="third", blend_csv=("gone.csv",)))


def test_a_member_that_was_predicted_anew(tiny_run, tmp_path):
    """Predictions of other checkpoints are not mixed into a folder that is begun."""
    working = link_tree(tiny_run.place.working, tmp_path / "working")
    settings = tiny_run.replace(working=working, tta="none")
    task_folder = RunFolder.of(settings.place).task
    link_tree(task_folder.run("run").path, task_folder.run("twin").path)
    for name in ("run", "twin"):
        predict_run(TINY_TASK, settings.replace(run=name))
    mix = settings.replace(run="mix", blend=("run", "twin"))
    blend_runs(TINY_TASK, mix)
    record_path = task_folder.run("twin").fold(0).valid_predictions("predictions") / "settings.json"
    write_json(record_path, read_json(record_path) | {"checkpoints": {}})
    with pytest.raises(InputError, match="was mixed of other members: delete that folder"):
        blend_runs(TINY_TASK, mix)


def test_any_picture_is_mixed_as_step_04_mixes(tmp_path):
    """Two networks of 64 and 96 pixels; each sees the picture in its own size."""
    task = TASKS["pneumothorax"]
    settings = write_untrained_run(tmp_path, "pneumothorax", run="small", tta="none")
    write_untrained_run(tmp_path, "pneumothorax", run="large", tta="none", image_size=96)
    run = RunFolder.of(settings.place).task.run("mix")
    Blend({"small": 0.25, "large": 0.75}).write(run)
    for fold in range(2):
        run.fold(fold).write_config(settings.replace(run="mix", fold=fold).plain())

    predictor = Predictor(task, settings.replace(run="mix"))
    assert isinstance(predictor.networks, BlendNetworks)
    assert predictor.sides == [96]
    other = Predictor(task, settings.replace(run="mix", engine="auto"))
    assert {member.settings.machine.engine for member in other.networks.members} == {"auto"}
    [picture] = read_pictures(predictor, [png(tmp_path / "a.png", xray())])
    [mixed] = predictor.networks.predict([picture])
    members = [member.predict([picture])[0] for member in predictor.networks.members]
    assert [len(member.stored_picture()) for member in members] == [64, 96]
    assert isinstance(mixed, MaskPrediction)
    assert mixed.stored_picture().shape == (96, 96)
    assert mixed.head == pytest.approx(0.25 * members[0].head + 0.75 * members[1].head)
    assert predictor.record()["weights"] == {"small": 0.25, "large": 0.75}
