"""What tests/emulated.py compares; the emulation itself is no part of the tests."""

import runpy
import sys

import numpy as np
from steps import ROOT

EMULATED = runpy.run_path(str(ROOT / "tests" / "emulated.py"))


def run_with(boxes, labels, picture="same"):
    answer = {
        "pictures": [picture],
        "boxes": boxes,
        "labels": labels,
        "scores": [0.5] * len(boxes),
        "kept": [True] * len(boxes),
    }
    return EMULATED["Run"]({"answers": [answer]}, "", "", 0.0)


def test_boxes_are_compared_with_the_nearest_of_their_label():
    here = run_with([[0, 0, 9, 9], [20, 20, 30, 30]], [0, 1])
    there = run_with([[20, 20, 30, 30.25], [0, 0, 9, 9], [20, 20, 30, 30]], [1, 0, 0])
    found = EMULATED["compare"](here, there)
    assert found.pictures == (1, 1)
    assert found.boxes == 2
    assert found.pixels == 0.25
    assert found.scores == 0
    assert not found.kept_are_same


def test_missing_boxes_and_other_pictures_are_found():
    here = run_with([[0, 0, 9, 9], [20, 20, 30, 30]], [1, 0])
    there = run_with([[20, 20, 30, 30]], [0], picture="other")
    found = EMULATED["compare"](here, there)
    assert found.pictures == (0, 1)
    assert np.isnan(found.pixels)
    assert not found.pixels <= EMULATED["MOST_PIXELS"]


def test_python_of_another_processor_runs_programs(monkeypatch, capsys):
    """As sys.executable is called: with -c, a program and its arguments."""
    code = EMULATED["PYTHON"].split("\n", 1)[1]
    program = "import sys; sys.stdout.write(f'{sys.argv} {sys.executable}')"
    monkeypatch.setattr(sys, "argv", ["/python", "-c", program, "a"])
    monkeypatch.setattr(sys, "executable", "")
    exec(code, {})
    assert capsys.readouterr().out == "['-c', 'a'] /python"
