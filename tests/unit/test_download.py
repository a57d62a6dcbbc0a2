"""Step 01 against a stand-in Kaggle.

A local HTTP server answers the real client, and client objects fail to order.
"""

import io
import os
import struct
import sys
import threading
import urllib.request
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests

from cxr.settings import PlaceSettings
from cxr.steps.download import download
from cxr.system import kaggle
from cxr.system.errors import InputError

SLUG = "some-competition"
EXPECTED = ("images", "labels.csv")
Usage = namedtuple("Usage", "total used free")


def make_zip(names=("images/a.dcm", "images/b.dcm", "labels.csv"), size=40_000):
    """A zip of incompressible files, as bytes."""
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, rng.bytes(size))
    return buffer.getvalue()


GOOD = make_zip()
BIG = make_zip(size=1_000_000)
CHUNK = 2**20  # the real client keeps whole pieces of this size of an answer that breaks off
BROKEN = GOOD[:20_000] + bytes(100) + GOOD[20_100:]  # right length and directory, wrong check sum


class Server(ThreadingHTTPServer):
    """Serves `payload` as the competition's archive.

    `cuts`: bytes after which each next answer breaks off; `status`: the error it answers to the
    API instead; `ranges` and `uploads`: what it was asked for and sent.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.payload = GOOD
        self.cuts = []
        self.status = None
        self.headers = {}
        self.ranges = []
        self.uploads = []
        self.requests = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that gives up early closes its connection: no traceback for that."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=b"", content_type="application/json", **headers):
        self.send_response(status)
        headers = {"Content-Type": content_type, "Content-Length": len(body)} | headers
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.path, body))
        if self.server.status:
            self.answer(self.server.status, b"refused", "text/plain", **self.server.headers)
        elif self.path.endswith("DownloadDataFiles"):
            self.answer(302, Location=f"{self.server.url}/storage/archive.zip?signature=1")
        elif self.path.endswith("StartSubmissionUpload"):
            self.answer(200, f'{{"token": "t", "createUrl": "{self.server.url}/upload"}}'.encode())
        else:
            self.answer(200, b'{"message": "Successfully submitted"}')

    def do_PUT(self):
        self.server.uploads.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(200, b"{}")

    def do_GET(self):
        byte_range = self.headers.get("Range")
        self.server.ranges.append(byte_range)
        start = 0
        if byte_range:
            start = int(byte_range.removeprefix("bytes=").removesuffix("-"))
        body = self.server.payload[start:]
        cut = self.server.cuts.pop(0) if self.server.cuts else len(body)
        self.send_response(206 if byte_range else 200)
        headers = {
            "Content-Type": "application/zip",
            "Content-Length": len(body),
            "Accept-Ranges": "bytes",
            "ETag": '"1"',
            "Last-Modified": "Wed, 01 Aug 2018 00:00:00 GMT",
        }
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(body[:cut])
        self.close_connection = cut < len(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(
            target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def no_credentials(monkeypatch, tmp_path):
    variables = [name for name in os.environ if name.startswith("KAGGLE_")]
    for name in variables:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "USERPROFILE", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("NO_PROXY", "*")
    return home


@pytest.fixture
def kaggle_server(monkeypatch, no_credentials, server):
    """The real client, signed in with an old-style key; it asks the local server without pauses."""
    environment = pytest.importorskip(
        "kagglesdk.kaggle_env", reason="this kaggle version has another transport"
    )
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", "0" * 32)
    extended = pytest.importorskip("kaggle.api.kaggle_api_extended")
    monkeypatch.setitem(environment._env_to_endpoint, environment.KaggleEnv.PROD, server.url)
    monkeypatch.setattr(extended.KaggleApi, "config", str(no_credentials / "kaggle.json"))
    monkeypatch.setattr(
        extended,
        "time",
        SimpleNamespace(sleep=lambda _: None, mktime=extended.time.mktime, time=extended.time.time),
    )
    return server


class StandIn:
    """A client that continues a partial file and gives up at the first error, as old ones do."""

    def __init__(self, url):
        self.url = url
        self.calls = 0

    def competition_download_files(self, competition, path, **_):
        self.calls += 1
        file = Path(path) / f"{competition}.zip"
        present = file.stat().st_size if file.exists() else 0
        headers = {"Range": f"bytes={present}-"} if present else {}
        request = urllib.request.Request(self.url, headers=headers)
        with urllib.request.urlopen(request) as answer, file.open("ab") as out:
            while block := answer.read(1024):
                out.write(block)
        if file.stat().st_size < len(GOOD):
            raise requests.exceptions.ConnectionError("broke off")


class Failing:
    def __init__(self, error):
        self.error = error

    def competition_download_files(self, *_, **__):
        raise self.error

    competition_submit = competition_download_files


def get(folder, client=None, zip_bytes=40_000, extracted_bytes=120_000):
    download.download(SLUG, folder, EXPECTED, zip_bytes, extracted_bytes, client=client)


def is_complete(folder, size=40_000):
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    if names != ["images/a.dcm", "images/b.dcm", "labels.csv"]:
        return False
    return (folder / "labels.csv").stat().st_size == size


def is_alone(folder):
    """Nothing but the data set lies in its parent: no archive, no temporary folder, no marker."""
    return [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "input" / SLUG


def test_real_client_downloads_and_unzips(kaggle_server, folder):
    get(folder)
    assert is_complete(folder) and is_alone(folder)
    path, body = kaggle_server.requests[0]
    assert path.endswith("/DownloadDataFiles")
    assert SLUG.encode() in body


def test_real_client_recovers_from_a_broken_connection(kaggle_server, folder):
    kaggle_server.payload = BIG
    kaggle_server.cuts = [2_500_000]
    get(folder)
    assert is_complete(folder, 1_000_000)
    assert kaggle_server.ranges == [None, f"bytes={2 * CHUNK}-"]


def test_real_client_resumes_in_a_later_run(kaggle_server, folder):
    kaggle_server.payload = BIG
    kaggle_server.cuts = [1_500_000, 9, 9, 9, 9, 9]  # first answer and all its retries
    with pytest.raises(InputError, match="same command continues"):
        get(folder)
    assert not folder.exists()
    assert folder.with_name(f"{SLUG}.zip").stat().st_size == CHUNK
    kaggle_server.ranges.clear()
    get(folder)
    assert is_complete(folder, 1_000_000)
    assert is_alone(folder)
    assert kaggle_server.ranges[-1] == f"bytes={CHUNK}-"


@pytest.mark.parametrize(
    "status, sentence",
    [
        (401, "new token"),
        (403, f"https://www.kaggle.com/competitions/{SLUG}/rules"),
        (404, "no competition"),
        (503, "error 503"),
    ],
)
def test_real_client_errors_are_explained(kaggle_server, folder, status, sentence):
    kaggle_server.status = status
    with pytest.raises(InputError, match=sentence) as caught:
        get(folder)
    assert str(status) in str(caught.value) and not folder.exists()


def test_real_client_429_names_the_time_to_wait(kaggle_server, folder):
    kaggle_server.status = 429
    kaggle_server.headers = {"Retry_After": 17}
    with pytest.raises(InputError, match=r"429.*17 seconds"):
        get(folder)


def test_real_client_without_server(kaggle_server, folder):
    kaggle_server.shutdown()
    kaggle_server.server_close()
    with pytest.raises(InputError, match="connection to Kaggle failed"):
        get(folder)


def test_real_client_submits(kaggle_server, tmp_path, capsys):
    file = tmp_path / "submission.csv"
    file.write_text("patientId,PredictionString\n")
    assert kaggle.submit(SLUG, file, "a message") == "Successfully submitted"
    assert kaggle_server.uploads == [file.read_bytes()]
    assert b"a message" in kaggle_server.requests[-1][1]
    assert "submitted" in capsys.readouterr().out


def test_real_client_without_credentials(no_credentials, monkeypatch, folder):
    extended = pytest.importorskip("kaggle.api.kaggle_api_extended")
    monkeypatch.setattr(extended.KaggleApi, "config", str(no_credentials / "kaggle.json"))
    with pytest.raises(InputError) as caught:
        get(folder)
    named = ["access_token", "KAGGLE_API_TOKEN", "KAGGLE_KEY", "kaggle.json", "--demo"]
    for words in [*named, f"{SLUG}/rules"]:
        assert words in str(caught.value)


def imitate_kaggle(monkeypatch, **content):
    """Put a module in place of the client's; without content its import fails."""
    module = SimpleNamespace(**content) if content else None
    monkeypatch.setitem(sys.modules, "kaggle.api.kaggle_api_extended", module)


