"""Files that are whole or absent, locks, leftovers, records that parse but are not whole."""

import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from cxr.data.tables import read_table
from cxr.inference.checkpoint import load_state, save_state
from cxr.inference.run import refuse_unfinished
from cxr.run_folder import FoldFolder
from cxr.system import disk
from cxr.system.disk import alone, atomic, remove_leftovers, write_json
from cxr.system.errors import InputError
from cxr.system.tables import write_csv


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "a.txt"
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_file_and_folder_are_synced_before_and_after_the_rename(tmp_path, monkeypatch):
    calls = []
    replace = os.replace
    monkeypatch.setattr(disk, "_sync", lambda path: calls.append(("sync", path)))

    def recorded(source, target):
        calls.append(("replace", target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", recorded)
    with atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")
    assert calls == [
        ("sync", temporary),
        ("replace", tmp_path / "a.txt"),
        ("sync", tmp_path),
    ]
    calls.clear()
    with atomic(tmp_path / "b.txt", synced=False) as temporary:
        temporary.write_text("x")
    assert calls == [("replace", tmp_path / "b.txt")]


def test_temporary_names_are_unique_to_the_process_and_short(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 41)
    with atomic(tmp_path / "a.txt") as first:
        first.write_text("x")
    monkeypatch.setattr(os, "getpid", lambda: 42)
    with atomic(tmp_path / "a.txt") as second:
        second.write_text("x")
    assert first != second
    with atomic(tmp_path / ("n" * 251 + ".txt")) as temporary:
        temporary.write_text("x")
    assert len(temporary.name) < 40


def test_a_lock_clears_what_killed_processes_left(tmp_path):
    (tmp_path / ".0123abcd.99.tmp.pt").write_text("half")
    (tmp_path / "a.pt").write_text("whole")
    with alone(tmp_path):
        assert "a.pt" in names(tmp_path)
        assert not list(tmp_path.glob(disk.LEFTOVERS))
    (tmp_path / ".x.tmp.csv").write_text("half")
    remove_leftovers(tmp_path)
    assert not list(tmp_path.glob(disk.LEFTOVERS))


def test_a_second_process_is_told_to_wait(tmp_path):
    def enter():
        with alone(tmp_path, patience=0.1):
            pass

    waits = pytest.raises(InputError, match="another process works in")
    with alone(tmp_path), ThreadPoolExecutor(1) as pool, waits:
        pool.submit(enter).result()


def test_flipped_bytes_of_a_checkpoint_are_found(tmp_path):
    path = tmp_path / "epoch001.pt"
    save_state(path, {"model": {"weight": torch.zeros(1000)}})
    assert load_state(path)["model"]["weight"].sum() == 0
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    middle = largest.header_offset + 1000
    content[middle : middle + 64] = bytes(255 - value for value in content[middle : middle + 64])
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"epoch001.pt is not a whole checkpoint"):
        load_state(path)


def fold_folder(tmp_path, keep, epoch, kept):
    folder = FoldFolder(tmp_path / "fold0")
    folder.write_config({"task": "rsna", "keep": keep})
    save_state(folder.last, {"done": True, "epoch": epoch})
    for number in kept:
        save_state(folder.epoch(number), {})
    return folder


@pytest.mark.parametrize("keep, epoch, kept", [(3, 12, (10, 11, 12)), (3, 2, (1, 2)), (1, 5, (5,))])
def test_all_checkpoints_that_were_kept_are_there(tmp_path, keep, epoch, kept):
    folder = fold_folder(tmp_path, keep, epoch, kept)
    refuse_unfinished(folder, folder.epochs())


def test_a_missing_checkpoint_is_said(tmp_path):
    folder = fold_folder(tmp_path, 3, 12, (10, 12))
    with pytest.raises(InputError, match=r"holds 2 of the 3 checkpoints.*--partial, or delete"):
        refuse_unfinished(folder, folder.epochs())


@pytest.mark.parametrize("content", [{}, [], {"lr": 1}])
def test_a_record_that_parses_but_is_not_whole(tmp_path, content):
    folder = FoldFolder(tmp_path / "fold0")
    write_json(folder.config, content)
    with pytest.raises(InputError, match="does not say which task was trained: copy it back"):
        folder.read_config()


def test_half_a_table_is_found(tmp_path):
    path = tmp_path / "train.csv"
    write_csv(path, pd.DataFrame({"image_id": ["a", "b", "c"]}))
    assert len(read_table(path)) == 3
    write_json(tmp_path / "preprocess.json", SimpleNamespace(counts={"train": 3}).__dict__)
    assert len(read_table(path)) == 3
    path.write_text("image_id\na\n")
    with pytest.raises(InputError, match="has 1 rows and not the 3 that step 02 wrote"):
        read_table(path)
