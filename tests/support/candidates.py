"""What tests ask of the candidates that step 04 keeps."""

import numpy as np

from cxr.data.predictions import read_predictions
from cxr.methods.detector.records import Candidates

ARRAYS = ("category", "centre", "size20", "size80", "score", "label")


def read_candidates(folder):
    return list(read_predictions(folder, Candidates))


def assert_same_candidates(a, b, tolerance=0.0):
    """Of one image, the same boxes in the same order."""
    assert (a.image_id, a.width, a.height) == (b.image_id, b.width, b.height)
    for name in ARRAYS:
        one = getattr(a, name)
        two = getattr(b, name)
        assert one.shape == two.shape, name
        assert one.dtype == two.dtype, name
        assert np.allclose(one, two, atol=tolerance, rtol=tolerance), name


def assert_same_folders(folder, other, tolerance):
    """The same candidates of the same images, in the same order."""
    pairs = zip(read_candidates(folder), read_candidates(other), strict=True)
    for a, b in pairs:
        assert_same_candidates(a, b, tolerance)
