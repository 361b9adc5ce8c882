"""Asking servers that are none, or hostile: one sentence, in time, without what lets us in."""

from __future__ import annotations

import base64
import re
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from fluidgate.calibration.server.running_server import look_at
from fluidgate.doctor import read_facts
from fluidgate.errors import InputError
from fluidgate.hardware import StepTime
from fluidgate.vllm_metrics import fetch
from fluidgate.vllm_metrics.address import Address

from ..calibration.fake_vllm import BLOCK_SIZE, MODEL_LEN, NUM_BLOCKS, Engine
from .hostile import FAST, LATE, METRICS, MODELS, SLOW, Answer, HostileServer, hostile, page, redirects, sends, silence

PASSWORD, KEY = "wonder:land@42", "sk-very-secret"
BASIC = "Basic " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
IDLE = Engine(StepTime(c0=0.003)).page().encode()
LONG = IDLE + b"# a comment\n" * 5000
PATIENT_S, HASTY_S = 60.0, 0.4
Refusal = Callable[[Answer, float], str]


def with_password(server: HostileServer) -> str:
    return f"http://alice:wonder%3Aland%4042@{server.place}"


def refusal_of_metrics(answer: Answer, deadline_s: float) -> str:
    """What the doctor says."""
    with hostile(answer) as server, pytest.raises(InputError) as refused:
        fetch(Address.of(with_password(server)), deadline_s=deadline_s)
    return checked(str(refused.value), f"http://{server.place}/metrics")


def refusal_of_models(answer: Answer, deadline_s: float) -> str:
    """What a calibration says, of a server whose metrics are good."""
    with hostile(answer, "/v1/models", IDLE) as server, pytest.raises(InputError) as refused:
        look_at(f"http://{server.place}", api_key=KEY, deadline_s=deadline_s)
    return checked(str(refused.value), f"http://{server.place}/v1/models: ")


def checked(said: str, begins: str) -> str:
    assert said.startswith(begins)
    assert said.isprintable(), "one line"
    assert len(said) < 300
    for secret in (PASSWORD, "wonder%3Aland", "alice", BASIC.split()[1], KEY):
        assert secret not in said
    return said


@pytest.mark.parametrize("refusal", [refusal_of_metrics, refusal_of_models])
@pytest.mark.parametrize(("answer", "sentence"), FAST.values(), ids=FAST.keys())
def test_what_is_no_answer_is_one_sentence(refusal: Refusal, answer: Answer, sentence: str) -> None:
    assert sentence in refusal(answer, PATIENT_S)


@pytest.mark.parametrize("refusal", [refusal_of_metrics, refusal_of_models])
@pytest.mark.parametrize(("answer", "sentence"), SLOW.values(), ids=SLOW.keys())
def test_what_takes_too_long_is_left(refusal: Refusal, answer: Answer, sentence: str) -> None:
    assert f"{sentence} {HASTY_S:g} s" in refusal(answer, HASTY_S)


@pytest.mark.parametrize(("body", "sentence"), METRICS.values(), ids=METRICS.keys())
def test_pages_that_are_no_metrics(body: bytes, sentence: str) -> None:
    assert sentence in refusal_of_metrics(sends(page(body)), PATIENT_S)


def test_a_page_that_repeats_what_was_sent() -> None:
    for word in (PASSWORD, BASIC):
        said = refusal_of_metrics(sends(page(f"# x\n{word} is not a number".encode())), PATIENT_S)
        assert "…" in said


@pytest.mark.parametrize("body", MODELS.values(), ids=MODELS.keys())
def test_pages_that_are_no_models(body: bytes) -> None:
    assert "is not a list of models with their max_model_len" in refusal_of_models(sends(page(body)), PATIENT_S)


def test_too_many_models() -> None:
    assert "is larger than 1 MiB" in refusal_of_models(sends(page(b" " * (2**20 + 1))), PATIENT_S)


@pytest.mark.parametrize("blocks", ["9" * 5000, "9" * 20, "²", "many"])
def test_a_number_of_blocks_that_cannot_be(blocks: str) -> None:
    metrics = IDLE.replace(f'num_gpu_blocks="{NUM_BLOCKS}"'.encode(), f'num_gpu_blocks="{blocks}"'.encode())
    with (
        hostile(sends(page(metrics))) as server,
        pytest.raises(InputError, match="holds a num_gpu_blocks that is no number"),
    ):
        look_at(f"http://{server.place}")


def test_a_handshake_that_does_not_end() -> None:
    with hostile(silence) as server, pytest.raises(InputError, match=LATE):
        fetch(f"https://{server.place}", deadline_s=HASTY_S)


