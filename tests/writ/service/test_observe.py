"""Logs hold no secret and stay one object a line; counters count."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.signers import new_signer
from writ.formats.errors import Misuse
from writ.formats.jose import encode_dpop_payload, sign_dpop
from writ.service.observe import MAX_SERIES, REDACTED, Counters, configure, get_logger, is_secret_name, redact, request

LOG = get_logger("writ.specimen")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    made = io.StringIO()
    configure(made, "debug")
    yield made
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def proof() -> str:
    return sign_dpop(encode_dpop_payload(jti="j" * 20, htm="POST", htu="https://a", iat=1), new_signer())


def test_line_has_time_level_event_request_and_fields(stream: io.StringIO) -> None:
    with request("r-1"):
        LOG.info("token-issued", agent="spiffe://a/b", seconds=60)
    LOG.debug("later")

    first, second = lines(stream)
    assert first["ts"].endswith("Z")
    assert {key: first[key] for key in ("level", "logger", "event", "request", "agent", "seconds")} == {
        "level": "info",
        "logger": "writ.specimen",
        "event": "token-issued",
        "request": "r-1",
        "agent": "spiffe://a/b",
        "seconds": 60,
    }
    assert "request" not in second


def test_field_never_replaces_what_the_log_itself_says(stream: io.StringIO) -> None:
    LOG.info("real", level="forged", event="forged", ts="forged")

    (line,) = lines(stream)
    assert line["level"] == "info"
    assert line["event"] == "real"
    assert line["field_event"] == "forged"


@pytest.mark.parametrize(
    "name",
    ["token", "access_token", "Authorization", "dpop", "DPoP", "sessionKey", "api-keys", "ticket", "client_secret", "private_key_pem"],
)
def test_secret_names_are_known(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["key_id", "token_digest", "kid", "agent", "signing_key_file", "monkey", "ticket_count", "", "tokenizer"])
def test_plain_names_are_not_secret(name: str) -> None:
    assert not is_secret_name(name)


def test_secrets_are_taken_out_by_name_by_look_and_at_any_depth(stream: io.StringIO) -> None:
    jws = proof()
    LOG.warning("refused", token="hunter2", header={"authorization": ["hunter2"], "other": [f"DPoP {jws}", jws]}, raw=b"hunter2")
    event = f"got {jws}"
    LOG.warning(event)
    logging.getLogger("library").warning("Bearer %s", "hunter2hunter2")
    LOG.warning("pem", text="-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----")

    assert "hunter2" not in stream.getvalue()
    assert jws[20:60] not in stream.getvalue()
    assert lines(stream)[0]["token"] == REDACTED
    assert lines(stream)[0]["raw"] == "[7 bytes]"


def test_exception_is_shown_by_type_and_place_and_not_by_text(stream: io.StringIO) -> None:
    caught = None
    try:
        raise ValueError("hunter2")
    except ValueError as error:
        caught = error
    LOG.error("failed", exception=caught, cause=caught)

    (line,) = lines(stream)
    assert line["error"] == line["cause"] == "ValueError"
    assert "test_observe.py" in line["places"][0]
    assert "hunter2" not in stream.getvalue()


def test_newline_in_a_value_makes_no_second_line(stream: io.StringIO) -> None:
    LOG.info("event\nforged", field="a\r\nb\u2028c")

    assert len(stream.getvalue().splitlines()) == 1


def test_long_and_deep_values_are_bounded(stream: io.StringIO) -> None:
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    LOG.info("big", text="x" * 10**6, items=list(range(10**5)), deep=deep)

    assert len(stream.getvalue()) < 5000


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.binary() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@settings(max_examples=50)
def test_anything_redacted_is_json(value: object) -> None:
    json.dumps(redact(value))


def test_level_is_kept_and_a_second_configure_replaces_the_first(stream: io.StringIO) -> None:
    other = io.StringIO()
    configure(other, "warning")
    LOG.info("quiet")
    LOG.warning("loud")

    assert stream.getvalue() == ""
    assert [line["event"] for line in lines(other)] == ["loud"]
    with pytest.raises(Misuse):
        configure(other, "loud")


def test_log_that_cannot_be_written_does_not_stop_its_caller(capsys: pytest.CaptureFixture[str], stream: io.StringIO) -> None:
    stream.close()
    LOG.error("lost")

    assert capsys.readouterr().err == ""


def test_counters_count_by_label_and_render_sorted() -> None:
    counters = Counters({"writ_refused_total": "Refusals\nby code."})
    counters.add("writ_refused_total", {"code": 'a"b\\c\n'})
    counters.add("writ_refused_total", {"code": "x"}, 2)
    counters.add("writ_accepted_total")

    assert counters.value("writ_refused_total", {"code": "x"}) == 2
    assert counters.value("writ_other_total") == 0
    assert counters.render_prometheus() == (
        "# TYPE writ_accepted_total counter\n"
        "writ_accepted_total 1\n"
        "# HELP writ_refused_total Refusals\\nby code.\n"
        "# TYPE writ_refused_total counter\n"
        'writ_refused_total{code="a\\"b\\\\c\\n"} 1\n'
        'writ_refused_total{code="x"} 2\n'
    )


def test_counters_of_many_threads_lose_nothing() -> None:
    counters = Counters()

    def count() -> None:
        for _ in range(1000):
            counters.add("n")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counters.value("n") == 4000


def test_labels_without_end_are_bounded_and_the_loss_is_counted() -> None:
    counters = Counters()
    for number in range(MAX_SERIES + 5):
        counters.add("n", {"who": str(number)})

    assert counters.render_prometheus().endswith("writ_series_dropped_total 5\n")
    assert counters.render_prometheus().count("n{") == MAX_SERIES


@pytest.mark.parametrize("name, amount", [("Bad-Name", 1), ("", 1), ("n", -1)])
def test_counter_that_prometheus_would_not_read_is_misuse(name: str, amount: int) -> None:
    with pytest.raises(Misuse):
        Counters().add(name, None, amount)
