"""When a file that is being copied counts as whole."""

import os

import pytest

from cxr.images.arrivals import FIRST_PAUSE, LONGEST_PAUSE, LOOK_SECONDS, Arrivals
from cxr.images.folder import Item


@pytest.fixture
def item(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(b"one")
    return Item("a.dcm", path)


def names(sights):
    return [sight.item.name for sight in sights]


def test_a_file_is_whole_when_it_looks_the_same_twice(item):
    arrivals = Arrivals()
    assert names(arrivals.look([item], 0)) == []
    assert names(arrivals.look([item], LOOK_SECONDS / 2)) == []
    item.path.write_bytes(b"one and two")  # the copy goes on
    assert names(arrivals.look([item], LOOK_SECONDS)) == []
    assert names(arrivals.look([item], 2 * LOOK_SECONDS - 0.1)) == []
    [sight] = arrivals.look([item], 2 * LOOK_SECONDS)
    assert sight.state == item.state()
    sight.done = True
    assert names(arrivals.look([item], 1000)) == []


def test_a_new_time_alone_is_a_change(item):
    arrivals = Arrivals()
    arrivals.look([item], 0)
    [sight] = arrivals.look([item], LOOK_SECONDS)
    sight.done = True
    os.utime(item.path, ns=(1, 1))
    assert names(arrivals.look([item], 2 * LOOK_SECONDS)) == []
    assert not arrivals.is_current(sight)
    assert names(arrivals.look([item], 3 * LOOK_SECONDS)) == ["a.dcm"]


def test_what_cannot_be_read_is_tried_again_in_growing_pauses(item):
    arrivals = Arrivals()
    arrivals.look([item], 0)
    [sight] = arrivals.look([item], LOOK_SECONDS)
    now = LOOK_SECONDS
    for pause in (FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE):
        sight.put_off(now)
        assert names(arrivals.look([item], now + pause - 0.1)) == []
        now += pause
        assert names(arrivals.look([item], now)) == ["a.dcm"]
        assert arrivals.is_current(sight)
    sight.failures = 30
    sight.put_off(0)
    assert sight.due == LONGEST_PAUSE


def test_a_file_that_is_gone_is_forgotten(item):
    arrivals = Arrivals()
    arrivals.look([item], 0)
    item.path.unlink()
    assert names(arrivals.look([item], LOOK_SECONDS)) == []
    item.path.write_bytes(b"one")
    assert names(arrivals.look([item], 2 * LOOK_SECONDS)) == []
