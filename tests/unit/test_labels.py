"""Words at boxes: inside the picture, never over each other; colours that can be told apart."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from cxr.plots.labels import draw_labels, place_labels, text_width
from cxr.plots.overlay import draw_overlay
from cxr.plots.panels import BRIGHT, COLOURS

WIDTH = 200.0
HEIGHT = 100.0
boxes = st.lists(
    st.tuples(st.floats(-20, 190), st.floats(-20, 90), st.floats(1, 200), st.floats(1, 100)).map(
        lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
    ),
    max_size=25,
)


def rectangles_of(corners, size):
    return [(c.x, c.y, c.x + size[0], c.y + size[1]) for c in corners if c is not None]


def overlap(one, other):
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return across > 1e-9 and down > 1e-9


@given(boxes, st.floats(5, 90), st.floats(3, 20))
@settings(max_examples=200, deadline=None)
def test_no_words_leave_the_picture_or_cover_each_other(boxes, words_width, words_height):
    size = (words_width, words_height)
    taken = (0.0, 80.0, 60.0, 100.0)
    corners = place_labels(boxes, [size] * len(boxes), WIDTH, HEIGHT, [taken])
    rectangles = rectangles_of(corners, size)
    for x1, y1, x2, y2 in rectangles:
        assert x1 >= 0
        assert y1 >= 0
        assert x2 <= WIDTH + 1e-9
        assert y2 <= HEIGHT + 1e-9
    for one, other in itertools.combinations([*rectangles, taken], 2):
        assert not overlap(one, other)


@pytest.mark.parametrize(
    "box, corner",
    [
        ((50, 40, 90, 70), (50, 30)),  # above its left corner
        ((50, 5, 90, 70), (50, 0)),  # moved down into the picture
        ((170, 40, 190, 70), (160, 30)),  # moved left into the picture
    ],
)
def test_a_lone_label_stands_above_its_box(box, corner):
    assert place_labels([box], [(40, 10)], WIDTH, HEIGHT) == [corner]


def test_a_second_label_of_the_same_box_stands_below():
    box = (50, 40, 60, 70)
    assert place_labels([box, box], [(40, 10)] * 2, WIDTH, HEIGHT) == [(50, 30), (50, 70)]


def test_words_without_a_free_place_are_left_out():
    box = (0, 0, 10, 10)
    corners = place_labels([box] * 50, [(100, 30)] * 50, WIDTH, HEIGHT)
    assert corners[0] is not None
    assert corners[-1] is None


def test_words_larger_than_the_picture_are_left_out():
    assert place_labels([(0, 0, 10, 10)], [(300, 10)], WIDTH, HEIGHT) == [None]


def test_words_in_a_figure_stay_inside_the_picture_and_apart():
    figure = Figure(figsize=(3, 3), layout="constrained")
    axis = figure.add_subplot()
    axis.imshow(np.zeros((8, 8)), extent=(0, WIDTH, HEIGHT, 0))
    figure.draw_without_rendering()
    boxes = [(150, 5, 199, 40), (150, 5, 198, 41), (0, 80, 20, 99), (2, 82, 22, 98)]
    texts = ["Consolidation 0.91", "Calcification 0.55", "Mass", "Nodule"]
    draw_labels(axis, texts, boxes, ["#ffb000"] * 4, (WIDTH, HEIGHT), (9, 7, 5))
    assert [words.get_text() for words in axis.texts] == texts
    picture = axis.get_window_extent()
    extents = [words.get_window_extent().extents for words in axis.texts]
    for x1, y1, x2, y2 in extents:
        assert picture.x0 - 1 <= x1
        assert picture.y0 - 1 <= y1
        assert x2 <= picture.x1 + 1
        assert y2 <= picture.y1 + 1
    for one, other in itertools.combinations(extents, 2):
        assert not overlap(one, other)


def test_words_in_an_overlay_cover_neither_the_notice_nor_each_other():
    boxes = [
        {"finding": name, "score": 0.9, "x1": 500, "y1": 560, "x2": 639, "y2": 639}
        for name in ("Mass", "Nodule", "Fracture")
    ]
    colours = {"Mass": "#ff0000", "Nodule": "#00ff00", "Fracture": "#0000ff"}
    black = np.zeros((640, 640), np.uint8)
    canvas = draw_overlay(black, 640, 640, boxes, colours)
    notice = draw_overlay(black, 640, 640, [], colours)
    assert (canvas[notice > 0] >= notice[notice > 0]).all()
    for channel in range(3):
        pixels = np.argwhere(canvas[..., channel] > 200)
        assert len(pixels) > 100, "the words of each finding are there"


def test_width_of_words():
    assert text_width("") == 0
    assert 5 < text_width("Atelectasis 0.71") < 16
    assert text_width("WWW") > text_width("iii")


# Machado, Oliveira and Fernandes 2009: how red and green look to those who lack a kind of cone.
COLOUR_BLINDNESS = {
    "none": np.eye(3),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
}


def oklab(linear):
    """Ottosson 2020: a space in which distances are those that people see."""
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.cbrt(np.clip(linear @ np.transpose(to_cones), 0, None)) @ np.transpose(to_lab)


@pytest.mark.parametrize("palette", [BRIGHT, COLOURS], ids=["on X-rays", "on white"])
@pytest.mark.parametrize(
    "kind, least", [("none", 0.15), ("deuteranopia", 0.07), ("protanopia", 0.07)]
)
def test_ten_classes_can_be_told_apart(palette, kind, least):
    rgb = np.array([list(bytes.fromhex(colour[1:])) for colour in palette]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lab = oklab(np.clip(linear @ COLOUR_BLINDNESS[kind].T, 0, 1))
    distances = [np.linalg.norm(one - other) for one, other in itertools.combinations(lab, 2)]
    assert len(palette) == 10
    assert min(distances) > least
