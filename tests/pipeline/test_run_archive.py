"""A run as one file: what it holds, that it predicts what the run does, and what is refused."""

import json
import zipfile
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from steps import run_here
from untrained import write_untrained_run
from xrays import png, xray

import cxr
from cxr.command_line import read_command_line
from cxr.inference.predictor import Predictor
from cxr.inference.run_archive import RECORD, unpack_run
from cxr.methods.segmenter.rules import MaskRule
from cxr.run_folder import RunFolder
from cxr.steps.export.archive import archive_run, as_half
from cxr.steps.train.state import load_first_weights
from cxr.system.disk import write_json
from cxr.system.errors import InputError
from cxr.tasks import TASKS

TASK = TASKS["pneumothorax"]
PARAMS = asdict(MaskRule(top=0.0, bottom=0.02, area=0)) | {"rule": "first"}
IDS = ("a", "b", "c")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Of an untrained run of two folds, with what step 05 writes and three stored pictures."""
    return write_judged_run(tmp_path_factory.mktemp("archived"))


def write_judged_run(working, **changes):
    settings = write_untrained_run(working, TASK.name, PARAMS, weights="none", **changes)
    run = RunFolder.of(settings.place)
    write_json(run.judged().results, {"score": 0.5})
    run.judged().model_card.write_text("# Model card\n")
    rows = []
    for number, image_id in enumerate(IDS):
        png(run.task.image(image_id), xray(96, 96, seed=number))
        row = {"image_id": image_id, "group": image_id, "fold": number % 2, "label": 0}
        rows.append(row | {"width": 96, "height": 96, "boxes": "[]", "mask": "-1", "n_boxes": 0})
    pd.DataFrame(rows).to_csv(run.task.table("train"), index=False)
    return settings


@pytest.fixture(scope="module")
def archive(settings):
    """The file of that run."""
    return archive_run(TASK, settings)


@pytest.fixture
def starters(archive, tmp_path, monkeypatch):
    """A folder with a starter of the task, which the name `starter` means."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    path = folder / f"{TASK.name}-starter.zip"
    path.write_bytes(archive.read_bytes())
    monkeypatch.setenv("CXR_PRETRAINED", str(folder))
    return folder


def unpacked_names(working):
    folder = working / "unpacked"
    return sorted(path.name for path in folder.glob("*")) if folder.exists() else []


# --- what it holds, and what it says


def test_it_predicts_what_the_run_does(settings, archive, tmp_path):
    scan = png(tmp_path / "a.png", xray())
    own = cxr.open_run(RunFolder.of(settings.place).path, device="cpu", precision="fp32")
    of_file = cxr.open_run(archive, device="cpu", precision="fp32", working=tmp_path / "w")
    assert of_file.task == TASK.name
    assert len(of_file.predictor.networks.checkpoints) == 2
    assert of_file.predictor.sides == own.predictor.sides == [96, 64]
    assert np.array_equal(of_file.predict(scan).levels, own.predict(scan).levels)
    assert of_file.predictor.params == PARAMS
    assert of_file.predictor.run.judged().model_card.read_text() == "# Model card\n"


def test_it_knows_no_folder_of_this_machine(settings, archive):
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            assert str(settings.place.working).encode() not in file.read(name), name
        record = json.loads(file.read(RECORD))
    assert record["task"] == TASK.name
    assert len(record["made_from"]) == 2
    assert record["files"].keys() == set(zipfile.ZipFile(archive).namelist()) - {RECORD}


def test_it_is_unpacked_once(archive, tmp_path):
    run = unpack_run(archive, tmp_path)
    before = run.archive_record.stat().st_mtime_ns
    assert unpack_run(archive, tmp_path) == run
    assert run.archive_record.stat().st_mtime_ns == before
    assert len(unpacked_names(tmp_path)) == 2, "the run and the lock"


def test_half_precision_is_half_as_large_and_loads_as_fp32(settings, archive, capsys, tmp_path):
    whole = archive.read_bytes()
    try:
        archive_run(TASK, settings.replace(half=True))
        half = archive.read_bytes()
        run = cxr.open_run(archive, device="cpu", precision="fp32", working=tmp_path)
    finally:
        archive.write_bytes(whole)
    printed = capsys.readouterr().out
    difference = float(printed.rpartition("by at most ")[2])
    assert 0 < difference < 0.01
    assert "scores of 3 images differ" in printed
    assert len(half) < 0.75 * len(whole)
    dtypes = {parameter.dtype for parameter in run.predictor.networks.models[0].parameters()}
    assert dtypes == {torch.float32}


def test_what_half_precision_leaves_as_it_is():
    assert as_half(torch.ones(2, 2)).dtype == torch.float16
    assert as_half(torch.ones(2)).dtype == torch.float32
    assert as_half(torch.full((1, 1), 1e6)).dtype == torch.float32
    assert as_half(torch.ones(2, 2, dtype=torch.int64)).dtype == torch.int64


def test_the_finder_of_the_lungs_comes_along(tmp_path):
    write_untrained_run(tmp_path / "here", "lungs", run="finder")
    settings = write_judged_run(tmp_path / "here", lungs="finder", fold=0)
    RunFolder.of(settings.place).task.table("train").unlink()  # nothing to compare with
    run = unpack_run(archive_run(TASK, settings), tmp_path / "there")
    assert run.trained_folds() == [0]
    predictor = cxr.open_run(run.path, device="cpu").predictor
    assert len(predictor.networks.lung_finder.networks) == 2


def test_what_is_missing_is_named(tmp_path):
    settings = write_untrained_run(tmp_path, TASK.name)
    with pytest.raises(InputError, match=r"params.json is missing: run 05_postprocess.py first"):
        archive_run(TASK, settings)


