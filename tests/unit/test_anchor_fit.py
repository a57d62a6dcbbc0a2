"""The benchmark that asks whether fitted anchors would lie closer to the boxes."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import anchors


def boxes_of_ratios(ratios):
    return torch.tensor([[0.0, 0.0, 10.0, 10.0 * ratio] for ratio in ratios])


def test_ratios_are_the_three_heaps():
    ratios = anchors.fit_ratios(boxes_of_ratios([0.5, 0.5, 1.0, 1.0, 4.0, 4.0]))
    np.testing.assert_allclose(ratios, [0.5, 1, 4], rtol=1e-5)
    ratios = anchors.fit_ratios(boxes_of_ratios([0.5, 1.0, 2.0, 8.0]))
    np.testing.assert_allclose(ratios, [0.5**0.5, 2, 8], rtol=1e-5)


def test_boxes_and_their_overlaps(tmp_path, monkeypatch, capsys):
    table = pd.DataFrame(
        {"boxes": ["[]", "[[0, 0, 512, 512]]"], "width": 1024, "height": [1024] * 2}
    )
    assert anchors.read_boxes(table, 256).tolist() == [[0, 0, 128, 128]]
    best, count = anchors.overlaps(
        torch.tensor([[0.0, 0.0, 10.0, 10.0]]),
        torch.tensor([[0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 8.0], [20.0, 20.0, 30.0, 30.0]]),
    )
    assert best.tolist() == pytest.approx([0.8])
    assert count.tolist() == [1], "a half is not above a half"


def test_each_fold_is_met_by_the_others_ratios(tmp_path, monkeypatch, capsys):
    rows = []
    for number in range(8):
        fold = number % 2
        boxes = [[100, 100, 300, 100 + 200 * ratio] for ratio in (1 + fold, 2 + fold, 3 + fold)]
        rows.append({"image_id": str(number), "fold": fold, "boxes": str(boxes)})
    table = pd.DataFrame(rows).assign(width=1024, height=1024)
    table.to_csv(tmp_path / "train.csv", index=False)
    monkeypatch.setattr(sys, "argv", ["anchors.py", str(tmp_path)])
    anchors.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fold 0: ratios 2.00 3.00 4.00"
    assert lines[1] == "fold 1: ratios 1.00 2.00 3.00"
    assert "best IoU of 24 boxes" in lines[2] and "best IoU of 24 boxes" in lines[3]
