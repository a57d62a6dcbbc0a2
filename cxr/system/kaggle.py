"""Kaggle: what a kernel mounts, signing in, fetching, submitting, and what its errors mean."""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from cxr.system.errors import InputError, first_line

SITE = "https://www.kaggle.com"
HTTP_PACKAGES = ("requests", "urllib3", "http")


class KaggleClient(Protocol):
    """What is used of the package's KaggleApi, whose versions differ in everything else."""

    def competition_download_files(
        self, competition: str, path: str, force: bool, quiet: bool
    ) -> None: ...

    def competition_submit(self, file_name: str, message: str, competition: str) -> Any: ...


def in_kernel() -> bool:
    """Whether this process runs inside a Kaggle kernel."""
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def find_input(
    input_folder: Path,
    slug: str,
    expected: Sequence[str],
    kaggle_input: Path | None = None,
) -> Path | None:
    """The folder of the data set `slug` that holds every name in `expected`, or None.

    Looked at are <input_folder>/<slug> and, inside a Kaggle kernel, the places where it mounts
    data. `kaggle_input` (else the variable CXR_KAGGLE_INPUT) stands for /kaggle/input.
    """
    candidates = [input_folder / slug]
    if in_kernel():
        mounts = Path(kaggle_input or os.environ.get("CXR_KAGGLE_INPUT", "/kaggle/input"))
        candidates.append(mounts / "competitions" / slug)
        candidates.append(mounts / slug)
        candidates.extend(sorted(mounts.glob(f"datasets/*/{slug}")))
    for folder in candidates:
        if folder.is_dir() and not missing_names(folder, expected):
            return folder
    return None


def attach_competition(slug: str) -> None:
    """Let kagglehub add a competition's data to the inputs of this kernel, where it can.

    `find_input` finds it then. Where it fails, the reason is printed.
    """
    # Without this variable kagglehub would download, for which kernels often have no internet.
    if not in_kernel() or "KAGGLE_DATA_PROXY_URL" not in os.environ:
        return
    if importlib.util.find_spec("kagglehub") is None:
        return
    import kagglehub  # Kaggle's image has it; it is not among the requirements

    try:
        folder = kagglehub.competition_download(slug)
    except Exception as error:  # of a package that is not ours, and its server
        print(f"kagglehub cannot attach {slug} ({first_line(error)})")
    else:
        print(f"kagglehub attached {slug}: {folder}")


def missing_names(folder: Path, expected: Sequence[str]) -> list[str]:
    """Names in `expected` that are not in `folder`, or are empty folders there."""
    return [name for name in expected if is_absent_or_empty(folder / name)]


def is_absent_or_empty(path: Path) -> bool:
    """True for a path that does not exist and for a folder without content."""
    if not path.exists():
        return True
    return path.is_dir() and not any(path.iterdir())


def connect(slug: str, folder: Path) -> KaggleClient:
    """A signed-in KaggleApi. Raises InputError without the package, usable credentials or network.

    `folder` is where the data may be put by hand, for the message.
    """
    try:
        # The client prints its own help before it gives up.
        with redirect_stdout(io.StringIO()), explained(slug):
            # Imported here: by its version the package signs in, raises or ends the process on
            # import.
            from kaggle.api.kaggle_api_extended import KaggleApi

            client = KaggleApi()
            client.authenticate()
            return client
    except ImportError as error:
        raise InputError(
            f"the kaggle package cannot be imported ({error}): pip install kaggle six"
        ) from error
    except (OSError, SystemExit) as error:
        if getattr(error, "errno", None):  # a full disk or an unreadable file
            raise
        raise InputError(how_to_sign_in(slug, folder)) from error


def how_to_sign_in(slug: str, folder: Path) -> str:
    """What a user without credentials has to do."""
    return f"""no Kaggle credentials were found, or they have expired.
  1. Create a token on {SITE}/settings and save it as ~/.kaggle/access_token (or the older
     kaggle.json as ~/.kaggle/kaggle.json), or set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and
     KAGGLE_KEY.
  2. Accept the rules on {SITE}/competitions/{slug}/rules
  3. Run the same command again.
Without an account: unzip the data to {folder}, or add --demo to use synthetic data."""


