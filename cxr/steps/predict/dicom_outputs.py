"""The DICOM objects that step 04 can make of a DICOM image: which are wanted, made and missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cxr.images.folder import Item, Record
from cxr.settings import ImageSettings
from cxr.steps.predict.dicom_objects import Builder, Statement, write_object
from cxr.steps.predict.presentation_state import build_presentation_state
from cxr.steps.predict.secondary_capture import build_secondary_capture
from cxr.steps.predict.segmentation import build_segmentation
from cxr.steps.predict.structured_report import build_structured_report
from cxr.system.errors import InputError

NO_DICOM = "not a DICOM"


@dataclass(frozen=True)
class DicomOutput:
    """One kind of object.

    name: its entry in a record. folder: where its files are in --out.
    """

    name: str
    folder: str
    build: Builder

    @property
    def words(self) -> str:
        """What failed.csv calls it."""
        return self.name.replace("_", " ")

    def path(self, out: Path, item: Item) -> Path:
        return item.in_folder(out / self.folder, ".dcm")

    def is_missing(self, out: Path, item: Item, record: Record) -> bool:
        """Whether nobody has tried to make it of an image that is done, or its file is gone."""
        said = record.get(self.name)  # records of version 0.1 know reports only
        if said is None:
            return True
        path = self.path(out, item)
        return said == path.relative_to(out).as_posix() and not path.exists()

    def make(self, out: Path, item: Item, statement: Statement) -> str:
        """Write it and return its path relative to `out`, or return why there is none."""
        path = self.path(out, item)
        try:
            write_object(path, item.path, self.words, self.build, statement)
        except InputError as error:
            # Without the path that it begins with, for which the tables have a column.
            return str(error).removeprefix(f"{item.path}: ")
        return path.relative_to(out).as_posix()


REPORT = DicomOutput("structured_report", "structured_reports", build_structured_report)
SEGMENTATION = DicomOutput("segmentation", "segmentations", build_segmentation)
STATE = DicomOutput("presentation_state", "presentation_states", build_presentation_state)
CAPTURE = DicomOutput("secondary_capture", "secondary_captures", build_secondary_capture)
OUTPUTS = (REPORT, SEGMENTATION, STATE, CAPTURE)


def wanted_outputs(images: ImageSettings) -> list[DicomOutput]:
    """Those that the settings ask for."""
    choices = {
        REPORT: images.dicom_sr,
        SEGMENTATION: images.dicom_seg,
        STATE: images.dicom_pr,
        CAPTURE: images.dicom_sc,
    }
    return [output for output, is_wanted in choices.items() if is_wanted]


def make_objects(
    images: ImageSettings,
    item: Item,
    is_dicom: bool,
    statement: Statement,
    earlier: Record | None,
) -> dict[str, str | None]:
    """{name of an output: its path relative to --out, or why there is none; None if not wanted}.

    earlier: the record of the same image, whose objects stay as they are, since other systems may
    have them by now. None if there is none: what was made of another image is removed.
    """
    wanted = wanted_outputs(images)
    made: dict[str, str | None] = {}
    for output in OUTPUTS:
        if earlier is not None and not output.is_missing(images.out, item, earlier):
            made[output.name] = earlier[output.name]
            continue
        output.path(images.out, item).unlink(missing_ok=True)
        made[output.name] = None
        if output in wanted:
            made[output.name] = NO_DICOM
            if is_dicom:
                made[output.name] = output.make(images.out, item, statement)
    return made


def unmade_objects(images: ImageSettings, record: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (output in words, reason) of what was wanted of an image and could not be made."""
    for output in wanted_outputs(images):
        reason = record.get(output.name)
        if reason is not None and not reason.startswith(f"{output.folder}/"):
            yield output.words, reason
