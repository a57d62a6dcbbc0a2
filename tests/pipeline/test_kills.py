"""benchmarks/kills.py kills steps, goes on, and says where the results differ."""

import json
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
    args = Namespace(parallel_folds=1, kills=4, seed=0, minutes=1.0)
    differs = kills.measure(args, tmp_path)
    assert differs == (expected != "the same to the last bit")
    text = capsys.readouterr().out
    assert expected in text
    assert "undisturbed: 5 s, 1 images with boxes" in text


@pytest.fixture
def edge_kills(monkeypatch, exported):
    """For a batch of six pictures and the tiny run's file."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import edge_kills

    def prepare(folder):
        images = folder / "images"
        images.mkdir()
        for number in range(6):
            picture = edge_kills.edge_predict.draw_test_picture(60 + number)
            edge_kills.edge_predict.write_picture(images / f"{number:02}.png", picture)
        return exported.int8, images

    monkeypatch.setattr(edge_kills, "IMAGES", 6)
    monkeypatch.setattr(edge_kills, "prepare", prepare)
    return edge_kills


def test_kills_of_a_batch_lose_no_row(edge_kills, tmp_path, capfd):
    wanted = Namespace(kills=3, cards=0, seed=0)
    assert edge_kills.measure(wanted, tmp_path) == []
    assert "3 kills, 0 differences" in capfd.readouterr().out


def test_a_lost_row_is_found(edge_kills, tmp_path):
    model, images = edge_kills.prepare(tmp_path)
    places = []
    for name in ("a", "b"):
        place = edge_kills.Place(model, images, tmp_path / name)
        (place.out / "overlays").mkdir(parents=True)
        for table in edge_kills.TABLES:
            (place.out / table).write_text("file")
        record = {"source": {"name": "00.png"}, "entry": {"file": "00.png"}}
        (place.out / "predictions.jsonl").write_text(json.dumps(record) + "\n")
        places.append(place)
    assert edge_kills.compare(*places) == []
    (places[1].out / "predictions.jsonl").write_text("")
    (places[1].out / ".x.tmp").write_text("")
    assert edge_kills.compare(*places) == ["other rows", "temporary files are left"]
