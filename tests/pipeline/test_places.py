"""pneumothorax_places.py: its runs are made of settings that exist, in an order in which each finds
what it needs, and every place reaches its submission."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from steps import ROOT, link_tree, run_here

from cxr.command_line import READS, read_command_line
from cxr.datasets.pneumothorax.places import DEVIATIONS, PLACES, Wishes, calls_of
from cxr.datasets.pneumothorax.public_sets import write_chexpert, write_nih
from cxr.inference import lung_crops
from cxr.steps.postprocess import postprocess
from cxr.system.errors import STOPPED

sys.path.insert(0, str(ROOT))
import pneumothorax_places

# {name of a script: name of its step}
STEP_NAMES = dict(
    zip(
        ("01_download", "02_preprocess", "03_train", "04_predict", "05_postprocess"),
        READS,
        strict=False,
    )
)


def settings_of(call, *further):
    """The settings of a step as its command line makes them, checked."""
    words = [*call.words(), *further]
    task, settings = read_command_line(STEP_NAMES[call.step], "", words)
    task.check(settings)
    return settings


# --------------------------------------------------------------------- what is asked for


@pytest.mark.parametrize("demo", [True, False])
@pytest.mark.parametrize(
    "place, trained", [("first", 16), ("second", 9), ("third", 3), ("fourth", 1), ("fifth", 2)]
)
def test_every_run_finds_what_it_needs(tmp_path, place, trained, demo):
    done = set()
    predicted = set()
    known = []
    for call in calls_of(place, Wishes(tmp_path, demo)):
        settings = settings_of(call)
        known.append((call.task, call.step))
        run = settings.place.run
        assert settings.place.demo is demo
        assert settings.place.working == tmp_path / place
        if call.step == "03_train":
            method = settings.method
            for needed in (settings.training.start, method.pseudo, method.lungs):
                assert needed in {"", *done}
            assert run not in done
            done.add(run)
        if call.step == "04_predict":
            members = {word.partition("=")[0] for word in settings.prediction.blend}
            assert members <= predicted
            assert members or run in done
            predicted.add(run)
        if call.step == "05_postprocess":
            assert {*settings.method.stack, *settings.judging.compare} <= predicted
            assert settings.judging.compare or run in predicted
    assert known.count(("pneumothorax", "03_train")) == trained
    own_steps = [step for task, step in known if task == "pneumothorax"]
    assert own_steps[:2] == ["01_download", "02_preprocess"]
    assert own_steps[-1] == "05_postprocess"


def trainings(tmp_path, place, word=""):
    """{run: settings} of the trainings of a place whose names hold a word, in their order."""
    runs = {}
    for call in calls_of(place, Wishes(tmp_path)):
        if call.step == "03_train" and word in call.values["run"]:
            runs[call.values["run"]] = settings_of(call)
    return runs


def test_the_first_grows_and_sees_fewer_and_fewer_positives(tmp_path):
    runs = trainings(tmp_path, "first", "scse").values()
    assert [settings.method.positive_share for settings in runs] == [0.8, 0.6, 0.4, 0.5]
    assert [settings.training.image_size for settings in runs] == [512, 1024, 1024, 1024]
    assert [settings.training.lr for settings in runs] == [1e-4, 1e-5, 1e-5, 1e-5]
    assert [settings.training.lr_min for settings in runs][-1] == 1e-6
    assert [settings.method.mask_loss for settings in runs] == ["bce=3,dice=1,focal=4"] * 4
    public = trainings(tmp_path, "first", "public").values()
    assert [settings.method.mask_loss for settings in public] == ["bce=1,dice=1,focal=1"] * 4
    assert [settings.method.positive_share for settings in public] == [0.8, 0.4, 0.6, 0.5]
    blends = [
        call.values["blend"] for call in calls_of("first", Wishes(tmp_path)) if is_blend(call)
    ]
    weights = ("albunet-public-4=0.4", "albunet-valid-4=0.2", "scse-4=0.2", "resnet50-4=0.2")
    assert blends == [weights]


def is_blend(call):
    return "blend" in call.values


def test_the_second_stacks_and_averages(tmp_path):
    runs = trainings(tmp_path, "second")
    assert all(settings.training.swa for settings in runs.values())
    encoders = {settings.training.encoder for settings in runs.values()}
    assert encoders == {
        *("se_resnext50_32x4d", "se_resnext101_32x4d", "efficientnet-b3", "efficientnet-b5")
    }
    last = calls_of("second", Wishes(tmp_path))[-2]
    assert len(last.values["stack"]) == 4
    assert last.values["run"] == "second"


def test_folds_and_epochs_that_answer(tmp_path):
    [settings] = trainings(tmp_path, "fourth").values()
    assert settings.data.folds == 8
    assert (settings.training.keep, settings.training.keep_best) == (1, 4)
    assert settings.prediction.tta == "flip"


def test_the_mean_teacher_has_pictures(tmp_path):
    for settings in trainings(tmp_path, "fifth").values():
        assert Path(settings.method.unlabelled) == tmp_path / "fifth" / "pneumothorax" / "images"
    calls = calls_of("fifth", Wishes(tmp_path, unlabelled="nih"))
    taught = [call.values["unlabelled"] for call in calls if call.step == "03_train"]
    assert taught == ["nih", "nih"]


def test_the_third_learns_one_set_and_then_all(tmp_path):
    wishes = Wishes(tmp_path, external=("chexpert", "nih"), external_labels=("train.csv",))
    sets = []
    for call in calls_of("third", wishes):
        if call.step == "03_train" and call.task == "pneumothorax":
            settings = settings_of(call)
            sets.append((settings.training.image_size, settings.method.external))
    assert sets == [
        (704, ()),
        (768, ()),
        (576, ("chexpert",)),
        (576, ("chexpert", "nih")),
    ]


def test_every_place_says_what_differs():
    assert DEVIATIONS.keys() == PLACES.keys()
    page = (ROOT / "docs" / "pneumothorax.md").read_text(encoding="utf-8")
    for sentences in DEVIATIONS.values():
        for sentence in sentences:
            assert sentence in " ".join(page.split()), "the page says it, too"


# ------------------------------------------------------------------------------ the script


def run_script(monkeypatch, capsys, *words, status=0, failing=""):
    """(exit status, [(step, words)] that were run, what was printed)."""
    done = []

    def run(command, **options):
        assert Path(options["cwd"]) == ROOT
        name = Path(command[1]).stem
        done.append((name, command[2:]))
        return subprocess.CompletedProcess(command, status if name == failing else 0)

    monkeypatch.setattr(pneumothorax_places.subprocess, "run", run)
    result = pneumothorax_places.main(words)
    return result, done, capsys.readouterr().out


def test_flags_go_to_all_steps_and_win(monkeypatch, capsys):
    flags = ("--image-size", "64", "--fold", "0")
    status, done, _ = run_script(monkeypatch, capsys, "fifth", "--working", "here", *flags)
    assert status == 0
    assert all(tuple(words[-4:]) == flags for _, words in done)
    assert all("here/fifth" in words for _, words in done)


def test_a_stop_ends_all_and_a_failure_too(monkeypatch, capsys):
    words = ("second", "--demo")
    status, done, text = run_script(monkeypatch, capsys, *words, status=STOPPED, failing="03_train")
    assert status == 0
    assert [name for name, _ in done] == ["01_download", "02_preprocess", "03_train"]
    assert "run the same command again" in text
    status, done, _ = run_script(monkeypatch, capsys, *words, status=1, failing="02_preprocess")
    assert status == 1
    assert len(done) == 2


def test_the_steps_can_be_listed(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(pneumothorax_places, "HERE", tmp_path)
    run_script(monkeypatch, capsys, "third", "--list", "--demo")
    assert not list(tmp_path.iterdir()), "nothing is drawn for a list"
    monkeypatch.setattr(pneumothorax_places, "HERE", ROOT)
    status, done, text = run_script(monkeypatch, capsys, "third", "--list")
    assert status == 0
    assert not done
    assert "== 03_train --task lungs" in text


def test_without_a_place(capsys):
    with pytest.raises(SystemExit) as stop:
        pneumothorax_places.main(["sixth"])
    assert stop.value.code == 2
    assert "first" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        pneumothorax_places.main(["--help"])
    assert "  * five folds, which all answer" in capsys.readouterr().out


# --------------------------------------------------------------------------- the real steps

TINY = (
    *("--demo-images", "12", "--size", "128", "--folds", "2"),
    *("--workers", "0", "--device", "cpu", "--tta", "none"),
)
TINY_TRAINING = ("--image-size", "64", "--epochs", "1", "--batch-size", "4", "--weights", "none")
TINY_ENCODER = ("--encoder", "tu-test_resnet")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with `input` and, made once for all places, `pneumothorax` of step 02."""
    root = tmp_path_factory.mktemp("places")
    for call in calls_of("fourth", Wishes(root, demo=True))[:2]:
        run_call(call, root)
    return root


