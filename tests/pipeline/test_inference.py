"""Prediction of a run: each image once by the right models, files that are whole, resume."""

import itertools
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from candidates import assert_same_folders, read_candidates
from tiny_data import write_tiny_data
from tiny_task import SIDE, TINY_TASK, tiny_settings
from trained import Killed, first_fold

from cxr.data import predictions
from cxr.inference import predict_table as predict_table_module
from cxr.inference.checkpoint import load_state, save_state
from cxr.inference.predict_table import predict_table, read_images
from cxr.inference.run import fold_checkpoints, load_model, predict_batch
from cxr.methods.base import VIEW_SETS
from cxr.run_folder import RunFolder
from cxr.steps.predict import predict_run as predict_run_module
from cxr.steps.predict.predict_run import predict_run
from cxr.steps.train.engine import train_folds
from cxr.system.disk import read_json
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime, single_runtime

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Settings of a run with both folds trained for two epochs."""
    torch.set_num_threads(1)
    working = tmp_path_factory.mktemp("inference")
    write_tiny_data(working, train=18, test=7)
    settings = tiny_settings(working, fold=None, epochs=2)
    train_folds(TINY_TASK, settings)
    return settings


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Three images in a file."""
    monkeypatch.setattr(predictions, "PART", 3)
    monkeypatch.setattr(predict_table_module, "PART", 3)


@pytest.fixture
def settings(trained, request):
    """Of the trained run, with prediction folders of the test's own."""
    name = request.node.name.translate(str.maketrans("[]/ ", "____"))
    return trained.replace(predictions=name)


def run_of(settings):
    return RunFolder.of(settings.place)


def valid_folder(settings, fold=0):
    return run_of(settings).fold(fold).valid_predictions(settings.prediction.predictions)


def folder_of_test_images(settings):
    return run_of(settings).test_predictions(settings.prediction.predictions)


def renamed(settings, ending):
    """The same settings with other prediction folders."""
    return settings.replace(predictions=settings.prediction.predictions + ending)


# --- each image once, by the right models


def test_a_batch_is_its_images(trained):
    paths = fold_checkpoints(TINY_TASK, trained, 0)
    models = [load_model(TINY_TASK, path, CPU) for path in paths]
    runtime = single_runtime(trained.machine)

    def predict(images):
        views = VIEW_SETS["flip"]
        return predict_batch(models, TINY_TASK.method, views, images, trained, runtime)

    images = torch.randint(0, 256, (3, 1, SIDE, SIDE), dtype=torch.uint8)
    for i, of_batch in enumerate(predict(images)):
        alone = predict(images[i : i + 1])[0]
        assert alone.deltas.shape[0] == 4  # two epochs, two views
        assert torch.allclose(of_batch.score, alone.score, atol=1e-5)
        assert torch.allclose(of_batch.category, alone.category, atol=1e-5)


def test_a_run_predicts_every_image_once(settings):
    predict_run(TINY_TASK, settings)
    table = pd.read_csv(run_of(settings).task.table("train"))
    for fold, parts in ((0, 4), (1, 3)):
        folder = valid_folder(settings, fold)
        candidates = read_candidates(folder)
        image_ids = [of_image.image_id for of_image in candidates]
        assert image_ids == table["image_id"][table["fold"] == fold].tolist()
        assert len(list(folder.glob("part-*.npz"))) == parts
        assert {(of_image.width, of_image.height) for of_image in candidates} == {(128, 96)}
    image_ids = [of_image.image_id for of_image in read_candidates(folder_of_test_images(settings))]
    assert image_ids == [f"test{i:03}" for i in range(7)]


def test_validation_images_meet_only_the_models_of_their_fold(settings, monkeypatch):
    checkpoints = {}

    def spy(task, settings, paths, table, folder, runtime):
        key = folder.relative_to(run_of(settings).path).as_posix()
        checkpoints[key] = [f"{path.parent.name}/{path.name}" for path in paths]

    monkeypatch.setattr(predict_run_module, "predict_table", spy)
    short = settings.replace(predictions="short")
    predict_run(TINY_TASK, short)
    of_fold0 = ["fold0/epoch001.pt", "fold0/epoch002.pt"]
    of_fold1 = ["fold1/epoch001.pt", "fold1/epoch002.pt"]
    assert checkpoints == {
        "fold0/valid_short": of_fold0,
        "fold1/valid_short": of_fold1,
        "test_short": of_fold0 + of_fold1,
    }
    checkpoints.clear()
    predict_run(TINY_TASK, short.replace(fold=1, checkpoints=1))
    assert checkpoints == {
        "fold1/valid_short": ["fold1/epoch002.pt"],
        "fold1/test_short": ["fold1/epoch002.pt"],
    }


