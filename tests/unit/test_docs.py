"""The code in docs/add_a_dataset.md, run as its reader would."""

import re
import sys
from types import ModuleType

import cv2
import numpy as np
import pytest
from steps import ROOT

from cxr.datasets.base import Dataset
from cxr.system.errors import InputError

PAGE = ROOT / "docs" / "add_a_dataset.md"


def code_blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def marks(monkeypatch):
    """The page's reader and class, importable under the names that it gives them."""
    reader, dataset, presets = code_blocks()
    package = ModuleType("cxr.datasets.marks")
    monkeypatch.setitem(sys.modules, "cxr.datasets.marks", package)
    modules = {}
    for name, code in {"files": reader, "dataset": dataset, "presets": presets}.items():
        module = ModuleType(f"cxr.datasets.marks.{name}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(code, f"{PAGE}:{name}", "exec"), module.__dict__)
        modules[name] = module
    return modules


def write_marks(folder, rows):
    (folder / "images").mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(folder / "images" / f"{name}.png"), np.zeros((8, 8), np.uint8))
    (folder / "boxes.csv").write_text("name,x1,y1,x2,y2\n" + rows)


def test_the_pages_data_set_is_read(marks, tmp_path):
    write_marks(tmp_path, "a,1,2,3,4\n")
    dataset = marks["dataset"].Marks()
    assert isinstance(dataset, Dataset)
    train = dataset.read_tables(tmp_path, None).train
    assert train["image_id"].tolist() == ["a", "b"]
    assert train["boxes"].tolist() == ["[[1, 2, 3, 4]]", "[]"]
    assert train["label"].tolist() == [1, 0]
    assert set(marks["presets"].PRESETS) == {"paper", "small", "demo"}


def test_a_wrong_row_is_named(marks, tmp_path):
    write_marks(tmp_path, "a,1,2,3,4\nb,1,2,x,4\n")
    with pytest.raises(InputError, match=r"boxes.csv, line 3: a corner is no number"):
        marks["dataset"].Marks().read_tables(tmp_path, None)


def test_it_cannot_be_drawn(marks, tmp_path):
    with pytest.raises(InputError, match="leave --demo and --pretrain out"):
        marks["dataset"].Marks().write_synthetic(tmp_path, 4)
