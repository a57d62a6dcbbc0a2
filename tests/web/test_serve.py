"""The local page: what its service answers and refuses, and the page itself in Chromium."""

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

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from steps import ROOT, command
from test_images import make_dataset, save
from tiny_task import TINY_TASK
from untrained import write_untrained_run
from xrays import huge_png, png, xray

from cxr.inference.predictor import Predictor
from cxr.steps.predict.predict_images import predict_images
from cxr.steps.serve.connections import make_server
from cxr.steps.serve.serve import listen
from cxr.steps.serve.server import Limits, create_app
from cxr.system.errors import InputError
from cxr.tasks import TASKS

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium here (apt-get install chromium)"
)
MIB = 2**20


@pytest.fixture(scope="module")
def predictor(tiny_run):
    return Predictor(TINY_TASK, tiny_run)


@contextmanager
def serving(predictor, door=None, **limits):
    """Port of a real server in a thread."""
    app = create_app(predictor, Limits(**limits), door)
    with listen(0) as listening:
        server = make_server(app, "critical")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while thread.is_alive() and not server.started:
            time.sleep(0.005)
        assert server.started
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def port(predictor):
    with serving(predictor, most_bytes=MIB, read_seconds=60) as port:
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
    lateral = make_dataset(xray(), ViewPosition="LL")
    return {
        "png": png(tmp_path / "a.png", xray()).read_bytes(),
        "dicom": save(tmp_path / "a.dcm", make_dataset(xray())).read_bytes(),
        "deep": save(tmp_path / "deep.dcm", deep).read_bytes(),
        "lateral": save(tmp_path / "lateral.dcm", lateral).read_bytes(),
    }


def test_the_answer_is_that_of_step_04(port, files, tiny_run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.dcm").write_bytes(files["dicom"])
    out = tmp_path / "out"
    predict_images(TINY_TASK, tiny_run.replace(images=(str(tmp_path / "in"),), out=out))
    expected = json.loads((out / "predictions.json").read_text())["images"][0]
    status, answer = send(port, files["dicom"])
    assert status == 200
    assert answer["boxes"]
    assert answer["boxes"] == expected["boxes"]
    assert answer["probabilities"] == expected["probabilities"]
    assert (answer["width"], answer["height"]) == (96, 128)
    assert answer["deep"] is None
    assert answer["picture"].startswith("data:image/png;base64,")


def test_what_is_no_frontal_chest_is_said(port, tmp_path):
    lateral = save(tmp_path / "l.dcm", make_dataset(xray(), ViewPosition="LATERAL"))
    _, answer = send(port, lateral.read_bytes())
    assert answer["not_frontal_chest"] == "the view is LATERAL, which is not frontal"
    assert answer["boxes"]


def test_deep_values_travel(port, files):
    _, answer = send(port, files["deep"])
    deep = answer["deep"]
    stored = np.frombuffer(base64.b64decode(deep["stored"]), "<u2")
    values = deep["low"] + deep["step"] * stored.reshape(deep["rows"], deep["columns"])
    assert np.abs(values - xray().astype(float) * 16).max() < deep["step"]


def test_facts_of_the_run(port):
    facts = json.loads(ask(port, "/run")[2])
    assert facts == {
        "run": "run",
        "task": "White rectangles",
        "result": "boxes",
        "notes": [],
        "thresholds": {"box": 0.12},
        "colours": {"box": "#ffb000"},
        "most_bytes": MIB,
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
        "large": bytes(MIB + 1),
    }[name]
    answered_status, answer = send(port, content)
    assert answered_status == status
    assert answer["error"].startswith(sentence)
    for words in ("\n", "upload", "/tmp"):
        assert words not in answer["error"]
    assert send(port, files["png"])[0] == 200


def test_an_upload_that_hides_its_length(port):
    parts = (bytes(2**16) for _ in range(40))
    assert send(port, parts)[0] == 413


def test_an_upload_that_is_too_slow(predictor):
    with (
        serving(predictor, upload_seconds=0.1) as port,
        socket.create_connection(("127.0.0.1", port), 30) as slow,
    ):
        head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        slow.sendall(head + b"first")
        answer = slow.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"content-security-policy" in answer


def test_an_upload_that_takes_long_to_decode(files, predictor):
    """The reader's limit is that of the service; what it says reaches the page."""
    with serving(predictor, read_seconds=0.001) as port:
        status, answer = send(port, files["png"])
    assert status == 422
    assert answer["error"] == "This file took more than 0.001 seconds to decode."


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "192.168.0.7:8000"]
)
def test_other_hosts_are_refused(port, host):
    """A name that an attacker points at 127.0.0.1 (DNS rebinding) arrives in Host."""
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
    assert status == 403
    assert answer["error"].endswith("may not use this service.")