def test_a_single_model_without_views_is_its_own_merge(settings):
    single = settings.replace(fold=0, tta="none", checkpoints=1)
    predict_run(TINY_TASK, single)
    for candidates in read_candidates(valid_folder(single)):
        assert np.array_equal(candidates.size20, candidates.size80)


def test_of_several_models_and_views_the_percentiles_differ(settings):
    predict_run(TINY_TASK, settings.replace(fold=0))
    merged = read_candidates(valid_folder(settings))
    assert any((candidates.size20 < candidates.size80).any() for candidates in merged)
    for candidates in merged:
        assert (candidates.size20 <= candidates.size80 * (1 + 1e-6)).all()
        assert (np.diff(candidates.score) <= 0).all()


def test_no_test_images(settings):
    path = run_of(settings).task.table("test")
    before = path.read_text()
    try:
        path.write_text(before.splitlines()[0] + "\n")
        predict_run(TINY_TASK, settings)
    finally:
        path.write_text(before)
    assert read_candidates(folder_of_test_images(settings)) == []


# --- files


@pytest.mark.parametrize("call", [1, 2, 5, 9])
def test_a_killed_run_goes_on(settings, monkeypatch, capsys, call):
    """Killed before the given file is written: the next run keeps what is there and ends with the
    same files."""
    write_part = predict_table_module.write_part
    calls = itertools.count(1)

    def killer(*arguments):
        if next(calls) == call:
            raise Killed
        return write_part(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(predict_table_module, "write_part", killer)
        with pytest.raises(Killed):
            predict_run(TINY_TASK, settings)
    name = settings.prediction.predictions
    written = list(run_of(settings).path.rglob(f"*{name}/part-*.npz"))
    times = {path: path.stat().st_mtime_ns for path in written}
    assert len(times) == call - 1

    predict_run(TINY_TASK, settings)
    assert {path: path.stat().st_mtime_ns for path in written} == times
    whole = renamed(settings, "-whole")
    predict_run(TINY_TASK, whole)
    for fold in (0, 1):
        assert_same_folders(valid_folder(settings, fold), valid_folder(whole, fold), 1e-5)
    assert_same_folders(folder_of_test_images(settings), folder_of_test_images(whole), 1e-5)

    capsys.readouterr()
    predict_run(TINY_TASK, settings)
    assert capsys.readouterr().out.count("are there, nothing to do") == 3


@pytest.mark.parametrize(
    "change, reason", [({"tta": "none"}, "tta"), ({"checkpoints": 1}, "checkpoints")]
)
def test_predictions_made_otherwise_are_refused(settings, change, reason):
    predict_run(TINY_TASK, settings.replace(fold=0))
    sentence = f"made with other {reason}: delete that folder, or.*--predictions"
    with pytest.raises(InputError, match=sentence):
        predict_run(TINY_TASK, settings.replace(fold=0, **change))


def test_predictions_of_other_images_are_refused(settings):
    predict_run(TINY_TASK, settings)
    path = run_of(settings).task.table("test")
    before = path.read_text()
    try:
        path.write_text(before.replace("test001", "test000"))
        with pytest.raises(InputError, match="made with other ids"):
            predict_run(TINY_TASK, settings)
    finally:
        path.write_text(before)


def test_predictions_of_a_fold_that_was_trained_again_are_refused(settings, tmp_path):
    """The checkpoint has its old name but other weights."""
    shutil.copytree(settings.place.working, tmp_path / "working")
    settings = settings.replace(working=tmp_path / "working", fold=0)
    predict_run(TINY_TASK, settings)
    path = fold_checkpoints(TINY_TASK, settings, 0)[-1]
    state = load_state(path)
    first_tensor = next(iter(state["model"].values()))
    first_tensor += 1
    save_state(path, state)
    with pytest.raises(InputError, match="made with other checkpoints: delete that folder"):
        predict_run(TINY_TASK, settings)


def test_processes_share_the_files(settings):
    """Three processes, one after the other here: each writes every third of the files, and together
    all of them."""
    once = renamed(settings, "-once")
    predict_run(TINY_TASK, once)
    paths = fold_checkpoints(TINY_TASK, settings, 0) + fold_checkpoints(TINY_TASK, settings, 1)
    table = read_images(run_of(settings).task.table("test"))
    together = folder_of_test_images(settings)
    together.mkdir()
    for rank in range(3):
        runtime = Runtime(CPU, "fp32", rank=rank, world=3)
        folder = run_of(settings).path / f"rank{rank}"
        predict_table(TINY_TASK, settings, paths, table, folder, runtime)
        parts = sorted(folder.glob("part-*.npz"))
        assert [path.name for path in parts] == [f"part-{rank:05}.npz"]
        os.replace(parts[0], together / parts[0].name)
    assert_same_folders(together, folder_of_test_images(once), 1e-5)


# --- several runs


def test_networks_of_two_runs_are_merged_fold_by_fold(settings):
    """Class probabilities of the merged networks are the mean of both runs'."""
    first = settings.replace(tta="none")
    second = first.replace(run="seed7", seed=7)
    both = renamed(first, "-both").replace(merge=("seed7",))
    train_folds(TINY_TASK, second)
    predict_run(TINY_TASK, first)
    predict_run(TINY_TASK, second)
    predict_run(TINY_TASK, both)

    task = run_of(settings).task
    checkpoints = fold_checkpoints(TINY_TASK, both, 1)
    assert [path.relative_to(task.path).as_posix() for path in checkpoints] == [
        "run/fold1/epoch001.pt",
        "run/fold1/epoch002.pt",
        "seed7/fold1/epoch001.pt",
        "seed7/fold1/epoch002.pt",
    ]
    record = read_json(valid_folder(both, 1) / "settings.json")
    assert list(record["checkpoints"]) == [
        "fold1/epoch001.pt",
        "fold1/epoch002.pt",
        "../seed7/fold1/epoch001.pt",
        "../seed7/fold1/epoch002.pt",
    ]
    of_first = image_class_probabilities(first)
    of_second = image_class_probabilities(second)
    for image_id, merged in image_class_probabilities(both).items():
        mean = (of_first[image_id] + of_second[image_id]) / 2
        np.testing.assert_allclose(merged, mean, atol=1e-6)


def image_class_probabilities(settings):
    """{test image: its probabilities of the image classes}."""
    candidates = read_candidates(folder_of_test_images(settings))
    return {of_image.image_id: of_image.category for of_image in candidates}


def test_runs_that_cannot_be_merged(settings):
    with pytest.raises(InputError, match="nowhere/fold0 does not exist"):
        fold_checkpoints(TINY_TASK, settings.replace(merge=("nowhere",)), 0)
    large = first_fold(settings.replace(run="large"))
    shutil.copytree(first_fold(settings).path, large.path)
    large.write_config(large.read_config() | {"image_size": 512})
    sentence = "--merge large is impossible: its image_size is 512 and that of run 192"
    with pytest.raises(InputError, match=sentence):
        fold_checkpoints(TINY_TASK, settings.replace(merge=("large",)), 0)


def test_a_fold_that_is_not_finished_needs_partial(trained):
    half = trained.replace(run="half", fold=0, max_hours=1e-9)
    partial = half.replace(partial=True)
    train_folds(TINY_TASK, half)
    with pytest.raises(InputError, match="fold0 is not finished"):
        fold_checkpoints(TINY_TASK, half, 0)
    with pytest.raises(InputError, match=r"fold0 has no checkpoint yet: run 03_train.py"):
        fold_checkpoints(TINY_TASK, partial, 0)
    while not first_fold(half).epochs():
        train_folds(TINY_TASK, half)
    with pytest.raises(InputError, match=r"fold0 is not finished: run 03_train.py.*--partial"):
        fold_checkpoints(TINY_TASK, half, 0)
    paths = fold_checkpoints(TINY_TASK, partial, 0)
    assert [path.name for path in paths] == ["epoch001.pt"]
