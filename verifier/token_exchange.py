"""Exchange of an execution token for a bearer token elsewhere: fetch, let it be decided, sign, commit, answer. No rule lives here.

Who verifies such tokens finds their keys by OpenID Connect Discovery. What is published names the configured issuer, whatever the request
said, and the keys of exchange tokens alone: no execution token verifies under them, nor the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from verifier.attest import Inputs, ReferenceSets, read_inputs
from verifier.keys import Keys
from verifier.ledger import ATTEMPTS, Exchanged, Ledger, Void
from verifier.ledger.schema import ProofRow
from writ.formats.digest import Digest
from writ.formats.errors import Refused, Unavailable
from writ.formats.exchange import EXCHANGE, ExchangeAnswer, exchange_uri
from writ.formats.keys import ES256
from writ.formats.strict import b64url
from writ.service.clock import Clock
from writ.service.observe import get_logger
from writ.verdict.token_exchange import ExchangeVerdict, Exchanging, decide_exchange, encode_keys

EXCHANGE_JWKS: Final = "/.well-known/exchange-jwks.json"
_LOG = get_logger("verifier.token_exchange")


class TokenExchange:
    """Exchange tokens, each with its committed decision."""

    def __init__(
        self, ledger: Ledger, keys: Keys, clock: Clock, engine: Digest, issuer: str, random: Callable[[int], bytes], sets: ReferenceSets
    ) -> None:
        self._ledger = ledger
        self._keys = keys
        self._clock = clock
        self._engine = engine
        self._issuer = issuer
        self._random = random
        self._sets = sets

    def metadata(self) -> dict[str, object]:
        """The OpenID provider's configuration, as far as there is any: nobody logs in here, so there is no authorization endpoint.

        Source: OpenID Connect Discovery 1.0 sections 3 and 4; as Kubernetes publishes its service accounts' issuer.
        """
        return {
            "issuer": self._issuer,
            "jwks_uri": f"{self._issuer}{EXCHANGE_JWKS}",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ES256],
            "claims_supported": [
                "iss", "sub", "aud", "iat", "nbf", "exp", "jti", "token_use", "host", "instance", "tpm_class", "runtime",
                "exceptions", "execution_token",
            ],
        }  # fmt: skip

    def exchange(self, host: str, body: bytes) -> bytes:
        """The encoded `ExchangeAnswer`, once its decision is durable.

        Raises FormatError or Refused: before the sender has shown to hold the token nothing is recorded, after that the refusal is in the
        log, and its proof is used up all the same. Raises Unavailable.
        """
        now = self._clock.now()
        for _ in range(ATTEMPTS):
            tables = self._ledger.read()
            inputs = read_inputs(tables, host, self._sets)
            keys = self._keys.token_keys(now)
            exchanging = Exchanging(self._issuer, exchange_uri(self._issuer, host), now, b64url(self._random(16)))
            verdict = decide_exchange(
                body, record=inputs.record, state=inputs.state, references=inputs.references, bundle=inputs.bundle, keys=keys,
                exchanging=exchanging, engine=self._engine,
            )  # fmt: skip
            entry, answer = self._keys.sign_entry(verdict.entry), b""
            if verdict.claims is not None:
                signer = self._keys.exchange_signer(now)
                signed = self._keys.sign_exchange(verdict.claims, signer)
                answer = EXCHANGE.encode(ExchangeAnswer(signed, entry.signed, signer.public))
            try:
                self._ledger.commit(
                    Exchanged(
                        entry, inputs.basis, _used(host, verdict), verdict.execution.token_id, verdict.execution.instance,
                        verdict.execution.lineage, blobs=_blobs(body, encode_keys(keys), inputs),
                    )
                )  # fmt: skip
            except Void as void:
                _LOG.info("verdict-void", host=host, moved=void.what)
                continue
            if verdict.claims is None:
                raise Refused(*verdict.entry.reasons)
            return answer
        raise Unavailable("exchange", f"the state of {host} moved {ATTEMPTS} times while it was judged")


def _used(host: str, verdict: ExchangeVerdict) -> ProofRow:
    return ProofRow(Digest.of(verdict.proof.single_use.encode("ascii")).value, host, verdict.proof.forget_after)


def _blobs(body: bytes, keys: bytes, inputs: Inputs) -> tuple[bytes, ...]:
    """What the decision names and the ledger may not hold yet."""
    return (body, keys, inputs.references.listed, *(() if inputs.row.state is None else (inputs.row.state,)))
