"""A Grayscale Softcopy Presentation State: what a viewer draws over a DICOM image.

Boxes above their thresholds and outlines of masks are lines in PIXEL units, which count from the
image's outer corner (PS3.3 C.10.5) as our boxes do. Labels, scores and class probabilities are
texts. The pixels of the image stay as they are and are shown in the grays that its header asks for:
a presentation state replaces the rules of the header, so it repeats them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cxr.images.gray import GrayRules, Rescale, Window, read_gray_rules
from cxr.images.lookup_table import LookupTable
from cxr.images.pixel_format import read_pixel_format
from cxr.plots.overlay import rgb
from cxr.plots.panels import BRIGHT
from cxr.steps.predict.dicom_objects import (
    NOT_FOR_DIAGNOSIS,
    SourceImage,
    Statement,
    box_outline,
    name_body_part,
)
from cxr.system.errors import InputError

SERIES_NUMBER = 997
LABEL = "FINDINGS"  # of the state and of its layer
# Of a line: with explicit types, numbers of 4 bytes end at 64 KiB (PS3.5 7.1.2).
MOST_POINTS = 8000
HIGHEST_ENTRY = 2**16 - 1
# Left, top, right, bottom in shares of the picture, where the words about all of it stand.
TOP_LEFT = (0.0, 0.0, 0.6, 0.3)
BOTTOM_LEFT = (0.0, 0.94, 1.0, 1.0)


def build_presentation_state(image: SourceImage, statement: Statement) -> Any:
    """The state of an image. InputError for one in colour."""
    import highdicom  # heavy, and only for those who ask for it

    little_endian = bool(image.header.original_encoding[1])
    pixels = read_pixel_format(image.header, little_endian)
    if pixels.is_colour:
        raise InputError("it is in colour, and a grayscale state is of gray images")
    rules = read_gray_rules(image.header, pixels)
    evidence = image.evidence
    evidence.Rows = statement.result.height
    evidence.Columns = statement.result.width
    evidence.SamplesPerPixel = 1
    # Of a presentation state this says alone which end of the grays is bright.
    shape = "INVERSE" if rules.inverse else "IDENTITY"

    builder = AnnotationBuilder(highdicom.pr, statement)
    layer = highdicom.pr.GraphicLayer(
        layer_name=LABEL,
        order=1,
        description=NOT_FOR_DIAGNOSIS,
        display_color=highdicom.color.CIELabColor.from_rgb(*rgb(BRIGHT[0])),
    )
    annotation = highdicom.pr.GraphicAnnotation(
        referenced_images=[evidence],
        graphic_layer=layer,
        graphic_objects=builder.graphics(),
        text_objects=builder.texts(),
    )
    state = highdicom.pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[evidence],
        content_label=LABEL,
        content_description=NOT_FOR_DIAGNOSIS,
        graphic_annotations=[annotation],
        graphic_layers=[layer],
        modality_lut_transformation=modality_of(highdicom, rules),
        voi_lut_transformations=voi_of(highdicom, rules, statement.full_range),
        presentation_lut_transformation=highdicom.PresentationLUTTransformation(shape),
        **statement.identity(SERIES_NUMBER),
    )
    name_body_part(state, image)
    return state


class AnnotationBuilder:
    """Lines and texts of one image.

    `pr` is the module highdicom.pr, which is imported late.
    """

    def __init__(self, pr: Any, statement: Statement) -> None:
        self.pr = pr
        self.comment = statement.comment
        content = statement.result.to_dict()
        self.probabilities: Mapping[str, float] = content["probabilities"]
        self.boxes = [box for box in content["boxes"] if box["above_threshold"]]
        self.mask: Mapping[str, Any] | None = content.get("mask")

    def graphics(self) -> list[Any]:
        """A closed line around each box and around each part of a mask."""
        lines = [box_outline(box) for box in self.boxes]
        if self.mask is not None:
            for outline in self.mask["outlines"]:
                # Numbers of pixels become the centres of these pixels.
                centres = np.array(outline, float) + 0.5
                lines += pieces_of(np.concatenate([centres, centres[:1]]))
        return [self.line(points) for points in lines]

    def line(self, points: np.ndarray) -> Any:
        return self.pr.GraphicObject(graphic_type="POLYLINE", graphic_data=points, units="PIXEL")

    def texts(self) -> list[Any]:
        """The words of each box at its upper left corner; those of the image in two corners."""
        texts = []
        for box in self.boxes:
            words = f"{box['finding']} {box['score']:.2f}"
            texts.append(self.text_at(words, (box["x1"], box["y1"])))
        words_of_image = list(self.image_words())
        if words_of_image:
            texts.append(self.text_in("\r\n".join(words_of_image), TOP_LEFT))
        texts.append(self.text_in(self.comment, BOTTOM_LEFT))
        return texts

    def image_words(self) -> Iterator[str]:
        """Lines on the whole image: the score of its mask, its classes by falling probability."""
        if self.mask is not None:
            yield f"{self.mask['finding']} {self.mask['score']:.2f}"
        descending = sorted(self.probabilities.items(), key=lambda item: -item[1])
        for name, probability in descending:
            yield f"{probability:.2f} {name}"

    def text_at(self, words: str, point: tuple[float, float]) -> Any:
        return self.pr.TextObject(
            text_value=words, units="PIXEL", anchor_point=point, anchor_point_visible=False
        )

    def text_in(self, words: str, corner: tuple[float, float, float, float]) -> Any:
        return self.pr.TextObject(
            text_value=words, units="DISPLAY", bounding_box=corner, text_justification="LEFT"
        )


def pieces_of(line: np.ndarray) -> list[np.ndarray]:
    """A line (n, 2) as lines of at most MOST_POINTS points; each begins where the last one ends."""
    pieces = []
    for start in range(0, len(line) - 1, MOST_POINTS - 1):
        pieces.append(line[start : start + MOST_POINTS])
    return pieces


def modality_of(highdicom: Any, rules: GrayRules) -> Any:
    """Stored values to those of the modality; None where they are the same."""
    if isinstance(rules.modality, LookupTable):
        table = highdicom.ModalityLUT(
            lut_type="US",
            first_mapped_value=rules.modality.first,
            lut_data=rules.modality.entries.astype(np.uint16),
        )
        return highdicom.ModalityLUTTransformation(modality_lut=table)
    if rules.modality == Rescale():
        return None
    return highdicom.ModalityLUTTransformation(
        rescale_intercept=rules.modality.intercept,
        rescale_slope=rules.modality.slope,
        rescale_type="US",
    )


def voi_of(highdicom: Any, rules: GrayRules, full_range: Window | None) -> Sequence[Any] | None:
    """Values of the modality to grays, as `gray_from_monochrome` has it; None for 8 plain bits."""
    transformation = highdicom.pr.SoftcopyVOILUTTransformation
    if rules.voi is not None:
        table = highdicom.VOILUT(
            first_mapped_value=rules.voi.first, lut_data=stretch(rules.voi.entries)
        )
        return [transformation(voi_luts=[table])]
    window = rules.window or full_range or range_of_bytes(rules)
    if window is None:
        return None
    shown = transformation(
        window_center=window.centre, window_width=window.width, voi_lut_function=window.function
    )
    return [shown]


def range_of_bytes(rules: GrayRules) -> Window | None:
    """The window of all values that 8 bits can have; None where these are not rescaled."""
    if not isinstance(rules.modality, Rescale) or rules.modality == Rescale():
        return None
    return window_between(*rules.modality.apply(np.array([0, 255])))


def window_between(first: float, last: float) -> Window:
    """The window that shows one value black and the other white, by the function LINEAR."""
    low = min(first, last)
    high = max(first, last)
    return Window(float(low + high) / 2 + 0.5, float(high - low) + 1)


def stretch(entries: np.ndarray) -> np.ndarray:
    """Entries of a table (n,) so that their lowest and highest are those of 16 bits."""
    low = entries.min()
    span = max(1, entries.max() - low)
    return np.rint((entries - low) * (HIGHEST_ENTRY / span)).astype(np.uint16)
