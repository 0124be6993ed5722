"""What a manifest says and cannot mean is named; what the pages show is not."""

from __future__ import annotations

import pytest

from attestor.measure.doubts import doubts
from writ.formats.manifest import parse_manifest

MANIFEST = """
version = 1
agent = "a"
namespace = "n"
audience = "tools"
command = ["{store}/code/a"]
grants = [%s]
%s
[components.code]
kind = "code"
source = "src"
"""
SECRETS = '[secrets.mail]\nexpose = "MAIL"\n[secrets.db]\nexpose = "file"\n'
BOTH = '["secret.send", "secret:mail@https://a.example:443/*"], ["secret.read", "secret:db"]'


def of(grants: str, more: str = "") -> tuple[str, ...]:
    return doubts(parse_manifest((MANIFEST % (grants, more)).encode()))


@pytest.mark.parametrize(
    "grant",
    [
        '["tool.call", "mcp:notes/*"]',
        '["tool.call", "mcp:notes/read"]',
        '["net.connect", "tcp:10.0.0.5:5432"]',
        '["net.connect", "tcp:[2001:db8::1]:443"]',
        '["net.reach", "tcp:10.0.0.5:443"]',
        '["net.accept", "tcp:8080"]',
        '["http.get", "https://api.example.org:443/v1/*"]',
        '["http.websocket", "https://api.example.org:443/v1"]',
        '["instance.start", "agent:coder"]',
        '["token.exchange", "https://vault.example.org"]',
        '["token.exchange", "api://AzureADTokenExchange"]',
    ],
)
def test_grant_of_the_pages_is_in_no_doubt(grant: str) -> None:
    assert of(grant) == ()


@pytest.mark.parametrize(
    "grant, expected",
    [
        ('["tool.cal", "mcp:notes/*"]', "an action that a gate of Writ asks for"),
        ('["tool.call", "notes"]', "mcp:TOOL"),
        ('["net.connect", "api.example.org:443"]', "tcp:HOST:PORT"),
        ('["net.connect", "tcp:API.example.org:443"]', "in lower case"),
        ('["net.connect", "tcp:api.example.org"]', "tcp:HOST:PORT"),
        ('["net.accept", "tcp:127.0.0.1:80"]', "the port inside"),
        ('["http.GET", "https://api.example.org:443/"]', "http.get"),
        ('["http.get", "https://api.example.org/v1/*"]', "with the port"),
        ('["instance.start", "coder"]', "agent:NAME"),
        ('["token.exchange", "https://vault.example.org/*"]', "one audience"),
        ('["token.exchange", "//iam.example/pool"]', "one audience"),
        ('["secret.send", "secret:mial@https://a.example:443/*"]', "none is there"),
    ],
)
def test_grant_that_nothing_will_ever_ask_for_is_named(grant: str, expected: str) -> None:
    (said,) = of(grant)
    assert expected in said


def test_secret_without_a_grant_and_forward_without_one_are_named() -> None:
    assert of(BOTH, SECRETS) == ()
    assert of("", SECRETS) == (
        "secret db: expected a grant of secret.read on it; the agent is not launched without one",
        "secret mail: expected a grant of secret.send on it; without one it is put into no request",
    )
    forward = 'forwards = [{ listen = 1, to = "unix:/run/m" }]'
    assert of("", forward) == ("forward of port 1: expected a grant of net.connect on unix:/run/m",)
    assert of('["net.connect", "unix:/run/m"]', forward) == ()