def test_the_own_page_is_served(port, files):
    headers = {"Origin": f"http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}
    assert send(port, files["png"], **headers)[0] == 200


@pytest.mark.parametrize(
    "path, content_type",
    [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "javascript")],
)
def test_page_files_and_safe_headers(port, path, content_type):
    status, headers, text = ask(port, path)
    assert status == 200
    assert content_type in headers["content-type"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    addresses = re.findall(r"https?://[^\"')\s]+", text)
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}, "nothing is loaded from elsewhere"
    if path == "/":
        assert "Not for diagnosis." in text
        assert "<style" not in text
        assert "onclick" not in text


@pytest.mark.parametrize(
    "path", ["/page.html", "/../server.py", "/%2e%2e/server.py", "/docs", "/predict"]
)
def test_nothing_else_is_served(port, path):
    assert ask(port, path)[0] in (404, 405)


def test_mistakes_of_our_own_are_a_sentence(port, files, monkeypatch, predictor):
    monkeypatch.setattr(predictor, "predict", lambda _: 1 / 0)
    status, answer = send(port, files["png"])
    assert status == 500
    assert answer["error"].startswith("Something went wrong here")


def test_uploads_are_deleted_and_take_turns(predictor, files, tmp_path, monkeypatch):
    """Four at once are predicted one after the other, while the service goes on answering."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    original = predictor.predict
    inside = []
    at_a_time = []

    def watched(pictures):
        inside.append(1)
        at_a_time.append(len(inside))
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
    assert at_a_time == [1, 1, 1, 1]
    assert set(tmp_path.iterdir()) == before


def test_a_port_that_is_taken():
    words = r"port .* cannot be used .*: choose another --port"
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(InputError, match=words),
    ):
        listen(taken.getsockname()[1])
    with pytest.raises(InputError, match="choose another --port"):
        listen(70_000)
    with listen(0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


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
        address = read_address(process)
        port = int(address.split(":")[-1].strip("/"))
        assert json.loads(ask(port, "/run")[2])["run"] == "tiny"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 1, 130, -2)
        assert "Traceback" not in process.stdout.read()
    finally:
        process.kill()
        process.communicate()


def read_address(process):
    """What serve.py says is to be opened."""
    for line in iter(process.stdout.readline, ""):
        match = re.search(r"open (http://127.0.0.1:\d+/) in a browser", line)
        if match:
            return match[1]
    raise AssertionError("serve.py has ended")


# --- in the browser


def texts(page, selector):
    """What the elements of the page say."""
    return page.run(f"[...document.querySelectorAll('{selector}')].map(e => e.textContent)")


def count(page, selector):
    return page.run(f"document.querySelectorAll('{selector}').length")


def write_files(folder, files):
    """Paths of files {name: content}."""
    paths = []
    for name, content in files.items():
        path = folder / f"{name}.file"
        path.write_bytes(content)
        paths.append(path)
    return paths


@needs_chromium
def test_the_page_marks_what_is_no_frontal_chest(port, files, tmp_path):
    paths = write_files(tmp_path, {"lateral": files["lateral"], "png": files["png"]})
    with Browser(tmp_path / "profile") as page:
        page.open(f"http://127.0.0.1:{port}/")
        page.wait("run")
        page.choose_files("#files", *paths)
        page.wait("items.length === 2 && !working")
        words = page.run("$('other').textContent")
        assert words.startswith("No frontal chest X-ray by its header: the view is LL,")
        assert not page.run("$('other').hidden")
        page.run("choose(items[1])")
        assert page.run("$('other').hidden")


@needs_chromium
def test_the_page_in_chromium(port, files, tmp_path):
    address = f"http://127.0.0.1:{port}/"
    deep_and_png = write_files(tmp_path, {"deep": files["deep"], "png": files["png"]})
    words = tmp_path / "words.dcm"
    words.write_text("words " * 50)
    with Browser(tmp_path / "profile") as page:
        page.open(address)
        page.wait("run")
        assert "Not for diagnosis." in page.run("document.body.innerText")
        assert page.run("document.title") == "White rectangles"
        page.choose_files("#files", *deep_and_png, words)
        page.wait("items.length === 3 && !working")
        assert texts(page, "#list small")[2] == "not read"

        expected = page.run("chosen.answer.boxes.filter(box => box.above_threshold).length")
        assert expected
        assert count(page, "#boxes rect") == expected
        assert count(page, "#findings li") == expected
        scores = [float(text) for text in texts(page, "#findings b")]
        assert scores == sorted(scores, reverse=True)
        assert min(scores) > 0.12
        assert count(page, "#probabilities li") == 3
        move_sliders(page)
        use_keys(page)

        page.resize(420, 800)
        width = page.run("document.documentElement.scrollWidth")
        assert width <= 420, "nothing sticks out of a narrow window"
        page.run("$('clear').click()")
        assert page.run("$('desk').hidden && !items.length")
        unexpected = [problem for problem in page.complaints() if "422" not in str(problem)]
        assert not unexpected
        for url in page.requested():
            assert url.startswith((address, "data:", "about:"))


def slide(page, name, value):
    page.run(f"$('{name}').value = {value}; $('{name}').dispatchEvent(new Event('input'))")


def canvas_of(page):
    """Gray values of the picture that is shown, row by row."""
    data = "$('picture').getContext('2d').getImageData(0, 0, 96, 128).data"
    return np.array(page.run(f"[...{data}].filter((value, i) => i % 4 === 0)"))


def move_sliders(page):
    """The first image is deep: boxes follow the threshold, the picture follows the window.

    Both come back.
    """
    every = page.run("chosen.answer.boxes.length")
    slide(page, "threshold", 0)
    assert count(page, "#boxes rect") == every
    slide(page, "threshold", 1)
    assert count(page, "#boxes rect") == 0
    assert "No box is above the threshold" in page.run("$('more').textContent")
    page.run("$('fitted').click()")
    assert page.run("$('threshold-said').textContent") == "0.120"

    before = canvas_of(page)
    assert np.array_equal(before, (xray() * (255 / 250)).round().astype(int).ravel())
    slide(page, "level", 480)
    slide(page, "width", 960)
    windowed = canvas_of(page)
    expected = np.clip(xray().ravel() * (16 / 960), 0, 1) * 255
    assert np.abs(windowed - expected).max() <= 1.01
    assert (windowed != before).any()
    page.run("$('as-read').click()")
    assert np.array_equal(canvas_of(page), before)


@needs_chromium
@pytest.mark.parametrize("is_negative", [False, True])
def test_the_window_of_negatives_and_of_no_number(port, tmp_path, is_negative):
    """A window of NaN is none: the slider begins with all values, in the order of the picture."""
    tags = {"PresentationLUTShape": "INVERSE"} if is_negative else {}
    values = xray().astype(np.uint16) * 16
    dataset = make_dataset(values, bits=12, WindowCenter="123", WindowWidth="456", **tags)
    content = save(tmp_path / "a.dcm", dataset).read_bytes()
    for number in (b"123 ", b"456 "):
        assert content.count(number) == 1
        content = content.replace(number, b"NaN ")
    assert send(port, content)[0] == 200

    with Browser(tmp_path / "profile") as page:
        page.open(f"http://127.0.0.1:{port}/")
        page.wait("run")
        page.choose_files("#files", *write_files(tmp_path, {"deep": content}))
        page.wait("items.length === 1 && !working")
        shares = values.ravel() / values.max()
        for level, width in ((None, None), (480, 960)):
            if level is not None:
                shares = np.clip(values.ravel() / width, 0, 1)
                slide(page, "level", level)
                slide(page, "width", width)
            expected = 255 * (1 - shares if is_negative else shares)
            assert np.abs(canvas_of(page) - expected).max() <= 1.01


def use_keys(page):
    """Arrows walk through the list; an 8-bit picture has no window, a broken file a sentence."""
    page.run("$('list').querySelector('[aria-current=true]').focus()")
    page.press("ArrowDown")
    assert page.run("chosen.file.name") == "png.file"
    assert page.run("$('window').hidden")
    page.press("ArrowDown")
    message = page.run("$('message').textContent")
    assert message == "This file is neither a DICOM, PNG nor JPEG file."
    assert page.run("document.activeElement.getAttribute('aria-current')") == "true"
    assert page.run("$('result').hidden")
    page.press("ArrowDown")
    page.press("ArrowUp")
    assert page.run("chosen.file.name") == "png.file"


@needs_chromium
def test_tab_reaches_everything_and_shows_where_it_is(port, files, tmp_path):
    """From the drop field to the last button, in the order in which they stand."""
    controls = "[...document.querySelectorAll('input, button')]"
    reachable = f"{controls}.filter(x => x.checkVisibility() && !x.disabled)"
    frame = (
        "getComputedStyle(document.activeElement.id === 'files' ? $('drop')"
        " : document.activeElement).outlineWidth"
    )
    with Browser(tmp_path / "profile") as page:
        page.open(f"http://127.0.0.1:{port}/")
        page.wait("run")
        page.choose_files("#files", *write_files(tmp_path, {"deep": files["deep"]}))
        page.wait("items.length === 1 && !working")
        slide(page, "threshold", 0.5)
        slide(page, "level", 480)
        expected = page.run(f"{reachable}.map(x => x.id)")
        assert set(expected) == {
            *("files", "", "clear", "threshold", "fitted", "level", "width", "as-read")
        }
        page.run("document.activeElement.blur(), window.getSelection().removeAllRanges()")
        reached = []
        for _ in expected:
            page.press("Tab", 9)
            reached.append(page.run("document.activeElement.id"))
            assert page.run(frame) == "3px", f"{reached[-1]} does not show that it has the focus"
        assert reached == expected

        page.run("$('threshold').focus()")
        before = float(page.run("$('threshold').value"))
        page.press("ArrowRight", 39)
        assert float(page.run("$('threshold').value")) > before
        page.run("$('fitted').focus()")
        page.press("Enter", 13, "\r")
        assert page.run("$('threshold-said').textContent") == "0.120"
        assert page.run("document.activeElement.id") == "threshold", "the focus is not lost"
        page.run("$('as-read').focus()")
        page.press("Enter", 13, "\r")
        assert page.run("chosen.window") is None
        assert page.run("document.activeElement.id") == "level"
        page.run("$('clear').focus()")
        page.press(" ", 32, " ")
        assert page.run("$('desk').hidden")
        assert not page.complaints()


@needs_chromium
def test_masks_in_chromium(files, tmp_path):
    """Every pixel is above the thresholds, so the mask is the whole picture."""
    rule = {"rule": "first", "head": 0.0, "top": 0.0, "area": 0, "bottom": 0.0, "total": 0}
    settings = write_untrained_run(tmp_path / "working", "pneumothorax", rule)
    predictor = Predictor(TASKS["pneumothorax"], settings)
    with serving(predictor) as port, Browser(tmp_path / "profile") as page:
        page.open(f"http://127.0.0.1:{port}/")
        page.wait("run")
        page.choose_files("#files", *write_files(tmp_path, {"a": files["png"]}))
        page.wait("items.length === 1 && !working")
        assert page.run("$('boxes').getBBox().width") >= 90
        assert count(page, "#boxes path") == 1
        [summary] = texts(page, "#list small")
        assert summary.startswith("Pneumothorax, score 0.")
        assert texts(page, "#findings small") == ["100.0 % of the picture"]
        assert not page.run("$('threshold').checkVisibility()")
        assert page.run("$('chances').hidden")
        assert not page.complaints()


@needs_chromium
def test_classes_in_chromium(files, tmp_path):
    settings = write_untrained_run(tmp_path / "working", "covid")
    predictor = Predictor(TASKS["covid"], settings)
    with serving(predictor) as port, Browser(tmp_path / "profile") as page:
        page.open(f"http://127.0.0.1:{port}/")
        page.wait("run")
        page.choose_files("#files", *write_files(tmp_path, {"a": files["png"]}))
        page.wait("items.length === 1 && !working")
        assert count(page, "#probabilities li") == 4
        [summary] = texts(page, "#list small")
        best = texts(page, "#probabilities li.best span")[0]
        assert summary.startswith(best)
        assert not page.run("$('marks').checkVisibility()")
        assert page.run("$('notes').hidden"), "no thresholds that step 05 would have fitted"
        assert page.run("$('study').hidden")
        assert not page.complaints()


@needs_chromium
def test_studies_in_chromium(tmp_path):
    """Of two files of a study each shows the mean of both."""
    settings = write_untrained_run(tmp_path / "working", "covid")
    scans = []
    for seed in range(2):
        dataset = make_dataset(xray(seed=seed), StudyInstanceUID="1.2.3")
        scans.append(save(tmp_path / f"{seed}.dcm", dataset))
    predictor = Predictor(TASKS["covid"], settings)
    with serving(predictor) as port, Browser(tmp_path / "profile") as page:
        page.open(f"http://127.0.0.1:{port}/")
        page.wait("run")
        page.choose_files("#files", *scans)
        page.wait("items.length === 2 && !working")
        assert texts(page, "#study-said") == ["Study of 2 images"]
        assert count(page, "#study-probabilities li") == 4
        values = [float(text) for text in texts(page, "#study-probabilities li span")[1::2]]
        mean = page.run(
            "Object.keys(studies['1.2.3'].probabilities).map(name => items.reduce("
            "(sum, item) => sum + item.answer.probabilities[name] / 2, 0))"
        )
        assert values == pytest.approx(mean, abs=6e-4)
        assert not page.complaints()


@needs_chromium
def test_the_index_in_chromium(tiny_run, tmp_path):
    for seed in range(3):
        png(tmp_path / "in" / f"{seed}.png", xray(seed=seed))
    settings = tiny_run.replace(images=(str(tmp_path / "in"),), out=tmp_path / "out")
    index = predict_images(TINY_TASK, settings)
    figures = "[...document.querySelectorAll('.cards figure')]"
    shown = f"{figures}.filter(figure => !figure.hidden).map(figure => figure.dataset.name)"
    with Browser(tmp_path / "profile") as page:
        page.open(index.as_uri())
        scores = page.run("figures.map(figure => +figure.dataset.score)")
        assert scores == sorted(scores, reverse=True)
        page.run("wish('sort').value = 'name'; wish('sort').dispatchEvent(new Event('change'))")
        assert page.run(shown) == ["0.png", "1.png", "2.png"]
        page.run("wish('name').value = '1.P'; show()")
        assert page.run(shown) == ["1.png"]
        assert page.run("wish('count').textContent") == "1 shown"
        page.run("wish('name').value = ''; wish('least').value = 1; show()")
        assert page.run(shown) == []
        assert not page.run("wish('none').hidden")
        page.run("wish('least').value = 0; show()")
        page.run("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
        page.wait("[...document.images].every(image => image.naturalWidth)")
        assert not page.complaints()
