"""The data set into input/<slug>/: found there, drawn for the demo, or downloaded from Kaggle."""

from __future__ import annotations

import lzma
import shutil
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from cxr.datasets.base import Dataset
from cxr.settings import PlaceSettings
from cxr.system.disk import alone
from cxr.system.errors import InputError
from cxr.system.kaggle import (
    SITE,
    KaggleClient,
    attach_competition,
    connect,
    fetch_archive,
    find_input,
    in_kernel,
    missing_names,
)

ATTEMPTS = 2  # a damaged archive is downloaded once more
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError)


def obtain(dataset: Dataset, place: PlaceSettings, demo_images: int) -> Path:
    """Make a data set available and return its folder.

    demo_images: number of synthetic training images of --demo. Raises InputError with the remedy
    where that fails.
    """
    name = dataset.folder_name(place.demo)
    folder = place.input / name
    if place.demo:
        with alone(place.input):
            is_new = dataset.write_synthetic(folder, n_train=demo_images)
        if is_new:
            print(f"wrote a synthetic data set to {folder}")
        else:
            print(f"the synthetic data set is already in {folder}")
        return folder

    # Zips that a person has put there are unpacked first, so that they count as data.
    unpack_archives(folder, dataset.archives)
    present = find_input(place.input, name, dataset.expected_files)
    if present is not None:
        print(f"the data set is in {present}, nothing to download")
        return present

    if dataset.by_hand:
        missing = ", ".join(missing_names(folder, dataset.expected_files))
        remedy = dataset.by_hand.format(folder=folder)
        raise InputError(f"{folder} lacks {missing}. {remedy}")
    if in_kernel():
        attach_competition(dataset.slug)
        present = find_input(place.input, name, dataset.expected_files)
        if present is not None:
            return present
    refuse_download(dataset, place.input)
    with alone(place.input):
        download(
            dataset.slug,
            folder,
            dataset.expected_files,
            dataset.zip_bytes,
            dataset.extracted_bytes,
        )
    print(f"the data set is now in {folder}")
    return folder


def unpack_archives(folder: Path, names: Sequence[str]) -> None:
    """Unzip each <name>.zip that a person has put into `folder` into the folder <name> there.

    A folder that is there already is left alone. The pictures may stand at any depth of the
    archive. Raises InputError for a damaged one.
    """
    for name in names:
        archive = folder / f"{name}.zip"
        target = folder / name
        if archive.exists() and not target.exists():
            unpack_pictures(archive, target)


def unpack_pictures(archive: Path, target: Path) -> None:
    """Unzip an archive; its folder with the most PNG files becomes the folder `target`."""
    print(f"unpacking {archive}")
    building = being_unzipped(target)
    try:
        with open_archive(archive, target) as content:
            content.extractall(building)
    except DAMAGED as error:
        raise InputError(
            f"{archive} is damaged or not complete ({error}): download it again"
        ) from None
    # Hidden files are what macOS adds to archives.
    pictures = [path for path in building.rglob("*.png") if not path.name.startswith(".")]
    if not pictures:
        raise InputError(f"{archive} holds no PNG files: it is not the archive of {target.name}")
    pictures_by_folder = Counter(path.parent for path in pictures)
    fullest_folder, _ = pictures_by_folder.most_common(1)[0]
    fullest_folder.rename(target)
    shutil.rmtree(building, ignore_errors=True)


def refuse_download(dataset: Dataset, input_folder: Path) -> None:
    """Raise InputError where a download is impossible or not what the user asked for."""
    folder = input_folder / dataset.slug
    if in_kernel():
        rules = f"{SITE}/competitions/{dataset.slug}/rules"
        raise InputError(
            f"{dataset.slug} is not among the inputs of this kernel: add the competition with "
            f"'Add input' (accept its rules on {rules} first) and start the kernel again"
        )
    if folder.is_dir() and any(folder.iterdir()):
        missing = ", ".join(missing_names(folder, dataset.expected_files))
        raise InputError(
            f"{folder} lacks {missing}: complete it, or delete it to download the data set again"
        )
    if input_folder != PlaceSettings.input:
        raise InputError(
            f"{folder} does not exist: --input must be the folder that holds {dataset.slug}; "
            "without --input the data is downloaded"
        )