def run_call(call, root):
    """Run a step in this process with a tiny network."""
    flags = [*TINY, "--input", root / "input"]
    if "second" not in call.values["working"].parts:  # whose stack is fitted on other folds
        flags += ("--fold", "0")
    if call.step == "03_train":
        flags += TINY_TRAINING
        if call.values.get("decoder") != "deeplab":  # which needs an encoder that can be dilated
            flags += TINY_ENCODER
    status, text = run_here(call.step, *call.words(), *flags)
    assert status == 0, f"{call.step} {call.words()}: {text}"
    return text


def tiny_public_sets(folder):
    """Folders of external images and the file of labels of the first."""
    write_chexpert(folder / "chexpert", count=8)
    write_nih(folder / "nih", count=8)
    folders = (str(folder / "chexpert"), str(folder / "nih"))
    return folders, (str(folder / "chexpert" / "train.csv"),)


@pytest.mark.parametrize("place", PLACES)
def test_a_place_reaches_its_submission(prepared, monkeypatch, place):
    # One epoch is too short to find lungs.
    monkeypatch.setattr(lung_crops, "MOST_WITHOUT_LUNGS", 1.0)
    monkeypatch.setattr(postprocess, "write_report", lambda *arguments: None)
    working = prepared / place
    pictures = prepared / "fourth" / "pneumothorax"
    if place != "fourth":
        link_tree(pictures, working / "pneumothorax", "fourth")
    wishes = Wishes(prepared, demo=True)
    if place == "third":
        wishes = Wishes(prepared, True, "", *tiny_public_sets(prepared))
    for call in calls_of(place, wishes):
        run_call(call, prepared)
    task = working / "pneumothorax"
    assert (task / place / "submission.csv").exists()
    if place != "fourth":
        assert (task / "compare.html").exists()
    for call in calls_of(place, wishes):  # a gigabyte of some places
        if call.step == "03_train":
            shutil.rmtree(working / call.task / call.values["run"])
