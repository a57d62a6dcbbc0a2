"""The local page: what its service answers and refuses, and the page itself in Chromium, where there is one."""

import base64
import http.client
import json
import re
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import uvicorn
from browser import CHROMIUM, Browser
from steps import ROOT, command
from test_image_folder import huge_png, png, xray
from test_images import make_dataset, save
from tiny_task import TinyTask

from cxr.config import Config
from cxr.inference.predictor import Predictor
from cxr.steps.predict.predict_images import predict_images
from cxr.steps.serve.serve import listen, serve
from cxr.steps.serve.server import Limits, create_app
from cxr.system.disk import InputError


@pytest.fixture(scope="module")
def predictor(tiny_run):
    return Predictor(TinyTask(), tiny_run)


@contextmanager
def serving(predictor, **limits):
    """Port of a real server in a thread."""
    with listen(0) as listening:
        server = uvicorn.Server(
            uvicorn.Config(create_app(predictor, Limits(**limits)), log_level="critical")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def port(predictor):
    with serving(predictor, most_bytes=2**20, read_seconds=60) as port:
        yield port


def ask(port, path, method="GET", body=None, headers=None):
    """(status, headers, text) of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def send(port, content, **headers):
    """(status, answer) of an upload."""
    status, _, text = ask(port, "/predict", "POST", content, headers)
    return status, json.loads(text)


@pytest.fixture
def files(tmp_path):
    """{name: bytes} of images that can be read."""
    deep = make_dataset(xray().astype(np.uint16) * 16, bits=12)
    return {
        "png": png(tmp_path / "a.png", xray()).read_bytes(),
        "dicom": save(tmp_path / "a.dcm", make_dataset(xray())).read_bytes(),
        "deep": save(tmp_path / "deep.dcm", deep).read_bytes(),
    }


def test_the_answer_is_that_of_step_04(port, files, tiny_run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.dcm").write_bytes(files["dicom"])
    predict_images(
        TinyTask(), replace(tiny_run, images=(str(tmp_path / "in"),), out=tmp_path / "out")
    )
    expected = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"][0]
    status, answer = send(port, files["dicom"])
    assert status == 200 and answer["boxes"] == expected["boxes"] and answer["boxes"]
    assert answer["probabilities"] == expected["probabilities"] and (
        answer["width"],
        answer["height"],
    ) == (96, 128)
    assert answer["deep"] is None and answer["picture"].startswith("data:image/png;base64,")


def test_deep_values_travel(port, files):
    deep = send(port, files["deep"])[1]["deep"]
    stored = np.frombuffer(base64.b64decode(deep["stored"]), "<u2").reshape(
        deep["rows"], deep["columns"]
    )
    assert (
        np.abs(deep["low"] + deep["step"] * stored - xray().astype(float) * 16).max() < deep["step"]
    )


def test_facts_of_the_run(port):
    facts = json.loads(ask(port, "/run")[2])
    assert facts == {
        "run": "run",
        "task": "White rectangles",
        "notes": [],
        "thresholds": {"box": 0.12},
        "colours": {"box": "#ffb000"},
        "most_bytes": 2**20,
    }


@pytest.mark.parametrize(
    "name, status, sentence",
    [
        ("text", 422, "This file is neither a DICOM, PNG nor JPEG file."),
        ("empty", 422, "This file is empty."),
        ("cut", 422, "This file cannot be decoded"),
        ("huge", 422, "This file states 9000 x 9000 pixels"),
        ("zeros", 422, "This file is neither"),
        ("large", 413, "This file has more than 1 MB, and an X-ray has less."),
    ],
)
def test_bad_files_get_a_sentence(port, files, tmp_path, name, status, sentence):
    content = {
        "text": b"words " * 30,
        "empty": b"",
        "cut": files["dicom"][:1000],
        "zeros": bytes(5000),
        "huge": huge_png(tmp_path / "huge.png", 9000).read_bytes(),
        "large": bytes(2**20 + 1),
    }[name]
    found, answer = send(port, content)
    assert found == status and answer["error"].startswith(sentence) and "\n" not in answer["error"]
    assert "upload" not in answer["error"] and "/tmp" not in answer["error"]
    assert send(port, files["png"])[0] == 200


def test_an_upload_that_hides_its_length(port):
    def parts():
        for _ in range(40):
            yield bytes(2**16)

    assert send(port, parts())[0] == 413


def test_an_upload_that_is_too_slow(predictor):
    with (
        serving(predictor, upload_seconds=0.1) as port,
        socket.create_connection(("127.0.0.1", port), 30) as slow,
    ):
        slow.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nfirst"
        )
        answer = slow.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408") and b"content-security-policy" in answer


def test_an_upload_that_takes_long_to_decode(files, predictor):
    """The reader's limit is that of the service; what it says reaches the page."""
    with serving(predictor, read_seconds=0.001) as port:
        status, answer = send(port, files["png"])
    assert status == 422 and answer["error"] == "This file took more than 0.001 seconds to decode."


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "192.168.0.7:8000"]
)
def test_other_hosts_are_refused(port, host):
    """A name that an attacker points at 127.0.0.1 (DNS rebinding) arrives with that name in Host."""
    assert ask(port, "/", headers={"Host": host})[0] == 400
    assert ask(port, "/predict", "POST", headers={"Host": host})[0] == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_pages_are_refused(port, files, headers):
    status, answer = send(port, files["png"], **headers)
    assert status == 403 and answer["error"].endswith("may not use this service.")


