"""The page's server: what it serves, to whom, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from fluidgate.errors import InputError
from fluidgate.explore import app as under_test
from fluidgate.explore.settings import Settings

pytest.importorskip("starlette", reason="needs Starlette: pip install 'fluidgate[explore]'")
pytest.importorskip("httpx2", reason="needs httpx2, which Starlette's test client uses: pip install 'fluidgate[dev]'")

from starlette.testclient import TestClient

JSON = {"Content-Type": "application/json"}


def echoed(settings: Settings) -> dict[str, Any]:
    """An answer that needs no run."""
    return {"rate": settings.rate, "boundary_rate": float("nan")}


@pytest.fixture
def client() -> TestClient:
    return TestClient(under_test.make_app(Settings(rate=7.5), echoed), base_url="http://127.0.0.1:8765")


def test_the_page_and_its_files_stand_alone(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert 'value="7.5"' in page.text
    for path, kind in (("/page.js", "text/javascript"), ("/page.css", "text/css")):
        file = client.get(path)
        assert file.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in file.headers["content-security-policy"]
        assert "http://" not in file.text
        assert "https://" not in file.text
    assert "http" not in page.text.replace("http-equiv", "")
    assert "<style" not in page.text
    assert client.get("/../pyproject.toml").status_code == 404


def test_an_answer(client: TestClient) -> None:
    got = client.post("/answer", json={"rate": 3})
    assert got.status_code == 200
    assert got.json()["rate"] == 3
    assert got.json()["boundary_rate"] is None  # JSON has no NaN
    assert got.json()["took_ms"] >= 0


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (b"{", JSON, "not JSON"),
        (b'{"rate": NaN}', JSON, "rate"),
        (b"\xff", JSON, "not JSON"),
        (b'{"rate": 1, "rate": 2}', JSON, "not JSON"),
        (b"[1]", JSON, "not an object"),
        (b'{"rate": "fast"}', JSON, "must be a number"),
        (b'{"rat": 1}', JSON, "not a known key"),
        (b'{"rate": 1}', {"Content-Type": "text/plain"}, "application/json"),
        (b'{"rate": 1}', {}, "application/json"),
        (b'{"gpu": "' + b"x" * 20_000 + b'"}', JSON, "longer than"),
        (b"[" * 5000, JSON, "not JSON"),
    ],
)
def test_malformed_questions_are_refused_in_one_sentence(
    client: TestClient, body: bytes, headers: dict[str, str], words: str
) -> None:
    got = client.post("/answer", content=body, headers=headers)
    assert got.status_code == 400
    assert words in got.json()["error"]
    assert "\n" not in got.json()["error"]


def test_it_answers_to_its_own_names_only(client: TestClient) -> None:
    for name in ("127.0.0.1", "127.0.0.1:9", "localhost:8765"):
        assert client.get("/", headers={"Host": name}).status_code == 200
    for name in ("evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example", ""):
        assert client.get("/", headers={"Host": name}).status_code == 400
        assert client.post("/answer", json={}, headers={"Host": name}).status_code == 400


def test_it_answers_posts_only(client: TestClient) -> None:
    assert client.get("/answer").status_code == 405
    assert "access-control-allow-origin" not in client.options("/answer").headers


def test_it_listens_on_the_loopback_and_says_when_a_port_is_taken() -> None:
    with under_test._listening(0) as listening:
        host, port = listening.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(InputError, match=f"port {port} cannot be had .* give another --port"):
            under_test._listening(port)


def test_a_start_that_cannot_be_had_is_an_error() -> None:
    with pytest.raises(InputError, match="does not fit"):
        under_test.warm_up(Settings(model="llama-3.1-70b"), print)


def test_without_the_extra_one_sentence_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None; sys.argv = ['fluidgate', 'explore', '--no-open', '--port', '0']\n"
        "from fluidgate.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == f"error: {under_test.MISSING}"
    assert "pip install 'fluidgate[explore]'" in done.stderr


def test_no_option_offers_another_host() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fluidgate", "explore", "--host", "0.0.0.0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
