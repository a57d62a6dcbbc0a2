"""The images below a folder of any shape, and how labels call them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from cxr.data.image_table import no_image_of, plain_form
from cxr.images.folder import FolderSearch, looks_like_image
from cxr.images.identity import Identity, read_identity
from cxr.system.errors import InputError

MASK_FOLDERS = ("masks", "mask")  # names of folders whose pictures are labels
TEST = "test"  # name of a folder, or value of a column


@dataclass(frozen=True)
class OwnImage:
    """An image file. image_id: unique, and fit to be the name of a file."""

    image_id: str
    path: Path
    identity: Identity

    @property
    def is_in_test_folder(self) -> bool:
        return TEST in [part.lower() for part in self.path.parts[:-1]]


class OwnImages:
    """All images below a folder but for masks."""

    def __init__(self, folder: Path, working: Path) -> None:
        """working: left alone, should it lie in the folder."""
        self.folder = folder
        paths = [path for path in find_images(folder, working) if not is_mask(path, folder)]
        if not paths:
            raise InputError(
                f"{folder} holds no DICOM, PNG or JPEG file: --input of --task own is the folder "
                "of the images"
            )
        self.images: list[OwnImage] = []
        self.segmentations = 0  # DICOM objects of masks outside a folder of masks
        ids = unique_ids(paths, folder)
        for path in tqdm(paths, unit="file", desc="headers", mininterval=1, leave=False):
            identity = read_identity(path)
            if identity.is_segmentation:
                self.segmentations += 1
            else:
                self.images.append(OwnImage(ids[path], path, identity))
        self._by_name = self._names()

    def _names(self) -> dict[str, list[OwnImage]]:
        """{what labels may call it: the images so called}."""
        by_name: dict[str, list[OwnImage]] = defaultdict(list)
        for image in self.images:
            relative = image.path.relative_to(self.folder)
            names = {
                relative.as_posix(),
                relative.with_suffix("").as_posix(),
                image.path.name,
                image.path.stem,
                image.image_id,
                image.identity.uid,
            }
            for name in names - {""}:
                by_name[name].append(image)
        return by_name

    def find(self, name: str) -> OwnImage | None:
        """The image that labels call so; None where there is none.

        A path may begin above or below the folder. Raises InputError where several are called just
        so; a path of which only the end fits several is none of them.
        """
        name = name.strip().replace("\\", "/").removeprefix("./")
        parts = name.split("/")
        for start in range(len(parts)):
            called = self._by_name.get("/".join(parts[start:]), [])
            if len(called) == 1:
                return called[0]
            if called and not start:
                raise InputError(
                    f"{called[0].path} and {called[1].path} are both called {name}: give their "
                    "paths below the folder in the labels"
                )
        return None

    def ids(self) -> list[str]:
        return [image.image_id for image in self.images]

    def none_of(self, source: Path, names: Iterable[str]) -> InputError:
        """The error where labels call none of the images by its name."""
        remedy = "name images by file, path below the folder, or SOPInstanceUID"
        return no_image_of(str(source), names, str(self.folder), self.ids(), remedy)

    def twin(self, name: str) -> str:
        """An image called almost so, but for zeros at the start or capitals; else ""."""
        for image in self.images:
            if plain_form(image.image_id) == plain_form(Path(name).stem):
                return image.image_id
        return ""


def find_images(folder: Path, working: Path) -> list[Path]:
    """Files below the folder that look like X-rays, by path."""
    search = FolderSearch(working)
    return sorted(path for path in search.files_below(folder) if looks_like_image(path))


def is_mask(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder of masks."""
    return any(part.lower() in MASK_FOLDERS for part in path.relative_to(folder).parts[:-1])


def unique_ids(paths: Iterable[Path], folder: Path) -> dict[Path, str]:
    """{path: id}: the name without ending where no other file has it, else the path in one word."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        by_stem[path.stem.lower()].append(path)
    ids = {}
    for same in by_stem.values():
        for path in same:
            ids[path] = path.stem
            if len(same) > 1:
                ids[path] = path.relative_to(folder).as_posix().replace("/", "_")
    return ids
