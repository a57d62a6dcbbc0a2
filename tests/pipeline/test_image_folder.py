"""Any folder of X-rays: what is found in it, and how it is read."""

import os
import signal
import threading

import numpy as np
import pytest
from test_images import make_dataset, save
from xrays import DICOMS, READABLE, UNREADABLE, huge_png, png, write_messy_folder, xray

from cxr.images.deep import read_deep
from cxr.images.folder import find_image_files
from cxr.images.isolated import Reader, read_all
from cxr.images.read import read_image
from cxr.images.resize import resize
from cxr.system.errors import InputError


@pytest.fixture
def messy(tmp_path):
    return write_messy_folder(tmp_path / "messy folder")


# --- finding


def names_of(*paths, out="nowhere"):
    items, passed_over = find_image_files(paths, out)
    assert all(item.path.is_absolute() for item in items)
    return [item.name for item in items], dict(passed_over)


def test_images_are_found_in_nested_folders(messy):
    names, others = names_of(messy)
    assert set(names) == READABLE | UNREADABLE
    assert names == sorted(names)
    assert others == {"other files": 1, "hidden files and folders": 2}


def test_the_output_is_no_input(messy):
    out = messy / "out"
    png(out / "overlays" / "a.png.png", xray())
    names, _ = names_of(messy, out=out)
    assert names == names_of(messy, out=str(out))[0]
    assert not [name for name in names if name.startswith("out")]


def test_several_paths_get_distinct_names(tmp_path):
    for name in ("x/a.png", "x/z/b.png", "y/a.png"):
        png(tmp_path / name, xray())
    assert names_of(tmp_path / "x", tmp_path / "y")[0] == ["x/a.png", "x/z/b.png", "y/a.png"]
    assert names_of(tmp_path / "x", tmp_path / "x" / "a.png")[0] == ["a.png", "z/b.png"]
    assert names_of(tmp_path / "x" / "a.png")[0] == ["a.png"]


def test_a_file_that_is_named_is_taken_whatever_it_is(messy):
    names, _ = names_of(messy / "notes.txt", messy / ".hidden.png")
    assert names == [".hidden.png", "notes.txt"]


def test_things_that_are_no_files(tmp_path):
    png(tmp_path / "a.png", xray())
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone")
    assert names_of(tmp_path) == (["a.png"], {"other files": 2})


def test_linked_folders_are_looked_into_once(tmp_path):
    png(tmp_path / "in" / "a" / "1.png", xray())
    png(tmp_path / "elsewhere" / "deep" / "2.png", xray())
    (tmp_path / "in" / "0 link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "a")
    (tmp_path / "in" / "a" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "elsewhere" / "deep" / "back").symlink_to(tmp_path)
    (tmp_path / "in" / "lost").symlink_to(tmp_path / "gone")
    names, passed_over = names_of(tmp_path / "in")
    assert names == ["0 link/deep/2.png", "a/1.png"]
    # again, loop, and what lies below back: in and elsewhere
    assert passed_over["links to folders that were looked into"] == 4
    assert passed_over["other files"] == 1


def test_a_link_to_the_output_is_no_input(tmp_path):
    png(tmp_path / "in" / "a.png", xray())
    png(tmp_path / "out" / "overlays" / "a.png.png", xray())
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    assert names_of(tmp_path / "in", out=tmp_path / "out")[0] == ["a.png"]


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda p: p / "gone", "gone does not exist: --images takes files and folders"),
        (lambda p: p, "there is no DICOM, PNG or JPEG file in"),
    ],
)
def test_nothing_to_predict(tmp_path, make, sentence):
    with pytest.raises(InputError, match=sentence):
        find_image_files([make(tmp_path)], tmp_path / "out")


# --- reading


@pytest.fixture(scope="module")
def reader():
    reader = Reader(seconds=60)
    yield reader
    reader.close()


def test_a_picture_goes_the_way_of_step_two(reader, messy):
    for name in sorted(READABLE):
        picture = reader.read(messy / name, [64, 48])
        image, header = read_image(messy / name)
        assert np.array_equal(picture.network, resize(resize(image, 64), 48)), name
        assert (picture.width, picture.height) == (header.width, header.height)
        assert np.array_equal(picture.shown, image)
        assert picture.dicom == (name in DICOMS)
        assert picture.deep is None


