"""pneumothorax_places.sh: its runs are made of settings that exist, in an order in which each finds what it needs."""

import ast
import shutil
from pathlib import Path

import pytest
from test_shell import STEPS, bash

from cxr.config import build_parser, resolve
from cxr.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]
STEP = 'import os, sys\nprint("CALL", ["{name}", *sys.argv[1:]])\nsys.exit(int(os.environ.get("STATUS_{name}", 0)))\n'
PRESETS = {name: task.presets for name, task in TASKS.items()}

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture
def project(tmp_path):
    """Steps that only print their arguments."""
    for name in ("pneumothorax_places.sh", "environment.sh"):
        shutil.copy(ROOT / name, tmp_path)
    for name in STEPS:
        (tmp_path / f"{name}.py").write_text(STEP.format(name=name[:2]))
    (tmp_path / "requirements.txt").write_text("pytest>=7\n")
    return tmp_path


def calls(project, *words, **variables):
    """([(number, Config)] of the steps in their order, output)."""
    status, text = bash(project / "pneumothorax_places.sh", *words, **variables)
    assert status == 0, text
    lines = [ast.literal_eval(line[5:]) for line in text.splitlines() if line.startswith("CALL ")]
    return [
        (line[0], resolve(vars(build_parser("").parse_args(line[1:])), PRESETS)) for line in lines
    ], text


@pytest.mark.parametrize(
    "place, trained", [("first", 9), ("second", 4), ("third", 3), ("fourth", 1), ("fifth", 1)]
)
def test_every_run_finds_what_it_needs(project, place, trained):
    done, predicted = set(), set()
    found, _ = calls(project, place, "--demo")
    assert sum(number == "03" for number, _ in found) == trained
    for number, config in found:
        assert config.demo
        if number == "03":
            assert (
                config.start in {"", *done}
                and config.pseudo in {"", *done}
                and config.lungs in {"", *done}
            )
            assert config.run not in done
            done.add(config.run)
        if number == "04":
            assert config.run in done and not config.start
            predicted.add(config.run)
        if number == "05":
            assert {config.run, *config.stack} <= predicted
    assert found[-1][0] == "05" and [
        number for number, config in found if config.task == "pneumothorax"
    ][:2] == ["01", "02"]


def test_the_first_grows_and_sees_fewer_and_fewer_positives(project):
    runs = [
        config
        for number, config in calls(project, "first")[0]
        if number == "03" and "scse" in config.run
    ]
    assert [config.positive_share for config in runs] == [0.8, 0.6, 0.4]
    assert [config.image_size for config in runs] == [512, 1024, 1024]
    assert [config.lr for config in runs] == [1e-4, 1e-5, 1e-5] and [c.mask_loss for c in runs] == [
        "bce=3,dice=1,focal=4"
    ] * 3


def test_flags_go_to_all_steps_and_win(project):
    found, _ = calls(
        project, "fifth", "--unlabelled", "a folder", "--image-size", "64", "--fold", "0"
    )
    assert {(config.unlabelled, config.image_size, config.fold) for _, config in found} == {
        ("a folder", 64, 0)
    }


def test_a_stop_ends_all_and_a_failure_too(project):
    found, text = calls(project, "second", STATUS_03="75")
    assert [number for number, _ in found] == [
        "01",
        "02",
        "03",
    ] and "run the same command again" in text
    status, text = bash(project / "pneumothorax_places.sh", "second", STATUS_02="1")
    assert status == 1 and text.count("CALL") == 2


@pytest.mark.parametrize("words", [[], ["sixth"], ["--demo"]])
def test_without_a_place(project, words):
    status, text = bash(project / "pneumothorax_places.sh", *words)
    assert status == 1 and "say which place" in text


def test_help(project):
    status, text = bash(project / "pneumothorax_places.sh", "--help")
    assert status == 0 and "bash pneumothorax_places.sh third" in text and "#" not in text
