"""benchmarks/kills.py kills steps, goes on, and says where the results differ."""

import subprocess
import sys
from argparse import Namespace
from collections import Counter

import numpy as np
import pytest
from steps import ROOT

pytest.importorskip("resource", reason="kills and forks as POSIX has them")
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def kills(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import kills

    return kills


def test_two_kills_change_nothing():
    command = [sys.executable, str(BENCHMARKS / "kills.py"), "--kills", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "03_train, saved   1 kills" in done.stdout
    assert "2 kills in" in done.stdout
    assert done.stdout.endswith("the same to the last bit\n")


def test_half_of_the_kills_come_after_a_saved_state(kills):
    rng = np.random.default_rng(0)
    planned = kills.plan_round(10, rng)
    names = Counter(kill.name for kill in planned)
    assert names == dict.fromkeys(kills.STEPS, 1) | {"03_train, saved": 5}
    assert [kill.step for kill in planned] == sorted(kill.step for kill in planned)
    assert [kill.saved for kill in kills.plan_round(1, rng)] == [True]


@pytest.mark.parametrize(
    ("submission", "expected"),
    [
        ("id,boxes\na,0.5 1 2 3 4\n", "the same to the last bit"),
        ("id,boxes\na,0.6 1 2 3 4\n", "round 1: rsna/tiny/submission.csv: line 2 is"),
        (None, "round 1: 01_download ended with 1"),
    ],
)
def test_what_differs_is_said(kills, monkeypatch, tmp_path, capsys, submission, expected):
    """Steps that only write a submission; after kills they write the one given, or fail."""

    def finish_step(step, place):
        is_first = place.folder.name == "undisturbed"
        text = "id,boxes\na,0.5 1 2 3 4\n" if is_first else submission
        if text is None:
            raise kills.StepFailure(f"{step} ended with 1")
        run = place.working / "rsna" / "tiny"
        run.mkdir(parents=True, exist_ok=True)
        (run / "submission.csv").write_text(text)
        return 1.0

    monkeypatch.setattr(kills, "finish_step", finish_step)
    monkeypatch.setattr(kills, "disturb", lambda *_: True)
    args = Namespace(kills=4, seed=0, minutes=1.0)
    differs = kills.measure(args, tmp_path)
    assert differs == (expected != "the same to the last bit")
    text = capsys.readouterr().out
    assert expected in text
    assert "undisturbed: 5 s, 1 images with boxes" in text