def test_the_own_page_is_served(port, files):
    assert (
        send(
            port,
            files["png"],
            Origin=f"http://127.0.0.1:{port}",
            **{"Sec-Fetch-Site": "same-origin"},
        )[0]
        == 200
    )


@pytest.mark.parametrize(
    "path, kind", [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "javascript")]
)
def test_page_files_and_safe_headers(port, path, kind):
    status, headers, text = ask(port, path)
    assert status == 200 and kind in headers["content-type"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    addresses = re.findall(r"https?://[^\"')\s]+", text)
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}, "nothing is loaded from elsewhere"
    if path == "/":
        assert "Not for diagnosis." in text and "<style" not in text and "onclick" not in text


@pytest.mark.parametrize(
    "path", ["/page.html", "/../server.py", "/%2e%2e/server.py", "/docs", "/predict"]
)
def test_nothing_else_is_served(port, path):
    assert ask(port, path)[0] in (404, 405)


def test_mistakes_of_our_own_are_a_sentence(port, files, monkeypatch, predictor):
    monkeypatch.setattr(predictor, "predict", lambda pictures: 1 / 0)
    status, answer = send(port, files["png"])
    assert status == 500 and answer["error"].startswith("Something went wrong here")


def test_uploads_are_deleted_and_take_turns(predictor, files, tmp_path, monkeypatch):
    """Four at once are predicted one after the other, while the service goes on answering."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    inside, most, original = [], [], predictor.predict

    def watched(pictures):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return original(pictures)

    monkeypatch.setattr(predictor, "predict", watched)
    before = set(tmp_path.iterdir())
    with serving(predictor) as port:
        threads = [threading.Thread(target=send, args=(port, files["png"])) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert ask(port, "/run")[0] == 200
        for thread in threads:
            thread.join()
    assert most == [1, 1, 1, 1] and set(tmp_path.iterdir()) == before


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(InputError, match="port .* cannot be used .*: choose another --port"):
            listen(taken.getsockname()[1])
    with pytest.raises(InputError, match="choose another --port"):
        listen(70_000)
    with listen(0) as own:
        assert own.getsockname()[0] == "127.0.0.1"


def test_no_run(tmp_path):
    with pytest.raises(InputError, match="holds no trained fold"):
        serve(TinyTask(), Config(task="tiny", run="gone", working=tmp_path))


def test_the_script(pipeline):
    """serve.py says where its page is, serves it, and ends with Ctrl-C."""
    process = subprocess.Popen(
        command("serve", *pipeline.flags, "--port", "0", "--tta", "none"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    try:
        lines = iter(process.stdout.readline, "")
        found = (re.search(r"open (http://127.0.0.1:\d+/) in a browser", line) for line in lines)
        address = next(match[1] for match in found if match)
        assert json.loads(ask(int(address.split(":")[-1].strip("/")), "/run")[2])["run"] == "tiny"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 1, 130, -2) and "Traceback" not in process.stdout.read()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (apt-get install chromium)")
def test_the_page_in_chromium(port, files, tmp_path):
    address = f"http://127.0.0.1:{port}/"
    for name, content in files.items():
        (tmp_path / f"{name}.file").write_bytes(content)
    (tmp_path / "words.dcm").write_text("words " * 50)
    with Browser(tmp_path / "profile") as page:
        page.open(address)
        page.wait("run")
        assert (
            "Not for diagnosis." in page.run("document.body.innerText")
            and page.run("document.title") == "White rectangles"
        )
        page.choose_files(
            "#files", *(tmp_path / name for name in ("deep.file", "png.file", "words.dcm"))
        )
        page.wait("items.length === 3 && !working")
        assert (
            page.run("[...document.querySelectorAll('#list small')].map(e => e.textContent)[2]")
            == "not read"
        )
        expected = page.run("chosen.answer.boxes.filter(box => box.above_threshold).length")
        assert expected and page.run("document.querySelectorAll('#boxes rect').length") == expected
        assert page.run("document.querySelectorAll('#findings li').length") == expected
        scores = page.run("[...document.querySelectorAll('#findings b')].map(e => +e.textContent)")
        assert scores == sorted(scores, reverse=True) and min(scores) > 0.12
        assert page.run("document.querySelectorAll('#probabilities li').length") == 3
        move_sliders(page)
        use_keys(page)
        page.resize(420, 800)
        assert page.run("document.documentElement.scrollWidth") <= 420, (
            "nothing sticks out of a narrow window"
        )
        page.run("$('clear').click()")
        assert page.run("$('desk').hidden && !items.length")
        refused = [problem for problem in page.complaints() if "422" not in str(problem)]
        assert not refused and all(
            url.startswith((address, "data:", "about:")) for url in page.requested()
        )


def slide(page, name, value):
    page.run(f"$('{name}').value = {value}; $('{name}').dispatchEvent(new Event('input'))")


def move_sliders(page):
    """The first image is deep: boxes follow the threshold, the picture follows the window, and both come back."""
    every = page.run("chosen.answer.boxes.length")
    slide(page, "threshold", 0)
    assert page.run("document.querySelectorAll('#boxes rect').length") == every
    slide(page, "threshold", 1)
    assert page.run("document.querySelectorAll('#boxes rect').length") == 0
    assert "No box is above the threshold" in page.run("$('more').textContent")
    page.run("$('fitted').click()")
    assert page.run("$('threshold-said').textContent") == "0.120"
    pixels = "[...$('picture').getContext('2d').getImageData(0, 0, 96, 128).data].filter((v, i) => i % 4 === 0)"
    before = np.array(page.run(pixels))
    assert np.array_equal(before, (xray() * (255 / 250)).round().astype(int).ravel())
    slide(page, "level", 480), slide(page, "width", 960)
    seen = np.array(page.run(pixels))
    assert (
        np.abs(seen - np.clip(xray().ravel() * (16 / 960), 0, 1) * 255).max() <= 1.01
        and (seen != before).any()
    )
    page.run("$('as-read').click()")
    assert np.array_equal(page.run(pixels), before)


def use_keys(page):
    """Arrows walk through the list; an 8-bit picture has no window, a broken file a sentence."""
    page.run("$('list').querySelector('[aria-current=true]').focus()")
    page.press("ArrowDown")
    assert page.run("chosen.file.name") == "png.file" and page.run("$('window').hidden")
    page.press("ArrowDown")
    assert (
        page.run("$('message').textContent") == "This file is neither a DICOM, PNG nor JPEG file."
    )
    assert page.run("document.activeElement.getAttribute('aria-current')") == "true" and page.run(
        "$('result').hidden"
    )
    page.press("ArrowDown"), page.press("ArrowUp")
    assert page.run("chosen.file.name") == "png.file"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (apt-get install chromium)")
def test_the_index_in_chromium(tiny_run, tmp_path):
    for seed in range(3):
        png(tmp_path / "in" / f"{seed}.png", xray(seed=seed))
    config = replace(tiny_run, images=(str(tmp_path / "in"),), out=tmp_path / "out")
    index = predict_images(TinyTask(), config)
    with Browser(tmp_path / "profile") as page:
        page.open(index.as_uri())
        shown = "[...document.querySelectorAll('.cards figure')].filter(f => !f.hidden).map(f => f.dataset.name)"
        scores = page.run("figures.map(figure => +figure.dataset.score)")
        assert scores == sorted(scores, reverse=True)
        page.run("wish('sort').value = 'name'; wish('sort').dispatchEvent(new Event('change'))")
        assert page.run(shown) == ["0.png", "1.png", "2.png"]
        page.run("wish('name').value = '1.P'; show()")
        assert page.run(shown) == ["1.png"] and page.run("wish('count').textContent") == "1 shown"
        page.run("wish('name').value = ''; wish('least').value = 1; show()")
        assert page.run(shown) == [] and not page.run("wish('none').hidden")
        page.run(
            "wish('least').value = 0; show(); document.querySelectorAll('img').forEach(i => i.loading = 'eager')"
        )
        page.wait("[...document.images].every(image => image.naturalWidth)")
        assert not page.complaints()