def fetch_archive(client: KaggleClient, slug: str, archive: Path) -> None:
    """Download the archive of a competition, continuing what is there.

    The client decides whether a part that is there still fits the server's archive.
    """
    print(f"downloading {slug} from Kaggle to {archive}")
    consequence = f"; what has arrived is kept, the same command continues ({archive})"
    with explained(slug, consequence):
        client.competition_download_files(slug, path=str(archive.parent), force=False, quiet=False)
    if not archive.exists():
        raise InputError(
            f"the Kaggle client wrote no {archive}: download it in a browser from "
            f"{SITE}/competitions/{slug}/data"
        )


def submit(slug: str, file: Path, message: str, client: KaggleClient | None = None) -> str:
    """Send a submission file; returns Kaggle's answer. Raises InputError if it was not accepted."""
    if not file.is_file():
        raise InputError(f"{file} is missing: it is written before it can be submitted")
    client = client or connect(slug, file.parent)
    with explained(slug, f"; {file} was not submitted"):
        answer = client.competition_submit(str(file), message, slug)
    text = str(getattr(answer, "message", answer))
    # The client reports a failed upload as an ordinary answer.
    if text.startswith("Could not submit"):
        raise InputError(
            f"the upload of {file} failed ({text}): run again, or upload it on "
            f"{SITE}/competitions/{slug}/submit"
        )
    print(f"submitted {file} to {slug}: {text}")
    return text


@contextmanager
def explained(slug: str, consequence: str = "") -> Iterator[None]:
    """Turn what the Kaggle client raises into an InputError with the remedy; other errors pass."""
    try:
        yield
    # The versions of the client share no base class: requests, urllib3, ApiException.
    except Exception as error:
        sentence = explain(error, slug)
        if sentence is None:
            raise
        raise InputError(sentence + consequence) from error


def explain(error: Exception, slug: str) -> str | None:
    """What a failure of the client means and what to do; None if the service did not fail."""
    response = getattr(error, "response", None)
    if response is None:
        response = error  # ApiException carries status and headers itself
    status = getattr(response, "status_code", None) or getattr(response, "status", None)
    if status:
        headers = getattr(response, "headers", None) or {}
        return explain_status(int(status), slug, headers, str(error))
    if is_network_error(error):
        return (
            f"the connection to Kaggle failed ({error}): check the network and run again, "
            "or use --demo"
        )
    # The client's own check of what it wrote.
    if isinstance(error, ValueError) and "size" in str(error):
        return f"the download of {slug} stopped early ({error}): run again"
    return None


def is_network_error(error: Exception) -> bool:
    """Whether an exception, of whichever HTTP package, says that the connection failed."""
    package = type(error).__module__.split(".")[0]
    if package in HTTP_PACKAGES:
        return True
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return type(error).__name__ in ("gaierror", "URLError")


def explain_status(status: int, slug: str, headers: Mapping[str, str], detail: str) -> str:
    """What an HTTP status of Kaggle means and what to do."""
    page = f"{SITE}/competitions/{slug}"
    retry_after = headers.get("Retry-After")
    wait = f"{retry_after} seconds" if retry_after else "some minutes"
    meanings = {
        401: f"Kaggle refuses the credentials (401): create a new token on {SITE}/settings and "
        "save it, or use --demo",
        403: f"Kaggle refuses access to {slug} (403): accept the rules on {page}/rules in a "
        "browser, signed in as the owner of the token, and run again",
        404: f"Kaggle has no competition {slug} (404): look at {page}, or update the client "
        "(pip install -U kaggle)",
        429: f"Kaggle asks for fewer requests (429): wait {wait} and run again",
    }
    unknown = f"Kaggle answered with error {status} ({detail}): try again later"
    return meanings.get(status, unknown)
