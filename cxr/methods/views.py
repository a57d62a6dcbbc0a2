"""How a view of an image is made: turned over, made larger or smaller, on a whole canvas."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from cxr.methods.base import View


class ViewFrame(NamedTuple):
    """Sides in pixels: of the image as a view shows it, and of the canvas that a network sees.

    The image lies at the upper left of the canvas; the rest is black.
    """

    content: int
    canvas: int


def view_frame(image_size: int, view: View, stride: int, smallest: int = 1) -> ViewFrame:
    """The frame of a view of images of this side.

    The image is image_size * 2^(thirds / 3) pixels large, rounded to whole ones; the canvas is the
    next multiple of the stride that holds it and has `smallest` pixels.
    """
    content = round(image_size * 2 ** (view.thirds / 3))
    canvas = math.ceil(max(content, smallest) / stride) * stride
    return ViewFrame(content, canvas)


def show_view(images: Tensor, view: View, frame: ViewFrame) -> Tensor:
    """Images (B, 1, S, S) as the view shows them, (B, 1, canvas, canvas)."""
    axes = []
    if view.mirrored:
        axes.append(-1)
    if view.upside_down:
        axes.append(-2)
    images = images.flip(axes)
    if not view.thirds:
        return images
    size = (frame.content, frame.content)
    images = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
    rest = frame.canvas - frame.content
    return F.pad(images, (0, rest, 0, rest))
