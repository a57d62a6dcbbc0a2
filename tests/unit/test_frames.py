"""Frames: boxes go from original to stored to network pixels and back by plain scaling."""

import numpy as np

from cxr.geometry.frames import Frame, convert_boxes

ORIGINAL = Frame("original", width=2000, height=1000)
STORED = Frame("stored", width=512, height=512)
NETWORK = Frame("network", width=256, height=256)
BOXES = np.array([[500, 250, 1000, 1000], [0, 0, 2000, 1000]], float)


def test_the_stored_square_is_stretched():
    """Twice as wide as high: x shrinks by 512 / 2000 and y by 512 / 1000."""
    expected = [[128, 128, 256, 512], [0, 0, 512, 512]]
    np.testing.assert_allclose(convert_boxes(BOXES, ORIGINAL, STORED), expected)


def test_stored_to_network():
    stored = np.array([[128.0, 128, 256, 512]])
    assert convert_boxes(stored, STORED, NETWORK).tolist() == [[64, 64, 128, 256]]


def test_there_and_back():
    there = convert_boxes(BOXES, ORIGINAL, NETWORK)
    np.testing.assert_allclose(convert_boxes(there, NETWORK, ORIGINAL), BOXES)


def test_the_same_frame_and_no_boxes():
    np.testing.assert_array_equal(convert_boxes(BOXES, ORIGINAL, ORIGINAL), BOXES)
    assert convert_boxes(np.zeros((0, 4)), ORIGINAL, STORED).shape == (0, 4)
