"""benchmarks/same_results.py finds the first difference of two runs, and only differences."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
LOG = "epoch,lr,train_loss,valid_loss,seconds\n1,0.1,0.5,0.25,3.0\n2,0.1,0.4,0.125,3.1\n"
# A checkout whose demo is a copy of a finished folder; it leaves the flags that it was given.
START = """set -e
while [ "$#" -gt 0 ]; do
    if [ "$1" = --working ]; then mkdir -p "$2"; cp -r finished/. "$2"; fi
    echo "$1" >> flags.txt
    shift
done
"""


def write_run(folder, **changes):
    """What is compared of a run, as the steps leave it. changes: of tensors and files."""
    weight = changes.get("weight", torch.tensor([[1.0, 2.0], [0.0, float("nan")]]))
    state = {"layer.weight": weight, "steps": torch.tensor(7)}
    fold = folder / "rsna" / "demo" / "fold0"
    fold.mkdir(parents=True)
    checkpoint = {"task": "rsna", "config": changes.get("config", {"lr": 0.1}), "model": state}
    torch.save(checkpoint, fold / "epoch002.pt")
    torch.save(checkpoint, fold / "best.pt")
    (fold / "log.csv").write_text(changes.get("log", LOG))
    params = changes.get("params", {"threshold": 0.5, "gate": True})
    (fold.parent / "params.json").write_text(json.dumps(params))
    submission = changes.get("submission", "patientId,PredictionString\na,\nb,0.5 1 2 3 4\n")
    (fold.parent / "submission.csv").write_text(submission)
    return folder


@pytest.fixture
def compare(monkeypatch, capsys):
    """Function that runs the script: (exit status, what was printed)."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import same_results

    def run(old, new, *flags):
        monkeypatch.setattr(sys, "argv", ["same_results.py", str(old), str(new), *flags])
        try:
            same_results.main()
            status = 0
        except SystemExit as stop:
            status = stop.code
        text = capsys.readouterr().out
        if isinstance(status, str):  # the interpreter prints a text and ends with 1
            return 1, text + status
        return status, text

    return run


def test_what_says_nothing_of_the_results_may_differ(tmp_path, compare):
    old = write_run(tmp_path / "old")
    log = LOG.replace("3.0", "4.0").replace("lr", "learning_rate")
    new = write_run(tmp_path / "new", config={"rate": 0.1, "more": [1]}, log=log)
    status, text = compare(old, new)
    assert status == 0, text
    assert text.count("1 the same of 1") == 5
    assert "the same to the last bit" in text


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"weight": torch.tensor([[1.0, 2.0 + 2**-22], [-0.0, float("nan")]])},
            "epoch002.pt: layer.weight differs in 2 of 4 numbers, the first is number 1: 2.0 and "
            "2.000000238",
        ),
        ({"weight": torch.zeros(4)}, "layer.weight has the shapes (2, 2) and (4,)"),
        ({"weight": torch.zeros(2, 2).double()}, "layer.weight is torch.float32 and torch.float64"),
        ({"params": {"threshold": 0.5, "gate": 1}}, "params.json: gate is true and 1"),
        ({"params": {"threshold": 0.5}}, "params.json: gate is in the old one only"),
        (
            {"submission": "patientId,PredictionString\na,\nb,0.5 1 2 3 5\n"},
            r"submission.csv: line 3 is b'b,0.5 1 2 3 4\n' and b'b,0.5 1 2 3 5\n'",
        ),
        ({"submission": "patientId,PredictionString\n"}, "submission.csv: has 3 and 1 lines"),
        (
            {"log": LOG.replace("0.125", "0.1250001")},
            "log.csv: epoch 2: valid_loss is 0.125 and 0.1250001",
        ),
        ({"log": LOG.replace("valid_loss", "valid_box")}, "valid_loss is in the old one only"),
    ],
)
def test_the_first_difference_is_named(tmp_path, compare, changes, words):
    old = write_run(tmp_path / "old")
    status, text = compare(old, write_run(tmp_path / "new", **changes))
    assert status == 1
    assert words in text
    assert "the same to the last bit" not in text


def test_a_missing_file_is_a_difference(tmp_path, compare):
    old = write_run(tmp_path / "old")
    new = write_run(tmp_path / "new")
    (new / "rsna" / "demo" / "fold0" / "best.pt").unlink()
    status, text = compare(old, new)
    assert status == 1
    assert f"rsna/demo/fold0/best.pt is in {old} only" in text


def test_nothing_to_compare_is_no_sameness(tmp_path, compare):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    status, text = compare(tmp_path / "old", tmp_path / "new")
    assert status == 1
    assert "there is nothing to compare" in text
    status, text = compare(tmp_path / "old", tmp_path / "gone")
    assert status == 1
    assert "gone is no folder" in text


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_checkouts_run_their_demo(tmp_path, compare):
    for name, threshold in (("old", 0.5), ("new", 0.6)):
        write_run(tmp_path / name / "finished", params={"threshold": threshold})
        (tmp_path / name / "run_all.sh").write_text(START)
    status, text = compare(tmp_path / "old", tmp_path / "new", "--epochs", "2")
    assert status == 1
    assert "params.json: threshold is 0.5 and 0.6" in text
    flags = (tmp_path / "new" / "flags.txt").read_text().split()
    assert flags[0] == "--demo"
    assert flags[-2:] == ["--epochs", "2"]

    (tmp_path / "new" / "run_all.sh").write_text("echo broken; exit 3\n")
    status, text = compare(tmp_path / "old", tmp_path / "new")
    assert status == 1
    assert "failed:\nbroken" in text