def test_a_name_that_is_never_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver knows no deadline."""
    found = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found.wait(30.0))
    with pytest.raises(InputError, match=LATE):
        fetch("http://somewhere.example", deadline_s=HASTY_S)
    found.set()


def test_a_server_without_tls() -> None:
    with hostile(sends(page(IDLE))) as server, pytest.raises(InputError, match=r"no answer \(\[SSL"):
        fetch(f"https://{server.place}", deadline_s=PATIENT_S)


@pytest.mark.parametrize(
    "typed",
    [
        "http://alice:{}@h:abc",
        "http://alice:{}@h:0",
        "http://alice:{}@h:99999",
        "http://alice:{}@[::1",
        "http://alice:{}@",
        "http://alice:{}@h\n",
        "http://alice:{}@h /metrics",
        "http://alice:pa/{}@h",
        "ftp://alice:{}@h",
        "file://alice:{}@h/etc/passwd",
        "alice:{}@h:8000",
    ],
)
def test_what_is_no_address_shows_no_password(typed: str) -> None:
    for read in (read_facts, look_at):
        with pytest.raises(InputError) as refused:
            read(typed.format("s3cr3t"))
        assert "s3cr3t" not in str(refused.value)
        assert "alice" not in str(refused.value)


@pytest.mark.parametrize("typed", ["http://h:abc", "http://[::1", "ftp://h", "localhost", "http://", "http://h:99999"])
def test_what_is_no_address_is_shown(typed: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"{typed}: is not an address")):
        fetch(typed)


def test_brackets() -> None:
    assert Address.of("http://[::1]:8000").url == "http://[::1]:8000"
    assert Address.of("https://alice:x@[::1]:8000/a?b#c").at("/v1/models").url == "https://[::1]:8000/v1/models"


def test_user_and_password_are_sent_and_not_kept() -> None:
    with hostile(sends(page(IDLE))) as server:
        facts = read_facts(with_password(server), api_key=KEY)
    assert server.authorizations() == [BASIC, BASIC], "they were given for this server, the key perhaps for another"
    assert facts.source == f"http://{server.place}/metrics, since the server's start"


def test_a_key_is_sent_and_not_kept() -> None:
    models = page(f'{{"data": [{{"id": "m", "max_model_len": {MODEL_LEN}}}]}}'.encode())
    with hostile(sends(models), "/v1/models", IDLE) as server:
        found = look_at(f"http://{server.place}/metrics", api_key=KEY)
        found.scrape()
    assert server.authorizations() == [f"Bearer {KEY}"] * 3
    assert KEY not in repr(found)
    assert (found.url, found.model, found.tokenizer, found.block_size) == (
        f"http://{server.place}",
        "m",
        "m",
        BLOCK_SIZE,
    )


@pytest.mark.parametrize("key", ["two words", "line\n", "", "schlüssel", "a\r\nHost: b"])
def test_a_key_that_no_header_can_carry(key: str) -> None:
    with pytest.raises(InputError) as refused:
        Address.of("http://h", key)
    assert "holds spaces or characters that no header can carry" in str(refused.value)
    assert key not in str(refused.value) or not key


def test_without_a_key_it_is_asked_for() -> None:
    with hostile(sends(page(b"", status="401 Unauthorized"))) as server, pytest.raises(InputError, match="--api-key"):
        fetch(f"http://{server.place}")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"])
def test_only_the_same_server_gets_the_key_after_a_redirect(status: str) -> None:
    with hostile(sends(page(IDLE))) as other:
        with hostile(redirects(f"http://{other.place}/metrics", status)) as server:
            fetch(Address.of(f"http://{server.place}", KEY))
        assert (server.authorizations(), other.authorizations()) == ([f"Bearer {KEY}"], [""])
    with hostile(redirects("/elsewhere", status), good=IDLE) as server:
        fetch(Address.of(f"http://{server.place}", KEY))
    assert server.authorizations() == [f"Bearer {KEY}"] * 2


@pytest.mark.parametrize(
    "pieces",
    [
        [page(LONG) + b"more than was announced"],
        [page(IDLE)[:50], page(IDLE)[50:]],
        [b"HTTP/1.1 100 Continue\r\n\r\n", page(IDLE)],
        [b"HTTP/1.0 200 OK\r\n\r\n" + IDLE],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(IDLE), IDLE)],
    ],
)
def test_pages_however_they_are_sent(pieces: list[bytes]) -> None:
    with hostile(sends(*pieces)) as server:
        assert len(fetch(f"http://{server.place}").samples) == len(IDLE.splitlines()), "no line more"


def test_a_connection_that_stays_open_after_the_page() -> None:
    def keeps_alive(_: str) -> Iterator[bytes]:
        yield page(IDLE)
        yield from silence("")

    with hostile(keeps_alive) as server:
        assert fetch(f"http://{server.place}", deadline_s=10.0).samples
