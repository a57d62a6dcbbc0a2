"""Networks from checkpoints: rebuilt from the file alone, or refused in a sentence."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from tiny_task import TINY_TASK
from trained import first_fold

from cxr.inference.checkpoint import load_state, save_state
from cxr.inference.run import fold_checkpoints, load_model, refuse_other_training
from cxr.run_folder import FoldFolder
from cxr.system.disk import write_json
from cxr.system.errors import InputError
from cxr.tasks import TASKS

CPU = torch.device("cpu")


def test_a_model_is_rebuilt_from_the_checkpoint_alone(tiny_run):
    path = first_fold(tiny_run).epoch(2)
    model = load_model(TINY_TASK, path, CPU)
    assert not model.training
    assert model.pretrained is False
    assert model.dropout.p == tiny_run.method.dropout
    stored = load_state(path)["model"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, stored[name]), name


def test_a_checkpoint_holds_the_settings(tiny_run):
    stored = load_state(first_fold(tiny_run).epoch(2))["config"]
    settings = TINY_TASK.make_settings(stored | {"setting of an old version": 3})
    assert settings == tiny_run


def test_checkpoint_of_another_task(tiny_run, tmp_path):
    state = load_state(first_fold(tiny_run).epoch(2))
    save_state(tmp_path / "epoch001.pt", state | {"task": "other"})
    with pytest.raises(InputError, match=r"epoch001.pt belongs to task other, not tiny"):
        load_model(TINY_TASK, tmp_path / "epoch001.pt", CPU)
    with pytest.raises(InputError, match=r"last.pt is no checkpoint of step 03"):
        load_model(TINY_TASK, first_fold(tiny_run).last, CPU)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_checkpoint_that_is_cut_off(tiny_run, tmp_path, share):
    content = first_fold(tiny_run).epoch(2).read_bytes()
    (tmp_path / "epoch002.pt").write_bytes(content[: int(share * len(content))])
    sentence = r"epoch002.pt is not a whole checkpoint.*run step 03 again"
    with pytest.raises(InputError, match=sentence):
        load_model(TINY_TASK, tmp_path / "epoch002.pt", CPU)


def test_runs_that_cannot_be_predicted(tiny_run):
    sentence = rf"fold0 does not exist: train the fold .*here: .*{tiny_run.place.run}"
    with pytest.raises(InputError, match=sentence):
        fold_checkpoints(TINY_TASK, tiny_run.replace(run="nowhere"), 0)
    with pytest.raises(InputError, match="belongs to task tiny, not other"):
        fold_checkpoints(SimpleNamespace(name="other"), tiny_run, 0)


def test_flags_that_disagree_with_the_training(tiny_run):
    other = tiny_run.replace(lr=0.5)
    given = dataclasses.replace(other, given=("lr", "workers"))
    with pytest.raises(InputError, match="trained with other values of lr: leave these flags out"):
        fold_checkpoints(TINY_TASK, given, 0)
    agreeing = dataclasses.replace(tiny_run, given=("lr", "epochs"))
    assert len(fold_checkpoints(TINY_TASK, agreeing, 0)) == 2
    # What comes from a preset is not given, and the checkpoint's own value counts.
    assert len(fold_checkpoints(TINY_TASK, other, 0)) == 2


def test_lists_are_the_same_as_in_the_training(tmp_path):
    """As bash run_all.sh --external A B gives them to every step; JSON has no tuples."""
    write_json(tmp_path / "config.json", {"task": "pneumothorax", "external": ["a", "b"]})
    settings = TASKS["pneumothorax"].make_settings({"external": ("a", "b")})
    given = dataclasses.replace(settings, given=("external",))
    refuse_other_training(given, FoldFolder(tmp_path))
    with pytest.raises(InputError, match="trained with other values of external: leave"):
        refuse_other_training(given.replace(external=("b", "a")), FoldFolder(tmp_path))