# --- wherever a run is named


def test_the_steps_take_it(archive, tmp_path):
    png(tmp_path / "in" / "a.png", xray())
    flags = ("--run", archive, "--device", "cpu", "--working", tmp_path / "w")
    images = ("--images", tmp_path / "in", "--out", tmp_path / "out")
    code, printed = run_here("04_predict", *flags, *images)
    assert code == 0, printed
    assert (tmp_path / "out" / "index.html").exists()

    task, settings = read_command_line("serve", "", [str(word) for word in flags])
    assert task.name == TASK.name
    assert settings.training.encoder == "tu-test_resnet"
    assert len(Predictor(task, settings).networks.checkpoints) == 2


@pytest.mark.parametrize(
    "step, words, message",
    [
        ("predict", [], "say by --images which ones"),
        ("predict", ["--task", "lungs", "--images", "x"], "is a run of task pneumothorax, not lun"),
        ("train", [], "give it to 04_predict.py --images, 06_export.py or serve.py"),
        ("postprocess", [], "and this step the name of a run"),
    ],
)
def test_other_uses_are_refused(archive, tmp_path, step, words, message):
    words = ["--run", str(archive), "--working", str(tmp_path), *words]
    with pytest.raises(InputError, match=message):
        read_command_line(step, "", words)


def test_the_starter(starters, tmp_path):
    run = cxr.open_run("starter", task=TASK.name, device="cpu", working=tmp_path)
    assert run.task == TASK.name
    with pytest.raises(InputError, match=r"no starter of this task \(there are: pneumothorax\)"):
        cxr.open_run("starter")
    with pytest.raises(InputError, match="no starter of this task"):
        read_command_line("serve", "", ["--run", "starter", "--task", "covid"])
    words = ["--task", TASK.name, "--working", str(tmp_path)]
    images = ["--images", str(tmp_path)]
    _, settings = read_command_line("predict", "", [*words, *images, "--run", "starter"])
    assert settings.place.run == "tiny"


def test_the_page_takes_the_starter_where_nothing_is_trained(starters, settings, tmp_path, capsys):
    words = ["--task", TASK.name, "--working"]
    _, taken = read_command_line("serve", "", [*words, str(tmp_path)])
    assert RunFolder.of(taken.place).is_unpacked
    assert "no run was trained in" in capsys.readouterr().out
    _, own = read_command_line("serve", "", [*words, str(settings.place.working)])
    assert own.place.run == "paper"


def test_training_begins_with_its_networks(starters, settings, tmp_path):
    values = settings.flat() | {"working": tmp_path, "start": "starter", "run": "new"}
    new = TASK.make_settings(values)
    torch.manual_seed(9)
    model = TASK.method.build_model(new, TASK.used_labels(new))
    own = RunFolder.of(settings.place)
    for fold, same in ((0, 0), (1, 1), (3, 0)):
        load_first_weights(model, TASK, new, fold)
        state = torch.load(own.fold(same).epoch(1), weights_only=True)["model"]
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, state[name])


# --- files of strangers


def rewrite(archive, path, replaced=(), added=(), record=None):
    """A copy of an archive with other contents; `record`: a change of archive.json."""
    replaced = dict(replaced)
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = replaced.get(name, source.read(name))
            if name == RECORD and record:
                content = json.dumps(record(json.loads(content)))
            if content is not None:
                target.writestr(name, content)
        for name, content in added:
            target.writestr(name, content)
    return path


CARD = "pneumothorax/tiny/model_card.md"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"added": [("../evil.json", "{}")]}, "which no run has"),
        ({"added": [("/evil.json", "{}")]}, "which no run has"),
        ({"added": [("a\\..\\evil.json", "{}")]}, "which no run has"),
        ({"added": [("C:evil.json", "{}")]}, "which no run has"),
        ({"added": [("evil.py", "{}")]}, "which no run has"),
        ({"added": [("more.json", "{}")]}, "does not hold the files"),
        ({"replaced": {CARD: None}}, "does not hold the files"),
        ({"replaced": {CARD: "# Other card\n"}}, "the check sum of"),
        ({"replaced": {RECORD: None}}, "is no run in a file"),
        ({"replaced": {RECORD: "[" * 100_000}}, "has an unreadable archive.json"),
        ({"replaced": {CARD: " " * (2**24 + 1)}}, "bytes: do not use it"),
        ({"record": lambda content: content | {"format": 2}}, "has format 2"),
        ({"record": lambda content: content | {"run": ".."}}, "holds no run"),
        ({"record": lambda content: content | {"task": "other"}}, "holds no run"),
    ],
)
def test_what_is_unsafe_or_damaged_is_refused(archive, tmp_path, changes, message):
    path = rewrite(archive, tmp_path / "x.zip", **changes)
    with pytest.raises(InputError, match=message):
        unpack_run(path, tmp_path / "w")
    assert not [name for name in unpacked_names(tmp_path / "w") if name != ".lock"]
    assert sorted(each.name for each in tmp_path.iterdir()) in (["x.zip"], ["w", "x.zip"])


def test_files_that_are_none(archive, tmp_path):
    path = tmp_path / "x.zip"
    with pytest.raises(InputError, match="is not a file"):
        unpack_run(path, tmp_path)
    path.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged or not complete"):
        unpack_run(path, tmp_path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.json", "{}")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("a.json", "{}")
    with pytest.raises(InputError, match="holds files twice"):
        unpack_run(path, tmp_path)


def test_announced_sizes_are_held_to(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("cxr.inference.run_archive.MOST_BYTES", 1000)
    with pytest.raises(InputError, match="bytes: do not use it"):
        unpack_run(archive, tmp_path)
    assert unpacked_names(tmp_path) == []
