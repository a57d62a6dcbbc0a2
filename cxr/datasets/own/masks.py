"""Masks of images: PNG files of the same names in a folder, or DICOM segmentation objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pydicom

from cxr.datasets.own.images import MASK_FOLDERS, OwnImage, OwnImages
from cxr.datasets.own.labels import MASKS, OwnLabels
from cxr.geometry.masks import encode_runs
from cxr.system.errors import InputError
from cxr.system.walk import files_below

ENDINGS = (".png", ".dcm", ".dicom")
SUFFIXES = ("", "_mask", "-mask", "_seg", ".mask")  # of a mask's name behind that of its image
ONE_CLASS = "finding"
WHITE = 255
FEW_LEVELS = 16  # of a picture that numbers findings; more are shades


def find_masks(folder: Path) -> list[Path]:
    """Files in folders called masks."""
    files = []
    for path in files_below(folder):
        parts = [part.lower() for part in path.relative_to(folder).parts[:-1]]
        if path.suffix.lower() in ENDINGS and set(parts) & set(MASK_FOLDERS):
            files.append(path)
    return files


def read_masks(files: Sequence[Path], images: OwnImages, class_names: Sequence[str]) -> OwnLabels:
    """The masks of the files. class_names: the one of --class-names.

    Raises InputError for a mask of another size than its image, or of several kinds of findings.
    """
    labels = OwnLabels(MASKS, tuple(class_names) or (ONE_CLASS,))
    if len(labels.classes) > 1:
        raise InputError("--class-names: masks are of one class, so give one name")
    unions: dict[str, np.ndarray] = {}
    without_image = []
    for path in files:
        if path.suffix.lower() == ".png":
            image = find_masked_image(path, images)
            mask = None if image is None else read_png_mask(path, image)
        else:
            image, mask = read_segmentation(path, images)
        if image is None or mask is None:
            without_image.append(path)
            continue
        labels.of_image(image, path.name)
        known = unions.get(image.image_id)
        unions[image.image_id] = mask if known is None else known | mask
    for image_id, mask in unions.items():
        labels.annotations[image_id].mask = encode_runs(mask)
    if without_image:
        labels.notes.append(
            f"{len(without_image)} masks have no image and were left out, such as "
            f"{without_image[0].name}"
        )
    if not labels.annotations:
        raise images.none_of(files[0].parent, [path.name for path in files[:1]])
    return labels


def find_masked_image(path: Path, images: OwnImages) -> OwnImage | None:
    """The image that a mask is called after."""
    for suffix in SUFFIXES:
        if path.stem.endswith(suffix):
            image = images.find(path.stem[: len(path.stem) - len(suffix)])
            if image is not None:
                return image
    return None


def read_png_mask(path: Path, image: OwnImage) -> np.ndarray:
    """uint8 of 0 and 1."""
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise InputError(f"{path} is not a readable PNG: export it again")
    if picture.ndim == 3:
        picture = picture[..., :3].max(axis=2)
    refuse_other_size(path, picture, image)
    levels = np.unique(picture)
    if len(levels) > FEW_LEVELS and levels[-1] == WHITE:  # smooth edges, as after resizing
        return (picture > WHITE // 2).astype(np.uint8)
    if len(levels) > 2:
        shown = ", ".join(map(str, levels[:5].tolist()))
        raise InputError(
            f"{path} has {len(levels)} values ({shown} ...), and a mask has 0 and one other: save "
            "the mask of one finding"
        )
    return (picture > 0).astype(np.uint8)


def refuse_other_size(path: Path, picture: np.ndarray, image: OwnImage) -> None:
    height, width = picture.shape
    size = (image.identity.width, image.identity.height)
    if 0 not in size and (width, height) != size:
        raise InputError(
            f"{path} has {width} x {height} pixels, and {image.path.name} {size[0]} x {size[1]}: "
            "a mask is as large as its image"
        )


def read_segmentation(path: Path, images: OwnImages) -> tuple[OwnImage | None, np.ndarray | None]:
    """The image that a segmentation object refers to, and the union of its frames."""
    try:
        dataset = pydicom.dcmread(path)
        series = dataset.ReferencedSeriesSequence[0]
        uid = series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
        pixels = dataset.pixel_array
    except Exception as error:  # pydicom raises anything at all
        raise InputError(f"{path} is no readable DICOM segmentation ({error})") from None
    frames = pixels if pixels.ndim == 3 else pixels[None]
    image = images.find(str(uid))
    if image is None:
        return None, None
    mask = np.asarray((frames > 0).any(axis=0), np.uint8)
    refuse_other_size(path, mask, image)
    return image, mask