@pytest.mark.parametrize(
    "name, reason",
    [
        ("text.dcm", "is neither a DICOM, PNG nor JPEG file"),
        ("empty.png", "the file is empty"),
        ("cut.png", "cannot be decoded"),
        ("huge.png", "states 9000 x 9000 pixels, and more than 50 million are not read"),
        ("huge.dcm", "states 65000 x 65000 pixels"),
    ],
)
def test_files_that_are_refused(reader, messy, name, reason):
    with pytest.raises(InputError, match=f"{name}: {reason}"):
        reader.read(messy / name, [64])


def test_a_picture_that_would_fill_any_memory(reader, tmp_path):
    with pytest.raises(InputError, match=r"bomb.png: cannot be decoded .*10000000000 pixels"):
        reader.read(huge_png(tmp_path / "bomb.png", 100_000), [64])


def test_large_pictures_are_shown_smaller(reader, tmp_path):
    picture = reader.read(png(tmp_path / "wide.png", xray(3000, 100)), [64])
    assert picture.shown.shape == (43, 1280) and (picture.width, picture.height) == (3000, 100)


def test_a_file_that_takes_too_long(tmp_path, messy):
    """Nobody writes into the pipe, so opening it never ends. The next file is read as usual."""
    os.mkfifo(tmp_path / "pipe.dcm")
    reader = Reader(seconds=60)
    try:
        reader.read(messy / "a.png", [64])
        reader.seconds = 0.3
        with pytest.raises(InputError, match=r"pipe.dcm: took more than 0.3 seconds to decode"):
            reader.read(tmp_path / "pipe.dcm", [64])
        reader.seconds = 60
        assert reader.read(messy / "a.png", [64]).width == 96
    finally:
        reader.close()


def test_a_file_that_kills_the_decoder(tmp_path, messy):
    os.mkfifo(tmp_path / "pipe.dcm")
    reader = Reader(seconds=60)
    try:
        reader.read(messy / "a.png", [64])
        threading.Timer(0.3, reader.process.send_signal, [signal.SIGABRT]).start()
        with pytest.raises(InputError, match=r"pipe.dcm: crashes the decoder"):
            reader.read(tmp_path / "pipe.dcm", [64])
        assert reader.read(messy / "a.png", [64]).height == 128
    finally:
        reader.close()


def test_many_files_come_back_in_order(messy):
    names = sorted(READABLE | UNREADABLE) * 2
    results = list(read_all([messy / name for name in names], [64], workers=2))
    refused = [isinstance(result, InputError) for result in results]
    assert refused == [name in UNREADABLE for name in names]
    assert list(read_all([], [64], workers=1)) == []


@pytest.mark.parametrize("photometric, inverse", [("MONOCHROME2", False), ("MONOCHROME1", True)])
def test_deep_values(tmp_path, photometric, inverse):
    values = (xray().astype(np.int16) * 8 - 500).astype(np.int16)
    dataset = make_dataset(
        values,
        bits=12,
        PhotometricInterpretation=photometric,
        RescaleSlope=2,
        RescaleIntercept=-10,
        WindowCenter=[300, 1],
        WindowWidth=[900, 2],
        PixelPaddingValue=-500,
    )
    deep = read_deep(save(tmp_path / "x.dcm", dataset), 1000)
    padded = values == -500
    found = deep.low + deep.step * deep.stored
    assert np.abs(found - (2.0 * values - 10))[~padded].max() < deep.step
    black = found[~padded].max() if inverse else found[~padded].min()
    assert np.allclose(found[padded], black, atol=deep.step) and padded.any()
    assert (deep.centre, deep.width, deep.inverse) == (300, 900, inverse)


@pytest.mark.parametrize(
    "pixels, bits", [(xray(), 8), (np.dstack([xray()] * 3), 8), (xray().astype(np.uint16), 8)]
)
def test_eight_bits_have_no_deep_values(tmp_path, pixels, bits):
    assert read_deep(save(tmp_path / "x.dcm", make_dataset(pixels, bits)), 1000) is None
    assert read_deep(png(tmp_path / "x.png", xray().astype(np.uint16)), 1000) is None


def test_deep_values_of_a_constant_picture(tmp_path):
    deep = read_deep(
        save(tmp_path / "x.dcm", make_dataset(np.full((5, 6), 700, np.uint16), bits=12)), 3
    )
    assert (
        deep.stored.shape == (2, 3) and deep.low == 700 and deep.width > 0 and not deep.stored.any()
    )
