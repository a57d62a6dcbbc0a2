"""The probabilities of an image's pixels, kept as an 8-bit PNG."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from cxr.geometry.masks import decode_runs


@dataclass(eq=False)
class MaskPrediction:
    """What is kept of one image, merged over models and views."""

    image_id: str
    width: int  # original pixels
    height: int
    head: float  # probability that the image has a finding: of the label head, else the highest of a pixel
    png: (
        np.ndarray
    )  # (n,) uint8, the file's bytes; its side is that of the network, or what was asked for

    @staticmethod
    def columns(predictions):
        """Arrays of a list of predictions, for one file."""
        return {
            "image_id": np.array([p.image_id for p in predictions]),
            "frame": np.array([(p.width, p.height) for p in predictions]),
            "head": np.array([p.head for p in predictions], np.float32),
            "length": np.array([len(p.png) for p in predictions]),
            "png": np.concatenate([p.png for p in predictions]),
        }

    @classmethod
    def rows(cls, part):
        """Yield the predictions of what `columns` gave."""
        ends = part["length"].cumsum()
        for i, (end, length) in enumerate(zip(ends, part["length"])):
            yield cls(
                str(part["image_id"][i]),
                *map(int, part["frame"][i]),
                float(part["head"][i]),
                part["png"][end - length : end],
            )

    def picture(self):
        """Probabilities (height, width) in original pixels, uint8, 255 for 1."""
        stored = cv2.imdecode(self.png, cv2.IMREAD_GRAYSCALE)
        if stored is None:
            raise ValueError(f"the picture of {self.image_id} cannot be decoded")
        return cv2.resize(stored, (self.width, self.height), interpolation=cv2.INTER_LINEAR)


class MaskCase(NamedTuple):
    """One image with its true mask as run lengths, its fold and its patient."""

    found: MaskPrediction
    runs: str
    fold: int
    group: str

    def true(self):
        """(height, width) uint8 of 0 and 1."""
        return decode_runs(self.runs, self.found.height, self.found.width)


def pack_picture(probability, side):
    """PNG bytes of probabilities (S, S) in 0..1, shrunk or stretched to `side`; 0 leaves them as they are."""
    picture = np.round(255 * np.clip(probability, 0, 1)).astype(np.uint8)
    if side and side != len(picture):
        kind = cv2.INTER_AREA if side < len(picture) else cv2.INTER_LINEAR
        picture = cv2.resize(picture, (side, side), interpolation=kind)
    return cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].ravel()
