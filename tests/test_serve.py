"""The local page: what its service answers and refuses, and the page itself in Chromium, where there is one."""

import asyncio
import base64
import json
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
import uvicorn
from browser import CHROMIUM, Browser
from starlette.testclient import TestClient
from steps import ROOT, command
from test_image_folder import huge_png, png, xray
from test_images import make_dataset, save
from tiny_task import TinyTask

from cxr.config import Config
from cxr.disk import InputError
from cxr.predict_images import predict_images
from cxr.predictor import Predictor
from cxr.serve_page import listen, serve
from cxr.server import Limits, create_app

HERE = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def predictor(tiny_run):
    return Predictor(TinyTask(), tiny_run)


@pytest.fixture(scope="module")
def client(predictor):
    app = create_app(predictor, Limits(most_bytes=2**20, read_seconds=60))
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as client:
        yield client


def send(client, content, **headers):
    """(status, answer) of an upload."""
    response = client.post("/predict", content=content, headers=headers)
    return response.status_code, response.json()


@pytest.fixture
def files(tmp_path):
    """{name: bytes} of images that can be read."""
    deep = make_dataset(xray().astype(np.uint16) * 16, bits=12)
    return {"png": png(tmp_path / "a.png", xray()).read_bytes(),
            "dicom": save(tmp_path / "a.dcm", make_dataset(xray())).read_bytes(),
            "deep": save(tmp_path / "deep.dcm", deep).read_bytes()}


def test_the_answer_is_that_of_step_04(client, files, tiny_run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.dcm").write_bytes(files["dicom"])
    predict_images(TinyTask(), replace(tiny_run, images=(str(tmp_path / "in"),), out=tmp_path / "out"))
    expected = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"][0]
    status, answer = send(client, files["dicom"])
    assert status == 200 and answer["boxes"] == expected["boxes"] and answer["boxes"]
    assert answer["probabilities"] == expected["probabilities"] and (answer["width"], answer["height"]) == (96, 128)
    assert answer["deep"] is None and answer["picture"].startswith("data:image/png;base64,")


def test_deep_values_travel(client, files):
    deep = send(client, files["deep"])[1]["deep"]
    stored = np.frombuffer(base64.b64decode(deep["stored"]), "<u2").reshape(deep["rows"], deep["columns"])
    assert np.abs(deep["low"] + deep["step"] * stored - xray().astype(float) * 16).max() < deep["step"]


def test_facts_of_the_run(client):
    facts = client.get("/run").json()
    assert facts == {"run": "run", "task": "White rectangles", "notes": [], "thresholds": {"box": 0.12},
                     "colours": {"box": "#ffb000"}, "most_bytes": 2**20}


@pytest.mark.parametrize("name, status, sentence", [
    ("text", 422, "This file is neither a DICOM, PNG nor JPEG file."), ("empty", 422, "This file is empty."),
    ("cut", 422, "This file cannot be decoded"), ("huge", 422, "This file states 9000 x 9000 pixels"),
    ("zeros", 422, "This file is neither"), ("large", 413, "This file has more than 1 MB, and an X-ray has less.")])
def test_bad_files_get_a_sentence(client, files, tmp_path, name, status, sentence):
    content = {"text": b"words " * 30, "empty": b"", "cut": files["dicom"][:1000], "zeros": bytes(5000),
               "huge": huge_png(tmp_path / "huge.png", 9000).read_bytes(), "large": bytes(2**20 + 1)}[name]
    found, answer = send(client, content)
    assert found == status and answer["error"].startswith(sentence) and "\n" not in answer["error"]
    assert "upload" not in answer["error"] and "/tmp" not in answer["error"]
    assert send(client, files["png"])[0] == 200


def test_an_upload_that_hides_its_length(client):
    def parts():
        for _ in range(40):
            yield bytes(2**16)
    assert send(client, parts())[0] == 413


def test_an_upload_that_is_too_slow(predictor):
    async def never():
        await asyncio.sleep(60)

    async def attempt():
        app, sent = create_app(predictor, Limits(upload_seconds=0.1)), []
        scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "query_string": b"",
                 "headers": [(b"host", b"localhost")], "scheme": "http", "http_version": "1.1", "server": ("localhost", 1)}

        async def keep(message):
            sent.append(message)
        await app(scope, never, keep)
        return sent

    start, body = asyncio.run(attempt())
    assert start["status"] == 408 and b"did not arrive within" in body["body"]


