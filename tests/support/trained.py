"""What tests ask of trained folds: their files, and whether two are the same to the last bit."""

import csv

import torch

from cxr.inference.checkpoint import load_state
from cxr.run_folder import RunFolder

TIMES = ("seconds", "images_per_second")


class Killed(BaseException):
    """Stands for a kill: nothing of the program handles it."""


def first_fold(settings):
    return RunFolder.of(settings.place).fold(0)


def read_log(settings):
    """Rows of log.csv of the first fold without what depends on the clock."""
    with open(first_fold(settings).log, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name in TIMES:
            row.pop(name)
    return rows


def checkpoint_names(settings):
    return sorted(path.name for path in first_fold(settings).path.glob("*.pt"))


def temporary_files(settings):
    return list(first_fold(settings).path.glob(".*.tmp*"))


def assert_same(a, b, where=""):
    """Equal to the last bit, all the way down; `config` holds the name of the run."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            if key != "config":
                assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_run(settings, other):
    """Every checkpoint of the first fold bit for bit, and the log but for the times."""
    assert checkpoint_names(settings) == checkpoint_names(other)
    for name in checkpoint_names(settings):
        one = load_state(first_fold(settings).path / name)
        two = load_state(first_fold(other).path / name)
        assert_same(one, two, name)
    assert read_log(settings) == read_log(other)
