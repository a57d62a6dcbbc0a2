"""The page for other machines: its token in the address, in a cookie, in a header, in a file."""

import json
import re
import socket

import pytest
from browser import Browser
from test_serve import ask, count, needs_chromium, predictor, serving, write_files
from xrays import png, xray

from cxr.settings import HospitalSettings
from cxr.steps.serve import door as doors
from cxr.steps.serve.door import REFUSED, Door, check_host, make_door, read_token
from cxr.steps.serve.serve import invite, listen
from cxr.system.errors import InputError

TOKEN = "a-token_of~22.letters-or-more"
HOST = "127.0.0.1"
__all__ = ["predictor"]  # a fixture


@pytest.fixture(scope="module")
def port(predictor):
    with serving(predictor, Door(HOST, TOKEN)) as port:
        yield port


def cookie(port, token=TOKEN):
    return {"Cookie": f"other=1; cxr_token_{port}={token}"}


PATHS = ("/", "/page.css", "/page.js", "/run", "/openapi.json", "/nothing")


@pytest.mark.parametrize(
    "path", [*PATHS, "/?token=", "/?token=wrong", f"/?token={TOKEN}x", f"/run?token={TOKEN}"]
)
def test_nothing_is_answered_without_the_token(port, path):
    status, headers, text = ask(port, path)
    assert status == 401
    assert json.loads(text) == {"error": REFUSED}
    assert "set-cookie" not in headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN.upper(), "\u00e9" * 30])
def test_wrong_tokens(port, token):
    token = token.encode().decode("latin-1")
    assert ask(port, "/run", headers=cookie(port, token))[0] == 401
    assert ask(port, "/run", headers={"Authorization": f"Bearer {token}"})[0] == 401
    assert ask(port, "/predict", "POST", b"x", cookie(port, token))[0] == 401


def test_the_address_gives_a_cookie_for_this_site_alone(port):
    status, headers, text = ask(port, f"/?token={TOKEN}")
    assert status == 200
    assert "Not for diagnosis." in text
    expected = f"cxr_token_{port}={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
    assert headers["set-cookie"] == expected
    assert headers["referrer-policy"] == "no-referrer"


def test_the_cookie_and_the_header_open_every_path(port, tmp_path):
    content = png(tmp_path / "a.png", xray()).read_bytes()
    for headers in (cookie(port), {"Authorization": f"Bearer {TOKEN}"}):
        statuses = [ask(port, path, headers=headers)[0] for path in PATHS]
        assert statuses == [200, 200, 200, 200, 200, 404]
        status, _, text = ask(port, "/predict", "POST", content, headers)
        assert status == 200
        assert json.loads(text)["boxes"]


def test_the_other_checks_stay(port):
    """Host, origin and size, with a right token."""
    right = cookie(port)
    assert ask(port, "/run", headers=right | {"Host": "evil.example"})[0] == 400
    origin = {"Origin": "https://evil.example"}
    assert ask(port, "/predict", "POST", b"x", right | origin)[0] == 403
    site = {"Sec-Fetch-Site": "cross-site"}
    assert ask(port, "/predict", "POST", b"x", right | site)[0] == 403
    too_large = {"Content-Length": str(2**40)}
    assert ask(port, "/predict", "POST", None, right | too_large)[0] == 413


def test_the_given_host_is_served(predictor):
    with serving(predictor, Door("cxr.example", TOKEN)) as port:
        for host, status in (("CXR.example:1", 200), ("other.example", 400), ("localhost", 200)):
            assert ask(port, "/run", headers=cookie(port) | {"Host": host})[0] == status


def test_tokens_are_random_and_printed(capsys):
    first = make_door(HospitalSettings(host=HOST))
    second = make_door(HospitalSettings(host=HOST))
    assert first.token != second.token
    assert re.fullmatch(r"[\w-]{43}", first.token)
    invite(8000, first)
    address = f"http://{HOST}:8000/?token={first.token}"
    assert capsys.readouterr().out == f"open {address} in a browser; Ctrl-C ends it\n"
    assert make_door(HospitalSettings()) is None


def test_a_token_of_a_file_is_not_printed(tmp_path, capsys):
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    door = make_door(HospitalSettings(host=HOST, token_file=str(path)))
    assert door.token == TOKEN
    invite(8000, door)
    printed = capsys.readouterr().out
    assert TOKEN not in printed
    assert f"/?token=TOKEN in a browser, with the token of {path} for TOKEN" in printed


@pytest.mark.parametrize(
    "content", [b"", b"short", b"two words that are long enough", b"\xff" * 40]
)
def test_files_that_hold_no_token(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"--token-file .*token: .*|secrets.token_urlsafe"):
        read_token(path)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read .*: write one by python -c"):
        read_token(tmp_path / "gone")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1", "name.invalid", "a" * 70 + ".x"])
def test_hosts_under_which_nobody_reaches_it(host):
    with pytest.raises(InputError, match="give the IPv4 address or the name"):
        check_host(host)


def test_a_name_that_is_only_for_this_machine(monkeypatch):
    """As Debian writes a machine's own name into /etc/hosts."""
    monkeypatch.setattr(doors.socket, "gethostbyname", lambda _: "127.0.1.1")
    with pytest.raises(InputError, match=r"is 127.0.1.1 for this machine itself"):
        check_host("xray-room-2")


def test_a_host_that_is_another_machine():
    with pytest.raises(InputError, match=r"choose another --port, or a --host other than 192"):
        listen(0, "192.0.2.1")


def test_ports_are_free_again():
    with listen(0, "localhost") as listening, socket.create_connection(listening.getsockname()):
        assert listening.getsockname()[0] == HOST


@needs_chromium
def test_one_click_opens_the_page(port, tmp_path):
    content = png(tmp_path / "a.png", xray()).read_bytes()
    with Browser(tmp_path / "profile") as page:
        page.open(f"http://{HOST}:{port}/?token={TOKEN}")
        page.wait("run")
        assert page.run("location.href") == f"http://{HOST}:{port}/"
        assert page.run("document.cookie") == "", "no script can read it"
        page.choose_files("#files", *write_files(tmp_path, {"a": content}))
        page.wait("items.length === 1 && !working")
        assert count(page, "#boxes rect")
        page.open(f"http://{HOST}:{port}/")
        page.wait("run")
        assert not page.complaints()