def test_an_upload_that_takes_long_to_decode(client, files, monkeypatch, predictor):
    """The reader's limit is that of the service; what it says reaches the page."""
    app = create_app(predictor, Limits(read_seconds=0.001))
    with TestClient(app, base_url=HERE) as slow:
        status, answer = send(slow, files["png"])
    assert status == 422 and answer["error"] == "This file took more than 0.001 seconds to decode."


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "192.168.0.7:8000"])
def test_other_hosts_are_refused(client, host):
    """A name that an attacker points at 127.0.0.1 (DNS rebinding) arrives with that name in Host."""
    assert client.get("/", headers={"Host": host}).status_code == 400
    assert client.post("/predict", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("headers", [
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:9999"},
    {"Sec-Fetch-Site": "cross-site"}, {"Origin": HERE, "Sec-Fetch-Site": "same-site"}])
def test_other_pages_are_refused(client, files, headers):
    status, answer = send(client, files["png"], **headers)
    assert status == 403 and answer["error"].endswith("may not use this service.")


def test_the_own_page_is_served(client, files):
    assert send(client, files["png"], Origin=HERE, **{"Sec-Fetch-Site": "same-origin"})[0] == 200


@pytest.mark.parametrize("path, kind", [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "javascript")])
def test_page_files_and_safe_headers(client, path, kind):
    response = client.get(path)
    assert response.status_code == 200 and kind in response.headers["content-type"]
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    addresses = re.findall(r"https?://[^\"')\s]+", response.text)
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}, "nothing is loaded from elsewhere"
    if path == "/":
        assert "Not for diagnosis." in response.text and "<style" not in response.text and "onclick" not in response.text


@pytest.mark.parametrize("path", ["/page.html", "/../server.py", "/%2e%2e/server.py", "/docs", "/predict"])
def test_nothing_else_is_served(client, path):
    assert client.get(path).status_code in (404, 405)


def test_mistakes_of_our_own_are_a_sentence(client, files, monkeypatch, predictor):
    monkeypatch.setattr(predictor, "predict", lambda pictures: 1 / 0)
    status, answer = send(client, files["png"])
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
    with TestClient(create_app(predictor), base_url=HERE) as client:
        threads = [threading.Thread(target=send, args=(client, files["png"])) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert client.get("/run").status_code == 200
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
    process = subprocess.Popen(command("serve", *pipeline.flags, "--port", "0", "--tta", "none"), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    try:
        lines = iter(process.stdout.readline, "")
        address = next(match[1] for match in (re.search(r"open (http://127.0.0.1:\d+/) in a browser", line) for line in lines) if match)
        with urllib.request.urlopen(address + "run", timeout=30) as answer:
            assert json.load(answer)["run"] == "tiny"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 1, 130, -2) and "Traceback" not in process.stdout.read()
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def address(predictor):
    """Address of the page from a real server."""
    with listen(0) as listening:
        server = uvicorn.Server(uvicorn.Config(create_app(predictor), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join(10)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (apt-get install chromium)")
def test_the_page_in_chromium(address, files, tmp_path):
    for name, content in files.items():
        (tmp_path / f"{name}.file").write_bytes(content)
    (tmp_path / "words.dcm").write_text("words " * 50)
    with Browser(tmp_path / "profile") as page:
        page.open(address)
        page.wait("run")
        assert "Not for diagnosis." in page.run("document.body.innerText") and page.run("document.title") == "White rectangles"
        page.choose_files("#files", *(tmp_path / name for name in ("deep.file", "png.file", "words.dcm")))
        page.wait("items.length === 3 && !working")
        assert page.run("[...document.querySelectorAll('#list small')].map(e => e.textContent)[2]") == "not read"
        expected = page.run("chosen.answer.boxes.filter(box => box.above_threshold).length")
        assert expected and page.run("document.querySelectorAll('#boxes rect').length") == expected
        assert page.run("document.querySelectorAll('#findings li').length") == expected
        scores = page.run("[...document.querySelectorAll('#findings b')].map(e => +e.textContent)")
        assert scores == sorted(scores, reverse=True) and min(scores) > 0.12
        assert page.run("document.querySelectorAll('#probabilities li').length") == 3
        move_sliders(page)
        use_keys(page)
        page.resize(420, 800)
        assert page.run("document.documentElement.scrollWidth") <= 420, "nothing sticks out of a narrow window"
        page.run("$('clear').click()")
        assert page.run("$('desk').hidden && !items.length")
        refused = [problem for problem in page.complaints() if "422" not in str(problem)]
        assert not refused and all(url.startswith((address, "data:", "about:")) for url in page.requested())


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
    assert np.abs(seen - np.clip(xray().ravel() * (16 / 960), 0, 1) * 255).max() <= 1.01 and (seen != before).any()
    page.run("$('as-read').click()")
    assert np.array_equal(page.run(pixels), before)


def use_keys(page):
    """Arrows walk through the list; an 8-bit picture has no window, a broken file a sentence."""
    page.run("$('list').querySelector('[aria-current=true]').focus()")
    page.press("ArrowDown")
    assert page.run("chosen.file.name") == "png.file" and page.run("$('window').hidden")
    page.press("ArrowDown")
    assert page.run("$('message').textContent") == "This file is neither a DICOM, PNG nor JPEG file."
    assert page.run("document.activeElement.getAttribute('aria-current')") == "true" and page.run("$('result').hidden")
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
        page.run("wish('least').value = 0; show(); document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
        page.wait("[...document.images].every(image => image.naturalWidth)")
        assert not page.complaints()
