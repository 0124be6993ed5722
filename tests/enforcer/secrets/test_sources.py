"""Where secrets come from: a sealed file, a vault, a token exchange; none without a token, and errors that say nothing of them."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from enforcer.config import EnforcerConfig
from enforcer.credential import Held
from enforcer.secrets.bearer import Bearers
from enforcer.secrets.held import Secrets
from enforcer.secrets.sealed import Sealed
from enforcer.secrets.source import MAX_SECRET, Lease
from enforcer.secrets.sources import secrets_of
from tests.conftest import missing
from tests.enforcer.host import wait_for
from tests.enforcer.scene import Scene
from tests.world.network import certified
from tests.world.vault import Vault
from writ.formats.errors import FormatError, Unavailable
from writ.formats.secret import Secret
from writ.service.clock import SystemClock

NAMED = (Secret("db", "DB"), Secret("mail", "MAIL"))
OURS, CLOUD = "https://vault.example.org", "https://iam.example/pool"
LINES = ("a mail vault secret/data/mail data.key", "a db vault database/creds/reader password", "b mail sealed /x")


class Safe:
    """A vault, and an instance whose secrets it has."""

    def __init__(self, folder: Path) -> None:
        certificate = certified(folder, "127.0.0.1")
        self.scene = Scene(folder, more=tuple(("token.exchange", audience) for audience in (OURS, CLOUD)))
        self.vault = Vault(self.scene.attestor.method(OURS, CLOUD), certificate)
        self.roots = certificate[0]
        self.held = self.scene.renew()
        self.secrets = self.of(NAMED, *LINES)

    def of(self, named: tuple[Secret, ...], *lines: str, role: str = "writ") -> Secrets:
        """The secrets of an instance of `a` on a host whose configuration has these lines."""
        config = EnforcerConfig(secrets=lines, vault_url=self.vault.url, vault_role=role, vault_audience=OURS, secrets_ca_file=self.roots)
        return secrets_of(config, "a", named, self.bearers, SystemClock())

    @property
    def bearers(self) -> Bearers:
        """The exchange tokens of a holder that starts now."""
        scene = self.scene
        return Bearers(scene.key, scene.attestor.trust(), scene.attestor.answer, scene.clock)


@pytest.fixture
def safe(tmp_path: Path) -> Iterator[Safe]:
    made = Safe(tmp_path)
    yield made
    made.vault.close()


# --- a vault -----------------------------------------------------------------------------------------------------------------


def test_vault_is_asked_at_first_use_with_the_instances_token_and_not_again(safe: Safe) -> None:
    assert not safe.vault.asked, "nothing before the first use"
    assert safe.secrets.value("mail", safe.held) == b"s3cret-mail"
    assert safe.secrets.value("mail", safe.held) == b"s3cret-mail"

    assert safe.vault.asked == ["POST /v1/auth/jwt/login", "GET /v1/secret/data/mail"]
    assert list(safe.vault.tokens.values()) == ["spiffe://example.org/test/agent/a"]


def test_cut_forgets_and_gives_back_and_a_mend_fetches_anew(safe: Safe) -> None:
    first = safe.secrets.value("db", safe.held)
    assert len(safe.vault.leases) == 1
    safe.secrets.cut()
    wait_for(lambda: not safe.vault.tokens)
    assert not safe.vault.leases
    with pytest.raises(Unavailable, match="cut off"):
        safe.secrets.value("db", safe.held)
    safe.secrets.mend()
    assert safe.secrets.value("db", safe.held) != first
    assert len(set(safe.vault.shown)) == 2, "the exchange token was forgotten, too"
    safe.secrets.close()

    assert not safe.vault.leases
    assert not safe.vault.tokens


def test_secret_that_arrives_after_a_cut_is_given_back_and_not_used(safe: Safe) -> None:
    safe.vault.answers.clear()
    failed: list[str] = []

    def fetch() -> None:
        try:
            safe.secrets.value("db", safe.held)
        except Unavailable as error:
            failed.append(str(error))

    thread = threading.Thread(target=fetch)
    thread.start()
    wait_for(lambda: safe.vault.asked)
    safe.secrets.cut()
    safe.secrets.mend()
    safe.vault.answers.set()
    thread.join(10)

    assert failed == ["secret db: cut off"]
    wait_for(lambda: not safe.vault.tokens and not safe.vault.leases)


def test_session_that_the_vault_ended_is_begun_anew_and_a_refusal_is_one(safe: Safe) -> None:
    assert safe.secrets.value("mail", safe.held)
    safe.vault.tokens.clear()
    assert safe.secrets.value("db", safe.held)
    assert safe.vault.asked.count("POST /v1/auth/jwt/login") == 2
    other = safe.of(NAMED, *LINES, role="other")
    with pytest.raises(Unavailable, match="login: expected 200, got 400"):
        other.value("mail", safe.held)


def test_token_of_another_issuer_opens_no_vault(safe: Safe) -> None:
    safe.vault.method.bound_issuer = "https://another.example.org"
    with pytest.raises(Unavailable, match="login"):
        safe.secrets.value("mail", safe.held)


@pytest.mark.parametrize(
    "kept",
    [{"data": {}}, {"data": {"key": 7}}, {"data": {"key": ""}}, {"data": {"key": "x" * (MAX_SECRET + 1)}}, {"data": "s3cret-mail"}, {}],
)
def test_answer_of_another_form_is_no_secret_and_is_not_shown(safe: Safe, kept: dict[str, object]) -> None:
    safe.vault.kept["secret/data/mail"] = kept
    with pytest.raises(Unavailable) as found:
        safe.secrets.value("mail", safe.held)
    assert "s3cret" not in str(found.value)
    assert "xxx" not in str(found.value)


def test_vault_that_is_away_or_fails_is_unavailable_and_shows_no_token(safe: Safe) -> None:
    safe.vault.status = 503
    with pytest.raises(Unavailable, match="503") as found:
        safe.secrets.value("mail", safe.held)
    assert safe.held.compact not in str(found.value)
    safe.vault.close()
    with pytest.raises(Unavailable) as found:
        safe.secrets.value("mail", safe.held)
    assert safe.held.compact not in str(found.value)


def test_lease_is_used_for_most_of_its_life_and_no_longer(safe: Safe) -> None:
    safe.vault.lease_seconds = 0
    assert safe.secrets.value("db", safe.held) != safe.secrets.value("db", safe.held)


def test_observed_agent_has_no_token_and_so_no_secret(safe: Safe) -> None:
    with pytest.raises(Unavailable, match="takes a token"):
        safe.secrets.value("mail", None)


# --- a token exchange --------------------------------------------------------------------------------------------------------


def test_cloud_gives_its_token_for_ours(safe: Safe) -> None:
    held = safe.of((Secret("gcs", "GCS"),), f"a gcs exchange {safe.vault.url}/sts {CLOUD} //iam.example/pool storage.read storage.list")

    assert held.value("gcs", safe.held) == b"ya29.cloud"
    assert safe.vault.exchanged == [
        {
            "grant_type": ["urn:ietf:params:oauth:grant-type:token-exchange"],
            "subject_token": safe.vault.shown,
            "subject_token_type": ["urn:ietf:params:oauth:token-type:jwt"],
            "requested_token_type": ["urn:ietf:params:oauth:token-type:access_token"],
            "audience": ["//iam.example/pool"],
            "scope": ["storage.read storage.list"],
        }
    ]


def test_cut_forgets_what_was_shown_to_the_cloud(safe: Safe) -> None:
    held = safe.of((Secret("gcs", "GCS"),), f"a gcs exchange {safe.vault.url}/sts {CLOUD} aud")
    for _ in range(2):
        assert held.value("gcs", safe.held) == b"ya29.cloud"
        held.cut()
        held.mend()
    assert len(set(safe.vault.shown)) == 2


def test_exchange_that_refuses_is_unavailable(safe: Safe) -> None:
    safe.vault.method.bound_issuer = "https://another.example.org"
    held = safe.of((Secret("gcs", "GCS"),), f"a gcs exchange {safe.vault.url}/sts {CLOUD} aud")
    with pytest.raises(Unavailable, match="expected 200, got 400"):
        held.value("gcs", safe.held)


# --- a sealed file -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sealing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for credentials, and a machine's key of the test's own."""
    if shutil.which("systemd-creds") is None:
        missing("systemd-creds")
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(tmp_path / "credential.secret"))
    subprocess.run(["systemd-creds", "setup"], check=True, capture_output=True)
    return tmp_path