def raising(error):
    def authenticate(_):
        raise error

    return type("KaggleApi", (), {"authenticate": authenticate})


@pytest.mark.parametrize(
    "error, sentence",
    [
        (
            OSError("Could not find kaggle.json. Make sure it's located in ..."),
            "no Kaggle credentials",
        ),
        (SystemExit(1), "no Kaggle credentials"),
        (ImportError("No module named 'six'"), "pip install kaggle six"),
        (requests.exceptions.ConnectionError("name resolution"), "connection to Kaggle failed"),
    ],
)
def test_every_way_in_which_signing_in_fails(monkeypatch, folder, error, sentence):
    imitate_kaggle(monkeypatch, KaggleApi=raising(error))
    with pytest.raises(InputError, match=sentence):
        get(folder)


def test_package_that_is_not_installed(monkeypatch, folder):
    imitate_kaggle(monkeypatch)
    with pytest.raises(InputError, match="pip install"):
        get(folder)


def test_full_or_unreadable_home_is_not_taken_for_missing_credentials(monkeypatch, folder):
    imitate_kaggle(
        monkeypatch, KaggleApi=raising(PermissionError(13, "Permission denied", "/root/.kaggle"))
    )
    with pytest.raises(PermissionError):
        get(folder)


def http_error(status, headers=None):
    response = requests.Response()
    response.status_code = status
    response.headers.update(headers or {})
    return requests.exceptions.HTTPError(f"{status} refused", response=response)


