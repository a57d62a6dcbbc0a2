"""The data set into input/<slug>/: found where it is, drawn for the demo, or downloaded from Kaggle."""

import io
import os
import shutil
import zipfile
import zlib
from collections import Counter
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from tqdm import tqdm

from cxr.config import Config
from cxr.system.disk import InputError

SITE = "https://www.kaggle.com"
ATTEMPTS = 2  # a damaged archive is downloaded once more


def obtain(task, config):
    """Make the task's data set available and return its folder. Raises InputError with the remedy where that fails."""
    folder = config.input / task.slug
    if config.demo:
        made = task.write_synthetic(folder, n_train=config.demo_images)
        print(
            f"{'wrote a synthetic data set to' if made else 'the synthetic data set is already in'} {folder}"
        )
        return folder
    unpack_archives(folder, task.archives)
    found = find_input(config, task.slug, task.expected_files)
    if found:
        print(f"the data set is in {found}, nothing to download")
        return found
    if task.by_hand:
        raise InputError(
            f"{folder} lacks {', '.join(missing(folder, task.expected_files))}. "
            + task.by_hand.format(folder=folder)
        )
    refuse_download(task, config)
    download(task.slug, folder, task.expected_files, task.zip_bytes, task.extracted_bytes)
    print(f"the data set is now in {folder}")
    return folder


def find_input(config, slug, expected, kaggle_input=None):
    """The folder that holds every name in `expected`, or None: input/<slug>, in a Kaggle kernel also its mounts.

    `kaggle_input` (else the variable CXR_KAGGLE_INPUT) stands for /kaggle/input.
    """
    places = [config.input / slug]
    if in_kernel():
        root = Path(kaggle_input or os.environ.get("CXR_KAGGLE_INPUT", "/kaggle/input"))
        places += [
            root / "competitions" / slug,
            root / slug,
            *sorted(root.glob(f"datasets/*/{slug}")),
        ]
    return next(
        (place for place in places if place.is_dir() and not missing(place, expected)), None
    )


def in_kernel():
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def missing(folder, expected):
    """Names in `expected` that are not in `folder`, or are empty folders there."""

    def empty(path):
        return not path.exists() or path.is_dir() and not any(path.iterdir())

    return [name for name in expected if empty(Path(folder) / name)]


def unpack_archives(folder, names):
    """Unzip each <name>.zip that a person has put into `folder` into the folder <name> there, unless that exists.

    The pictures may stand at any depth of the archive. Raises InputError for a damaged one.
    """
    for name in names:
        archive, building = folder / f"{name}.zip", being_unzipped(folder / name)
        if (folder / name).exists() or not archive.exists():
            continue
        print(f"unpacking {archive}")
        shutil.rmtree(building, ignore_errors=True)
        try:
            with zipfile.ZipFile(archive) as content:
                content.extractall(building)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise InputError(
                f"{archive} is damaged or not complete ({error}): download it again"
            ) from None
        depths = Counter(
            path.parent for path in building.rglob("*.png") if not path.name.startswith(".")
        )
        if not depths:
            raise InputError(f"{archive} holds no PNG files: it is not the archive of {name}")
        depths.most_common(1)[0][0].rename(folder / name)
        shutil.rmtree(building, ignore_errors=True)


def refuse_download(task, config):
    """Raise InputError where a download is impossible or not what the user asked for."""
    folder, page = config.input / task.slug, f"{SITE}/competitions/{task.slug}"
    if in_kernel():
        raise InputError(
            f"{task.slug} is not among the inputs of this kernel: add the competition with 'Add input' "
            f"(accept its rules on {page}/rules first) and start the kernel again"
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"{folder} lacks {', '.join(missing(folder, task.expected_files))}: complete it, "
            "or delete it to download the data set again"
        )
    if config.input != Config.input:
        raise InputError(
            f"{folder} does not exist: --input must be the folder that holds {task.slug}; "
            "without --input the data is downloaded"
        )


def download(slug, folder, expected, zip_bytes, extracted_bytes, api=None):
    """Download the competition's archive beside `folder` and unzip it into `folder`, which appears whole or not at all.

    An interrupted download goes on where it stopped, and a whole archive (also one put there by hand) is not downloaded
    again. `api` is a client with the methods of KaggleApi; None makes one from the user's credentials.
    """
    folder = Path(folder)
    archive = folder.with_name(f"{slug}.zip")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(
        being_unzipped(folder), ignore_errors=True
    )  # left by a kill, it would count as used space
    check_space(archive, zip_bytes, extracted_bytes)
    for _ in range(ATTEMPTS):
        if not zipfile.is_zipfile(archive):  # a part of an archive has no directory at its end
            api = api or connect(slug, folder)
            fetch(api, slug, archive)
        try:
            unzip(archive, folder, expected)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            print(f"{archive} is damaged ({error}): deleted")
            remove(archive)
        else:
            remove(archive)
            return
    raise InputError(
        f"the archive of {slug} arrived damaged {ATTEMPTS} times: try later or on another network, "
        f"or download it in a browser from {SITE}/competitions/{slug}/data to {archive}"
    )


def being_unzipped(folder):
    return folder.with_name(f".{folder.name}.unzipping")


def check_space(archive, zip_bytes, extracted_bytes):
    """Raise InputError if the disk cannot hold the rest of the archive and its content at the same time."""
    present = archive.stat().st_size if archive.exists() else 0
    need, free = (
        max(0, zip_bytes - present) + extracted_bytes,
        shutil.disk_usage(archive.parent).free,
    )
    if free < need:
        raise InputError(
            f"{archive.parent.resolve()} has {free / 1e9:.1f} GB free and the data set needs "
            f"{need / 1e9:.1f} GB: free some space, or make {archive.parent} a link to a larger disk"
        )