def seal(path: Path, name: str, text: bytes) -> None:
    command = ["systemd-creds", "encrypt", "--with-key=host", f"--name={name}", "-", str(path)]
    subprocess.run(command, input=text, check=True, capture_output=True)


def test_sealed_file_is_decrypted_when_it_is_used(sealing: Path, tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    seal(sealing / "mail.cred", "mail", b"s3cret")
    assert b"s3cret" not in (sealing / "mail.cred").read_bytes()

    assert Sealed("mail", sealing / "mail.cred").fetch(scene.renew()).value == b"s3cret"


def test_sealed_file_of_another_name_or_key_or_size_is_refused_without_its_text(
    sealing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: Held = Scene(tmp_path).renew()
    seal(sealing / "mail.cred", "mail", b"s3cret")
    seal(sealing / "big.cred", "big", b"x" * (MAX_SECRET + 1))
    (sealing / "torn.cred").write_bytes((sealing / "mail.cred").read_bytes()[:-20])
    wrong = [("other", "mail.cred"), ("big", "big.cred"), ("mail", "torn.cred"), ("mail", "none.cred")]
    for name, file in wrong:
        with pytest.raises(Unavailable) as found:
            Sealed(name, sealing / file).fetch(held)
        assert "s3cret" not in str(found.value)
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(tmp_path / "other.secret"))
    subprocess.run(["systemd-creds", "setup"], check=True, capture_output=True)
    with pytest.raises(Unavailable, match=r"mail\.cred: systemd-creds could not decrypt it: (?!exit)"):  # in its own words
        Sealed("mail", sealing / "mail.cred").fetch(held)


# --- the configuration -------------------------------------------------------------------------------------------------------


def test_secret_without_a_source_for_this_agent_is_no_launch(safe: Safe) -> None:
    with pytest.raises(Unavailable, match=r"mail: enforcer\.toml has no source of it for a"):
        safe.of((Secret("mail", "MAIL"),), "b mail sealed /x")


@pytest.mark.parametrize(
    "line",
    [
        "a mail",
        "a mail file /x",
        "a mail sealed",
        "a mail sealed x",
        "a mail sealed /x /y",
        "a mail vault p",
        "A mail sealed /x",
        "a M sealed /x",
    ],
)
def test_line_that_says_no_source_is_refused(line: str) -> None:
    with pytest.raises(FormatError):
        EnforcerConfig(secrets=(line,), vault_url="https://v.example", vault_role="writ", vault_audience="v")


def test_vault_needs_an_address_and_a_role_and_a_secret_one_source() -> None:
    with pytest.raises(FormatError, match="vault_url"):
        EnforcerConfig(secrets=("a mail vault p f",))
    with pytest.raises(FormatError, match="one source"):
        EnforcerConfig(secrets=("a mail sealed /x", "a mail sealed /y"))


def test_lease_is_never_shown() -> None:
    assert "s3cret" not in repr(Lease(b"s3cret"))