class ApiException(Exception):
    """As in kaggle up to 1.6: no response, but status and headers of its own."""

    def __init__(self, status, headers=None):
        super().__init__(f"({status})")
        self.status = status
        self.headers = headers


@pytest.mark.parametrize("make", [http_error, ApiException])
@pytest.mark.parametrize(
    "status, sentence",
    [
        (401, "token"),
        (403, "rules"),
        (404, "no competition"),
        (429, "some minutes"),
        (500, "error 500"),
    ],
)
def test_both_kinds_of_http_errors(folder, make, status, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        get(folder, Failing(make(status)))
    assert "same command continues" in str(caught.value)


@pytest.mark.parametrize("make", [http_error, ApiException])
def test_retry_after_is_passed_on(folder, make):
    with pytest.raises(InputError, match="wait 30 seconds"):
        get(folder, Failing(make(429, {"Retry-After": "30"})))


@pytest.mark.parametrize(
    "error",
    [
        requests.exceptions.ReadTimeout("slow"),
        ConnectionResetError(104, "reset"),
        TimeoutError("slow"),
        urllib.error.URLError("no route"),
    ],
)
def test_network_errors(folder, error):
    with pytest.raises(InputError, match="check the network"):
        get(folder, Failing(error))


def test_short_file_is_explained(folder):
    with pytest.raises(InputError, match="stopped early"):
        get(
            folder, Failing(ValueError("Downloaded file size (3) does not match expected size (5)"))
        )


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyError("a bug")])
def test_other_errors_pass(folder, error):
    with pytest.raises(type(error)):
        get(folder, Failing(error))


def test_stand_in_client_resumes(server, folder):
    client = StandIn(server.url)
    server.cuts = [30_000]
    with pytest.raises(InputError, match="same command continues"):
        get(folder, client)
    get(folder, client)
    assert is_complete(folder)
    assert is_alone(folder)
    assert server.ranges == [None, "bytes=30000-"]


def test_client_that_writes_nothing(folder):
    with pytest.raises(InputError, match="wrote no"):
        get(folder, SimpleNamespace(competition_download_files=lambda *_, **__: None))


def test_damaged_archive_is_deleted_and_downloaded_again(server, folder, capsys):
    client = StandIn(server.url)
    server.payload = BROKEN
    original = client.competition_download_files

    def heal(*arguments, **settings):
        original(*arguments, **settings)
        server.payload = GOOD

    client.competition_download_files = heal
    get(folder, client)
    assert is_complete(folder)
    assert is_alone(folder)
    assert client.calls == 2
    assert "damaged" in capsys.readouterr().out


@pytest.mark.parametrize("payload", [BROKEN, b"<html>error page</html>" * 6000])
def test_archive_that_stays_damaged(server, folder, payload):
    server.payload = payload
    with pytest.raises(InputError, match="damaged 2 times"):
        get(folder, StandIn(server.url))
    assert not folder.exists()
    assert not folder.with_name(f"{SLUG}.zip").exists()


def test_archive_put_there_by_hand_needs_no_client(folder):
    folder.parent.mkdir()
    folder.with_name(f"{SLUG}.zip").write_bytes(GOOD)
    get(folder, Failing(AssertionError("not needed")))
    assert is_complete(folder) and is_alone(folder)


