"""What the pneumothorax winners did in training beyond a network and a loss, on a tiny network."""

import shutil

import pytest
import torch
from tiny_masks import TINY_MASKS, mask_settings, write_tiny_masks
from trained import first_fold, read_log

from cxr.data.samplers import ResumableSampler
from cxr.inference.checkpoint import load_state
from cxr.methods.segmenter.mean_teacher import MeanTeacher
from cxr.steps.train.engine import train_folds
from cxr.steps.train.state import TrainingState
from cxr.system.disk import read_json
from cxr.system.errors import STOPPED, InputError
from cxr.system.runtime import single_runtime


@pytest.fixture(scope="module")
def working(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    write_tiny_masks(folder)
    return folder


def train(settings):
    assert train_folds(TINY_MASKS, settings) == 0


def epoch_weights(settings, number):
    """{name: tensor} that the first fold kept of an epoch."""
    return load_state(first_fold(settings).epoch(number))["model"]


def last_state(settings):
    return load_state(first_fold(settings).last)


# --- averages


def test_average_from_an_epoch_on(working):
    settings = mask_settings(working, "ema", ema=0.5, ema_from=2, keep=2)
    train(settings)
    first = epoch_weights(settings, 1)["mask.weight"]
    second = epoch_weights(settings, 2)["mask.weight"]
    assert not torch.equal(second, last_state(settings)["model"]["mask.weight"])
    assert not torch.equal(first, second)


def test_before_that_epoch_the_average_is_a_copy(working):
    settings = mask_settings(working, "copy", ema=0.5, ema_from=3)
    train(settings)
    last = last_state(settings)["model"]
    for name, value in epoch_weights(settings, 2).items():
        assert torch.equal(value, last[name]), name


# --- the mean teacher


def taught_settings(working, run, **changes):
    changes = {"unlabelled": str(working / "plain"), "unlabelled_batch": 2} | changes
    return mask_settings(working, run, **changes)


def test_the_teacher_teaches_and_the_student_is_kept(working):
    settings = taught_settings(working, "taught", consistency=1e4)
    train(settings)
    log = read_log(settings)
    assert all(float(row["train_consistency"]) > 0 for row in log)
    assert "valid_consistency" not in log[0]
    last = last_state(settings)
    kept = epoch_weights(settings, 2)["mask.weight"]
    assert torch.equal(last["model"]["mask.weight"], kept)
    assert not torch.equal(last["average"]["module.mask.weight"], kept)

    alone = mask_settings(working, "alone")
    train(alone)
    assert not torch.equal(epoch_weights(alone, 2)["mask.weight"], kept)


def test_a_taught_run_that_is_stopped_ends_the_same(working):
    whole = taught_settings(working, "whole")
    train(whole)
    stopped = taught_settings(working, "stopped", max_hours=1e-9)
    for _ in range(20):
        status = train_folds(TINY_MASKS, stopped)
        if status != STOPPED:
            break
    assert status == 0
    of_whole = last_state(whole)
    of_stopped = last_state(stopped)
    for part in ("model", "average"):
        for name, value in of_whole[part].items():
            assert torch.equal(value, of_stopped[part][name]), name


def test_the_teacher_leaves_the_students_statistics_alone(working):
    settings = taught_settings(working, "statistics")
    torch.manual_seed(0)
    state = TrainingState(TINY_MASKS, settings, 0, single_runtime(settings.machine), 2, False)
    teacher = MeanTeacher(state, settings, ResumableSampler(4, 2, 0, True))
    teacher.start()
    norm = state.model.encoder[1]
    before = norm.running_mean.clone()
    teacher.terms()["consistency"].backward()
    assert torch.equal(norm.running_mean, before)
    assert norm.training
    assert all(parameter.grad is None for parameter in state.average.module.parameters())


def test_student_and_teacher_read_gray_values_as_saved(working, tmp_path):
    settings = taught_settings(working, "scale")
    runtime = single_runtime(settings.machine)
    before = TrainingState(TINY_MASKS, settings, 0, runtime, 2, False)
    before.model.restore_scale((0.4, 0.3))
    before.save(tmp_path / "last.pt")
    resumed = TrainingState(TINY_MASKS, settings, 0, runtime, 2, True)
    resumed.load(tmp_path / "last.pt")
    assert resumed.model.scale == (0.4, 0.3)
    assert resumed.average.module.scale == (0.4, 0.3)


def test_a_folder_without_pictures(working, tmp_path):
    settings = taught_settings(working, "none", unlabelled=str(tmp_path))
    with pytest.raises(InputError, match="holds no PNG pictures"):
        train_folds(TINY_MASKS, settings)


# --- weights of another run


@pytest.fixture(scope="module")
def first_run(working):
    """Settings of a run whose weights others start from."""
    settings = mask_settings(working, "first", keep=1)
    train(settings)
    return settings


def starting_from(working, run, start, **changes):
    """Settings of a run that hardly moves its first weights."""
    return mask_settings(working, run, start=str(start), lr=1e-12, epochs=1, **changes)


def test_starting_from_another_run(working, first_run):
    settings = starting_from(working, "second", "first", image_size=96)
    train(settings)
    expected = epoch_weights(first_run, 2)["mask.weight"]
    assert torch.allclose(epoch_weights(settings, 1)["mask.weight"], expected, atol=1e-8)


def test_starting_from_a_file(working, first_run):
    file = first_fold(first_run).epoch(2)
    settings = starting_from(working, "third", file)
    train(settings)
    expected = epoch_weights(first_run, 2)["mask.weight"]
    assert torch.allclose(epoch_weights(settings, 1)["mask.weight"], expected, atol=1e-8)


def test_a_file_that_has_learned_the_validation_images(working, first_run, tmp_path):
    file = first_fold(first_run).epoch(2)
    sentence = "epoch002.pt has learned the validation images of fold 1: give --fold 0"
    with pytest.raises(InputError, match=sentence):
        train_folds(TINY_MASKS, starting_from(working, "leak", file, fold=1))
    # Elsewhere it is perhaps of other images, which nobody can know.
    elsewhere = shutil.copy(file, tmp_path / "elsewhere.pt")
    train(starting_from(working, "other", elsewhere, fold=1))


def test_starts_that_do_not_exist(working):
    settings = mask_settings(working, "lost", start="nobody")
    sentence = "--start nobody is neither a file nor a run with checkpoints in .*: train that"
    with pytest.raises(InputError, match=sentence):
        train_folds(TINY_MASKS, settings)
    settings = mask_settings(working, "gone", start=str(working / "gone.pt"))
    with pytest.raises(InputError, match=r"--start .*gone.pt is neither a file nor a run"):
        train_folds(TINY_MASKS, settings)


def test_starts_that_do_not_fit(working, tmp_path):
    torch.save({"x": 1}, tmp_path / "other.pt")
    settings = mask_settings(working, "other_file", start=str(tmp_path / "other.pt"))
    with pytest.raises(InputError, match=r"other.pt is no checkpoint of step 03"):
        train_folds(TINY_MASKS, settings)
    odd = first_fold(mask_settings(working, "odd")).epoch(1)
    odd.parent.mkdir(parents=True)
    torch.save({"model": {"x": torch.zeros(1)}}, odd)
    with pytest.raises(InputError, match="fits another network"):
        train_folds(TINY_MASKS, mask_settings(working, "misfit", start="odd"))


# --- pseudo labels and shares


def test_predicted_masks_become_training_images(working):
    """A fold's student learns from what that fold's model says of the test images, which it is
    asked for at once."""
    teacher = mask_settings(working, "guess", epochs=30, batch_size=4)
    train(teacher)
    sampling = {"sampling": "share", "positive_share": 0.5, "pseudo_ratio": 1.0}
    settings = mask_settings(working, "pseudo", pseudo="guess", **sampling)
    train(settings)
    assert first_fold(settings).read_config()["pseudo"] == "guess"
    record = read_json(first_fold(teacher).test_predictions("predictions") / "settings.json")
    assert list(record["checkpoints"]) == [
        "fold0/epoch028.pt",
        "fold0/epoch029.pt",
        "fold0/epoch030.pt",
    ]


def test_pseudo_labels_of_a_run_that_is_not_there(working):
    settings = mask_settings(working, "absent", pseudo="nobody")
    sentence = "nobody/fold0 does not exist: train the fold with 03_train.py first"
    with pytest.raises(InputError, match=sentence):
        train_folds(TINY_MASKS, settings)


def test_the_share_of_positives_is_logged(working):
    settings = mask_settings(working, "share", sampling="share", positive_share=0.5, epochs=1)
    train(settings)
    assert [float(row["positive_share"]) for row in read_log(settings)] == [0.5]
