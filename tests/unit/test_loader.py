"""Loader processes: how many, and whether they have room to hand over their batches."""

import os
import shutil
from types import SimpleNamespace

import pytest

from cxr.data.loader import check_shared_memory, count_workers
from cxr.system.errors import InputError


def test_workers_are_counted(monkeypatch):
    assert count_workers(3) == 3
    assert count_workers(0) == 0
    for cores, workers in ((1, 2), (4, 4), (64, 8)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert count_workers(-1) == workers


def test_a_small_shared_memory_is_said_before_anything_waits(tmp_path, monkeypatch):
    """Docker's 64 MiB, and batches of 8 MiB: 4 processes with two each and the one in use."""
    usage = SimpleNamespace(free=64 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    sentence = "has 64 MiB left, and 4 processes that load images need some 72: .*--shm-size=1g"
    with pytest.raises(InputError, match=sentence):
        check_shared_memory(8 * 2**20, 4, tmp_path)
    check_shared_memory(8 * 2**20, 3, tmp_path)
    check_shared_memory(8 * 2**20, 0, tmp_path)
    check_shared_memory(8 * 2**20, 4, tmp_path / "not there")
