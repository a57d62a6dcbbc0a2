"""The probabilities of an image's pixels, kept as an 8-bit PNG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from cxr.geometry.masks import decode_runs


@dataclass(eq=False)
class MaskPrediction:
    """What is kept of one image, merged over models and views.

    width, height: original pixels. head: probability that the image has a finding, of the label
    head, else the highest of a pixel. png: (n,) uint8, the bytes of a PNG file whose side is that
    of the network, or what was asked for.
    """

    image_id: str
    width: int
    height: int
    head: float
    png: np.ndarray

    @staticmethod
    def columns(predictions: Sequence[MaskPrediction]) -> dict[str, np.ndarray]:
        """Arrays of some predictions, for one file."""
        return {
            "image_id": np.array([p.image_id for p in predictions]),
            "frame": np.array([(p.width, p.height) for p in predictions]),
            "head": np.array([p.head for p in predictions], np.float32),
            "length": np.array([len(p.png) for p in predictions]),
            "png": np.concatenate([p.png for p in predictions]),
        }

    @classmethod
    def rows(cls, part: Mapping[str, np.ndarray]) -> Iterator[MaskPrediction]:
        """Yield the predictions of what `columns` gave."""
        ends = part["length"].cumsum()
        for i, (end, length) in enumerate(zip(ends, part["length"], strict=True)):
            width, height = part["frame"][i]
            yield cls(
                image_id=str(part["image_id"][i]),
                width=int(width),
                height=int(height),
                head=float(part["head"][i]),
                png=part["png"][end - length : end],
            )

    def stored_picture(self) -> np.ndarray:
        """Probabilities (S, S) of the whole image, uint8, 255 for 1."""
        stored = cv2.imdecode(self.png, cv2.IMREAD_GRAYSCALE)
        if stored is None:
            raise ValueError(f"the picture of {self.image_id} cannot be decoded")
        return stored

    def picture(self) -> np.ndarray:
        """Probabilities (height, width) in original pixels, uint8, 255 for 1."""
        stored = self.stored_picture()
        return cv2.resize(stored, (self.width, self.height), interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True, eq=False)
class MaskCase:
    """One out-of-fold image with its true mask as run lengths, its fold and its patient."""

    prediction: MaskPrediction
    runs: str
    fold: int
    group: str

    def true_mask(self) -> np.ndarray:
        """(height, width) uint8 of 0 and 1, in original pixels."""
        return decode_runs(self.runs, self.prediction.height, self.prediction.width)


def pack_picture(probability: np.ndarray, side: int) -> np.ndarray:
    """PNG bytes of probabilities (S, S) in 0 ... 1, resized to `side`; 0: as they are."""
    picture = np.round(255 * np.clip(probability, 0, 1)).astype(np.uint8)
    if side and side != len(picture):
        interpolation = cv2.INTER_AREA if side < len(picture) else cv2.INTER_LINEAR
        picture = cv2.resize(picture, (side, side), interpolation=interpolation)
    return cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].ravel()