def fetch(api, slug, archive):
    """Download the archive, continuing what is there; the client decides whether that still fits the server's."""
    print(f"downloading {slug} from Kaggle to {archive}")
    with explained(slug, f"; what has arrived is kept, the same command continues ({archive})"):
        api.competition_download_files(slug, path=str(archive.parent), force=False, quiet=False)
    if not archive.exists():
        raise InputError(
            f"the Kaggle client wrote no {archive}: download it in a browser from "
            f"{SITE}/competitions/{slug}/data"
        )


def unzip(archive, folder, expected):
    """Unzip with check sums, then rename. Raises BadZipFile, zlib.error or EOFError if the archive is damaged."""
    building = being_unzipped(folder)
    shutil.rmtree(building, ignore_errors=True)
    with zipfile.ZipFile(archive) as content:
        for member in tqdm(content.infolist(), desc="unzip", unit="file", mininterval=1):
            content.extract(member, building)
    absent = missing(building, expected)
    if absent:
        shutil.rmtree(building)
        raise InputError(
            f"{archive} has no {', '.join(absent)}: it is not the archive of {folder.name}; delete it"
        )
    if folder.exists():
        folder.rmdir()  # empty, else nothing would have been downloaded
    building.rename(folder)


def remove(archive):
    """Delete an archive and the client's note on how far its download came."""
    for path in (archive, Path(f"{archive}.kaggle-partial")):
        path.unlink(missing_ok=True)


def connect(slug, folder):
    """A signed-in KaggleApi. Raises InputError without the package, usable credentials or network."""
    try:
        with (
            redirect_stdout(io.StringIO()),
            explained(slug),
        ):  # the client prints its own help before it gives up
            # Imported here: depending on its version the package signs in, raises or ends the process on import.
            from kaggle.api.kaggle_api_extended import KaggleApi

            api = KaggleApi()
            api.authenticate()
            return api
    except ImportError as error:
        raise InputError(
            f"the kaggle package cannot be imported ({error}): pip install kaggle six"
        ) from error
    except (OSError, SystemExit) as error:
        if getattr(error, "errno", None):
            raise
        raise InputError(how_to_sign_in(slug, folder)) from error


def how_to_sign_in(slug, folder):
    return f"""no Kaggle credentials were found, or they have expired.
  1. Create a token on {SITE}/settings and save it as ~/.kaggle/access_token (or the older kaggle.json as
     ~/.kaggle/kaggle.json), or set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY.
  2. Accept the rules on {SITE}/competitions/{slug}/rules
  3. Run the same command again.
Without an account: unzip the data to {folder}, or add --demo to use synthetic data."""


@contextmanager
def explained(slug, consequence=""):
    """Turn what the Kaggle client raises into an InputError with the remedy; anything else passes."""
    try:
        yield
    except (
        Exception
    ) as error:  # the versions of the client share no base class: requests, urllib3, ApiException
        sentence = explain(error, slug)
        if sentence is None:
            raise
        raise InputError(sentence + consequence) from error


def explain(error, slug):
    """What a failure of the Kaggle client means and what to do, or None if it is no failure of the service."""
    response = getattr(error, "response", None)
    response = (
        error if response is None else response
    )  # ApiException carries status and headers itself
    status = getattr(response, "status_code", None) or getattr(response, "status", None)
    if status:
        return explain_status(
            int(status), slug, getattr(response, "headers", None) or {}, str(error)
        )
    if type(error).__module__.split(".")[0] in ("requests", "urllib3", "http") or is_network(error):
        return f"the connection to Kaggle failed ({error}): check the network and run again, or use --demo"
    if isinstance(error, ValueError) and "size" in str(
        error
    ):  # the client's own check of what it wrote
        return f"the download of {slug} stopped early ({error}): run again"
    return None


def is_network(error):
    return isinstance(error, (ConnectionError, TimeoutError)) or type(error).__name__ in (
        "gaierror",
        "URLError",
    )


def explain_status(status, slug, headers, detail):
    page = f"{SITE}/competitions/{slug}"
    wait = f"{headers['Retry-After']} seconds" if headers.get("Retry-After") else "some minutes"
    known = {
        401: f"Kaggle refuses the credentials (401): create a new token on {SITE}/settings and save it, or use --demo",
        403: f"Kaggle refuses access to {slug} (403): accept the rules on {page}/rules in a browser, "
        "signed in as the owner of the token, and run again",
        404: f"Kaggle has no competition {slug} (404): look at {page}, or update the client (pip install -U kaggle)",
        429: f"Kaggle asks for fewer requests (429): wait {wait} and run again",
    }
    return known.get(status, f"Kaggle answered with error {status} ({detail}): try again later")


def submit(slug, file, message, api=None):
    """Send a submission file and return Kaggle's answer. Raises InputError if it was not accepted."""
    file = Path(file)
    if not file.is_file():
        raise InputError(f"{file} is missing: it is written before it can be submitted")
    api = api or connect(slug, file.parent)
    with explained(slug, f"; {file} was not submitted"):
        answer = api.competition_submit(str(file), message, slug)
    text = str(getattr(answer, "message", answer))
    if text.startswith(
        "Could not submit"
    ):  # the client reports a failed upload as an ordinary answer
        raise InputError(
            f"the upload of {file} failed ({text}): run again, or upload it on "
            f"{SITE}/competitions/{slug}/submit"
        )
    print(f"submitted {file} to {slug}: {text}")
    return text
