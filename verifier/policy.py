"""Policy bundles: checked, numbered, signed, published. The version only rises, and a bundle that would err is never signed."""

from __future__ import annotations

from verifier.access import Operator, OperatorLog
from verifier.keys import Keys
from verifier.ledger import Ledger, PolicyPublished
from verifier.ledger.schema import PolicyRow
from verifier.ledger.transaction import space
from writ.formats.cose import parse_sign1
from writ.formats.errors import Refused
from writ.formats.policy_bundle import CONTENT_TYPE, PolicyBundle, PolicySettings, encode_bundle, parse_bundle
from writ.formats.reason import Reason
from writ.service.clock import Clock
from writ.verdict.cedar import load


class Policies:
    """The policies of all namespaces."""

    def __init__(self, ledger: Ledger, keys: Keys, log: OperatorLog, clock: Clock) -> None:
        self._ledger = ledger
        self._keys = keys
        self._log = log
        self._clock = clock

    def publish(
        self, operator: Operator, namespace: str, *, settings: PolicySettings, schema: str, policies: str, version: int | None
    ) -> PolicyBundle:
        """The bundle is in force, under the next version where none is given. Raises FormatError, Refused `policy-rollback`."""
        now = self._clock.now()
        held = space(self._ledger.read(), namespace)
        bundle = PolicyBundle(namespace, held.policy_version + 1 if version is None else version, now, settings, schema, policies)
        encoded = encode_bundle(bundle)
        bundle = parse_bundle(encoded)
        load(bundle)
        signed = self._keys.sign_decision(encoded, CONTENT_TYPE)
        entry = self._log.entry(operator, "policy-publish", str(bundle.digest), namespace=namespace, at=now, detail=bundle.digest)
        row = PolicyRow(str(bundle.digest), namespace, bundle.version, signed)
        self._ledger.commit(PolicyPublished(entry, row, (encoded,)))
        return bundle

    def current(self, namespace: str) -> tuple[PolicyBundle, bytes]:
        """The bundle in force, and it signed. Raises Refused `policy-unknown`."""
        tables = self._ledger.read()
        digest = space(tables, namespace).policy
        row = None if digest is None else tables.get(PolicyRow, digest)
        if row is None:
            raise Refused(Reason("policy-unknown", "policy", f"a policy of {namespace}", "none"))
        return parse_bundle(parse_sign1(row.signed).payload or b""), row.signed