def download(
    slug: str,
    folder: Path,
    expected: Sequence[str],
    zip_bytes: float,
    extracted_bytes: float,
    client: KaggleClient | None = None,
) -> None:
    """Download a competition's archive beside `folder` and unzip it into `folder`.

    The folder appears whole or not at all. An interrupted download goes on where it stopped, and
    a whole archive (also one put there by hand) is not downloaded again. `client` None: one made
    from the user's credentials. `zip_bytes`, `extracted_bytes`: sizes of archive and content.
    """
    archive = folder.with_name(f"{slug}.zip")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # What a kill has left would count as used space.
    shutil.rmtree(being_unzipped(folder), ignore_errors=True)
    check_space(archive, zip_bytes, extracted_bytes)

    for _ in range(ATTEMPTS):
        # A part of an archive has no directory at its end and is no zip file yet.
        if not zipfile.is_zipfile(archive):
            client = client or connect(slug, folder)
            fetch_archive(client, slug, archive)
        try:
            unzip(archive, folder, expected)
        except DAMAGED as error:
            print(f"{archive} is damaged ({error}): deleted")
            remove_archive(archive)
        else:
            remove_archive(archive)
            return
    raise InputError(
        f"the archive of {slug} arrived damaged {ATTEMPTS} times: try later or on another network, "
        f"or download it in a browser from {SITE}/competitions/{slug}/data to {archive}"
    )


@contextmanager
def open_archive(archive: Path, target: Path) -> Iterator[zipfile.ZipFile]:
    """An archive, to be unzipped into `being_unzipped(target)`, which is empty before.

    Nothing stays there where that fails: with one of DAMAGED, or InputError for an archive that
    can be unpacked by another program only.
    """
    building = being_unzipped(target)
    shutil.rmtree(building, ignore_errors=True)
    is_whole = False
    try:
        with zipfile.ZipFile(archive) as content:
            yield content
        is_whole = True
    except RuntimeError as error:  # encrypted, or, as NotImplementedError, packed by new methods
        raise InputError(
            f"{archive} cannot be unpacked here ({error}): unpack it into {target} by the program "
            "that packed it, with its password if it has one, and delete it"
        ) from None
    except OSError as error:
        if error.errno is not None:  # of the disk
            raise
        raise zipfile.BadZipFile(str(error)) from None  # of bz2
    finally:
        if not is_whole:
            shutil.rmtree(building, ignore_errors=True)


def being_unzipped(folder: Path) -> Path:
    """The hidden folder in which the content of `folder` grows until it is whole."""
    return folder.with_name(f".{folder.name}.unzipping")


def check_space(archive: Path, zip_bytes: float, extracted_bytes: float) -> None:
    """Raise InputError if the disk cannot hold the rest of the archive and also its content."""
    present = archive.stat().st_size if archive.exists() else 0
    needed = max(0, zip_bytes - present) + extracted_bytes
    free = shutil.disk_usage(archive.parent).free
    if free < needed:
        raise InputError(
            f"{archive.parent.resolve()} has {free / 1e9:.1f} GB free and the data set needs "
            f"{needed / 1e9:.1f} GB: free some space, or make {archive.parent} a link to a larger "
            "disk"
        )


def unzip(archive: Path, folder: Path, expected: Sequence[str]) -> None:
    """Unzip with check sums, then rename. Raises one of DAMAGED if the archive is damaged."""
    building = being_unzipped(folder)
    with open_archive(archive, folder) as content:
        for member in tqdm(content.infolist(), desc="unzip", unit="file", mininterval=1):
            content.extract(member, building)
    missing = missing_names(building, expected)
    if missing:
        shutil.rmtree(building)
        raise InputError(
            f"{archive} has no {', '.join(missing)}: it is not the archive of {folder.name}; "
            "delete it"
        )
    if folder.exists():
        folder.rmdir()  # empty, else nothing would have been downloaded
    building.rename(folder)


def remove_archive(archive: Path) -> None:
    """Delete an archive and the client's note on how far its download came."""
    archive.unlink(missing_ok=True)
    Path(f"{archive}.kaggle-partial").unlink(missing_ok=True)
