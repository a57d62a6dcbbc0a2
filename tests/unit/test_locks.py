"""The lock of a folder: a second process waits, and a drive without locks does without."""

import errno
import threading
from unittest.mock import Mock

import pytest
from filelock import FileLock

from cxr.system.disk import alone


def test_a_second_process_waits(tmp_path, capsys):
    order = []

    def work():
        with alone(tmp_path):
            order.append("second")

    with FileLock(tmp_path / ".lock"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(0.5)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert "waiting for another process" in capsys.readouterr().out


@pytest.mark.parametrize(
    "error", [NotImplementedError("no flock here"), OSError(errno.ENOLCK, "No locks available")]
)
def test_a_drive_without_locks(tmp_path, monkeypatch, error):
    monkeypatch.setattr(FileLock, "acquire", Mock(side_effect=error))
    with alone(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()


def test_a_full_disk_is_no_drive_without_locks(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(FileLock, "acquire", Mock(side_effect=full))
    with pytest.raises(OSError, match="No space left"), alone(tmp_path):
        raise AssertionError("it was not to begin")
