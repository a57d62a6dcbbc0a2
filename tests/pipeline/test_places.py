"""pneumothorax_places.sh: its runs are made of settings that exist, in an order in which each finds
what it needs."""

import ast
import shutil
from typing import NamedTuple

import pytest
from test_shell import ROOT, STEPS, STUB_STEP, bash

from cxr.command_line import READS, read_command_line
from cxr.settings import Settings

SCRIPT = "pneumothorax_places.sh"
# {number of a step: its name}
STEP_NAMES = dict(zip(("01", "02", "03", "04", "05"), READS, strict=False))

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


class Call(NamedTuple):
    """A step that the script has run: its number and what it was told."""

    number: str
    settings: Settings


@pytest.fixture
def project(tmp_path):
    """Steps that only print their arguments."""
    for name in (SCRIPT, "environment.sh"):
        shutil.copy(ROOT / name, tmp_path)
    for name in STEPS:
        (tmp_path / f"{name}.py").write_text(STUB_STEP.format(name=name[:2]))
    (tmp_path / "requirements.txt").write_text("pytest>=7\n")
    return tmp_path


def read_calls(text):
    """The steps in their order, from what the script has printed."""
    calls = []
    for line in text.splitlines():
        if line[:2] in STEP_NAMES:
            number, words = line.split(maxsplit=1)
            task, settings = read_command_line(STEP_NAMES[number], "", ast.literal_eval(words))
            task.check(settings)
            calls.append(Call(number, settings))
    return calls


def run_place(project, *words, **variables):
    """The steps of a place in their order, and the output."""
    status, text = bash(project / SCRIPT, *words, **variables)
    assert status == 0, text
    return read_calls(text), text


@pytest.mark.parametrize(
    "place, trained", [("first", 9), ("second", 4), ("third", 3), ("fourth", 1), ("fifth", 1)]
)
def test_every_run_finds_what_it_needs(project, place, trained):
    calls, _ = run_place(project, place, "--demo")
    assert sum(call.number == "03" for call in calls) == trained
    done = set()
    predicted = set()
    for number, settings in calls:
        run = settings.place.run
        assert settings.place.demo
        if number == "03":
            method = settings.method
            for needed in (settings.training.start, method.pseudo, method.lungs):
                assert needed in {"", *done}
            assert run not in done
            done.add(run)
        if number == "04":
            assert run in done
            assert not settings.training.start
            predicted.add(run)
        if number == "05":
            assert {run, *settings.method.stack} <= predicted
    assert calls[-1].number == "05"
    own_steps = [call.number for call in calls if call.settings.place.task == "pneumothorax"]
    assert own_steps[:2] == ["01", "02"]


def test_the_first_grows_and_sees_fewer_and_fewer_positives(project):
    calls, _ = run_place(project, "first")
    runs = []
    for number, settings in calls:
        if number == "03" and "scse" in settings.place.run:
            runs.append(settings)
    assert [settings.method.positive_share for settings in runs] == [0.8, 0.6, 0.4]
    assert [settings.training.image_size for settings in runs] == [512, 1024, 1024]
    assert [settings.training.lr for settings in runs] == [1e-4, 1e-5, 1e-5]
    assert [settings.method.mask_loss for settings in runs] == ["bce=3,dice=1,focal=4"] * 3


def test_flags_go_to_all_steps_and_win(project):
    flags = ("--unlabelled", "a folder", "--image-size", "64", "--fold", "0")
    calls, _ = run_place(project, "fifth", *flags)
    for _, settings in calls:
        assert settings.method.unlabelled == "a folder"
        assert settings.training.image_size == 64
        assert settings.place.fold == 0


def test_a_stop_ends_all_and_a_failure_too(project):
    calls, text = run_place(project, "second", STATUS_03="75")
    assert [call.number for call in calls] == ["01", "02", "03"]
    assert "run the same command again" in text
    status, text = bash(project / SCRIPT, "second", STATUS_02="1")
    assert status == 1
    assert len(read_calls(text)) == 2


@pytest.mark.parametrize("words", [[], ["sixth"], ["--demo"]])
def test_without_a_place(project, words):
    status, text = bash(project / SCRIPT, *words)
    assert status == 1
    assert "say which place" in text


def test_help(project):
    status, text = bash(project / SCRIPT, "--help")
    assert status == 0
    assert "bash pneumothorax_places.sh third" in text
    assert "#" not in text
