"""Labels as every form gives them: of which kind, with which classes, for which images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cxr.datasets.own.images import OwnImage

BOXES = "boxes"
MASKS = "masks"
CLASSES = "classes"


@dataclass
class Annotation:
    """What the labels say of one image; an image without any finding has one, too.

    boxes: x1 y1 x2 y2 in original pixels, with their labels. mask: run lengths, "" for none.
    findings: 0 or 1 of each class, of labels of classes. where: the line or file, for a sentence.
    """

    image: OwnImage
    where: str
    boxes: list[list[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    mask: str = ""
    findings: Sequence[int] = ()
    patient: str = ""
    is_test: bool = False


@dataclass
class OwnLabels:
    """kind: boxes, masks or classes. several: classes may hold together, each by itself.

    annotations: {image_id: what is said of it}. notes: sentences on what is unusual.
    left_out: ids of images that are neither learned nor predicted.
    coco_images, coco_classes: ids of the input file by image_id and for each class; else empty.
    """

    kind: str
    classes: tuple[str, ...]
    several: bool = False
    annotations: dict[str, Annotation] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)
    coco_images: dict[str, int | str] = field(default_factory=dict)
    coco_classes: list[int] = field(default_factory=list)

    def of_image(self, image: OwnImage, where: str) -> Annotation:
        """The annotation of an image, made where there is none yet."""
        if image.image_id not in self.annotations:
            self.annotations[image.image_id] = Annotation(image, where)
        return self.annotations[image.image_id]

    def add_box(self, image: OwnImage, where: str, box: Sequence[float], label: int) -> None:
        """A box x1 y1 x2 y2 in original pixels; the same box twice counts once, with a note."""
        annotation = self.of_image(image, where)
        corners = [float(value) for value in box]
        for known, known_label in zip(annotation.boxes, annotation.labels, strict=True):
            if known == corners and known_label == label:
                self.notes.append(f"{where}: the same box of {image.image_id} stands twice")
                return
        x1, y1, x2, y2 = corners
        if x2 <= x1 or y2 <= y1:
            self.notes.append(f"{where}: a box of {image.image_id} has no size and was left out")
            return
        width, height = image.identity.width, image.identity.height
        if width and (x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0):
            self.notes.append(
                f"{where}: a box of {image.image_id} lies outside its {width} x {height} pixels "
                "and was left out"
            )
            return
        annotation.boxes.append(corners)
        annotation.labels.append(label)


def summarise(notes: Sequence[str], most: int) -> list[str]:
    """The first notes, and how many more there are."""
    if len(notes) <= most:
        return list(notes)
    return [*notes[:most], f"and {len(notes) - most} more such notes"]