def test_archive_of_something_else(folder):
    folder.parent.mkdir()
    folder.with_name(f"{SLUG}.zip").write_bytes(make_zip(["labels.csv"]))
    with pytest.raises(InputError, match="has no images"):
        get(folder)
    assert not folder.exists()


def test_archive_cannot_write_outside(folder):
    folder.parent.mkdir()
    names = ["../../escaped.txt", "images/a.dcm", "labels.csv"]
    folder.with_name(f"{SLUG}.zip").write_bytes(make_zip(names))
    get(folder)
    assert not (folder.parent.parent / "escaped.txt").exists()
    assert not (folder.parent / "escaped.txt").exists()


def with_entry_facts(content, flags=0, method=0):
    """The zip with these flags and this method in all its headers (APPNOTE.TXT 4.3.7, 4.3.12)."""
    facts = struct.pack("<HH", flags, method)
    changed = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(signature)
        while start >= 0:
            changed[start + offset : start + offset + 4] = facts
            start = content.find(signature, start + 4)
    return bytes(changed)


def make_packed_zip(method):
    """A zip of a PNG file whose packed bytes are damaged."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a.png", bytes(100_000))
    content = bytearray(buffer.getvalue())
    content[50:60] = b"\xff" * 10
    return bytes(content)


UNUSUAL = [
    (with_entry_facts(GOOD, flags=1), "cannot be unpacked here .*encrypted.*unpack it into"),
    (with_entry_facts(GOOD, method=99), "cannot be unpacked here .*method.*unpack it into"),
]
DAMAGED = [
    (make_packed_zip(zipfile.ZIP_DEFLATED), "is damaged or not complete"),
    (make_packed_zip(zipfile.ZIP_BZIP2), "is damaged or not complete"),
    (make_packed_zip(zipfile.ZIP_LZMA), "is damaged or not complete"),
    (GOOD[:60_000], "is damaged or not complete"),
]


@pytest.mark.parametrize("content, sentence", [*UNUSUAL, *DAMAGED])
def test_archives_of_a_person_that_cannot_be_unpacked(tmp_path, content, sentence):
    (tmp_path / "images.zip").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        download.unpack_archives(tmp_path, ["images"])
    assert [path.name for path in tmp_path.iterdir()] == ["images.zip"]


@pytest.mark.parametrize("content, sentence", UNUSUAL)
def test_archives_for_another_program(folder, content, sentence):
    folder.parent.mkdir()
    archive = folder.with_name(f"{SLUG}.zip")
    archive.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        get(folder, Failing(AssertionError("not needed")))
    assert list(folder.parent.iterdir()) == [archive]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_of_every_method_is_downloaded_again(server, folder, method):
    folder.parent.mkdir()
    folder.with_name(f"{SLUG}.zip").write_bytes(make_packed_zip(method))
    get(folder, StandIn(server.url))
    assert is_complete(folder)


def test_kill_while_unzipping(folder, monkeypatch):
    folder.parent.mkdir()
    folder.with_name(f"{SLUG}.zip").write_bytes(GOOD)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download, "missing_names", killed)
        get(folder)
    assert not folder.exists()
    get(folder)
    assert is_complete(folder) and is_alone(folder)


def test_disk_too_small(monkeypatch, folder):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: Usage(10e9, 4e9, 6e9))
    with pytest.raises(InputError, match=r"6\.0 GB free.*7\.5 GB"):
        get(folder, Failing(AssertionError("too early")), zip_bytes=3.7e9, extracted_bytes=3.8e9)


def test_what_a_killed_unzipping_left_does_not_count(monkeypatch, folder):
    left_over = folder.with_name(f".{folder.name}.unzipping")
    left_over.mkdir(parents=True)

    def disk_usage(_):
        free = 6e9 if left_over.exists() else 10e9
        return Usage(0, 0, free)

    monkeypatch.setattr(download.shutil, "disk_usage", disk_usage)
    with pytest.raises(AssertionError, match="asked"):  # the disk is large enough
        get(folder, Failing(AssertionError("asked")), zip_bytes=3.7e9, extracted_bytes=3.8e9)


def test_disk_check_counts_what_has_arrived(monkeypatch, folder):
    archive = folder.with_name(f"{SLUG}.zip")
    archive.parent.mkdir()
    archive.write_bytes(bytes(400))
    for free, fits in ((599, False), (600, True)):
        monkeypatch.setattr(download.shutil, "disk_usage", lambda _, free=free: Usage(0, 0, free))
        if fits:
            download.check_space(archive, 500, 500)
        else:
            with pytest.raises(InputError, match="free"):
                download.check_space(archive, 500, 500)


def fill(folder):
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.dcm").touch()
    (folder / "labels.csv").touch()
    return folder


def a_dataset(**changes):
    facts = {
        "slug": SLUG,
        "folder_name": lambda demo: SLUG,
        "expected_files": EXPECTED,
        "zip_bytes": 10,
        "extracted_bytes": 10,
        "by_hand": "",
        "archives": (),
    }
    return SimpleNamespace(**(facts | changes))


def obtain(dataset, folder, demo=False):
    return download.obtain(dataset, PlaceSettings(input=folder, demo=demo), demo_images=7)


@pytest.fixture
def outside(monkeypatch):
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.setenv("CXR_KAGGLE_INPUT", str(tmp_path / "kaggle"))
    monkeypatch.setattr(
        download, "download", lambda *_: pytest.fail("nothing is downloaded in a kernel")
    )
    return tmp_path / "kaggle"


@pytest.mark.parametrize("layout", [f"competitions/{SLUG}", SLUG, f"datasets/someone/{SLUG}"])
def test_kernel_mounts(kernel, tmp_path, layout):
    fill(kernel / layout)
    assert obtain(a_dataset(), tmp_path / "input") == kernel / layout
    found = kaggle.find_input(tmp_path, SLUG, EXPECTED, kaggle_input=kernel)
    assert found == kernel / layout


@pytest.mark.usefixtures("kernel")
def test_kernel_without_the_data():
    with pytest.raises(InputError, match="Add input"):
        obtain(a_dataset(), Path("input"))


@pytest.mark.usefixtures("outside")
def test_mounts_are_not_looked_at_outside_a_kernel(monkeypatch, tmp_path):
    fill(tmp_path / "kaggle" / SLUG)
    monkeypatch.setenv("CXR_KAGGLE_INPUT", str(tmp_path / "kaggle"))
    assert kaggle.find_input(tmp_path / "input", SLUG, EXPECTED) is None


@pytest.mark.usefixtures("outside")
def test_what_is_there_is_used(tmp_path, capsys):
    fill(tmp_path / SLUG)
    assert obtain(a_dataset(), tmp_path) == tmp_path / SLUG
    assert "nothing to download" in capsys.readouterr().out


@pytest.mark.usefixtures("outside")
def test_incomplete_folder(tmp_path):
    fill(tmp_path / SLUG)
    (tmp_path / SLUG / "images" / "a.dcm").unlink()
    with pytest.raises(InputError, match="lacks images"):
        obtain(a_dataset(), tmp_path)


@pytest.mark.usefixtures("outside")
def test_input_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match="--input"):
        obtain(a_dataset(), tmp_path / "nowhere")


@pytest.mark.usefixtures("kaggle_server")
@pytest.mark.parametrize("empty_folder", [False, True])
def test_obtain_downloads_into_the_default_input(monkeypatch, tmp_path, empty_folder):
    monkeypatch.chdir(tmp_path)
    if empty_folder:
        Path("input", SLUG).mkdir(parents=True)
    assert obtain(a_dataset(), Path("input")) == Path("input", SLUG)
    assert is_complete(Path("input", SLUG))


@pytest.mark.usefixtures("outside")
def test_demo_draws_and_keeps(tmp_path, capsys):
    calls = []

    def write(folder, n_train):
        calls.append((folder, n_train))
        return len(calls) == 1

    dataset = a_dataset(write_synthetic=write)
    for words in ("wrote a synthetic", "already in"):
        obtain(dataset, tmp_path, demo=True)
        assert words in capsys.readouterr().out
    assert calls == [(tmp_path / SLUG, 7)] * 2


def test_submit_needs_a_file(tmp_path):
    with pytest.raises(InputError, match="missing"):
        kaggle.submit(SLUG, tmp_path / "submission.csv", "text", Failing(AssertionError()))


@pytest.mark.parametrize(
    "client, sentence",
    [
        (Failing(http_error(403)), "rules.*was not submitted"),
        (Failing(http_error(400)), "400 refused"),
        (
            SimpleNamespace(
                competition_submit=lambda *_: SimpleNamespace(
                    message="Could not submit to competition"
                )
            ),
            "upload .* failed",
        ),
    ],
)
def test_submit_that_fails(tmp_path, client, sentence):
    (tmp_path / "submission.csv").write_text("x")
    with pytest.raises(InputError, match=sentence):
        kaggle.submit(SLUG, tmp_path / "submission.csv", "text", client)
