"""Enrolment: the host shows the verifier its TPM, and pins the verifier's keys in return.

EnrolRequest  -> EnrolChallenge     EK and AK, host key, ticket; a credential that only this TPM opens
Activation    -> Enrolled           a quote over the recovered secret, which itself never travels
"""

from __future__ import annotations

from attestor.config import Enrolment, StateDir, check_register, write_enrolment
from attestor.exchange import ask
from attestor.tpm import Tpm
from writ.formats.errors import Unavailable
from writ.formats.evidence import enrolment_binding
from writ.formats.exchange import Activation, EnrolChallenge, Enrolled, EnrolRequest
from writ.formats.keys import PublicKey
from writ.formats.strict import name
from writ.service.uplink import Uplink


def enrol(
    tpm: Tpm, uplink: Uplink, state: StateDir, *, host: str, host_key: PublicKey, ticket: str | None, runtime_pcr: int, bank: str
) -> Enrolment:
    """The host is enrolled, and what it pins is durable.

    1. Show EK, EK certificates, AK and host key; a TPM that was cleared has no AK to show (Refused `tpm-cleared`).
    2. Recover the secret of the challenge.
    3. Quote it, bound to host and host key.
    4. Pin what the verifier says it is. The first answer is believed: whose it is, TLS and the ticket say.

    Raises Refused with the verifier's reasons, Unavailable, FormatError for a host name or register that cannot be.
    """
    check_register(runtime_pcr, bank)
    # 1
    tpm.check_ak()
    endorsement = tpm.endorsement()
    request = EnrolRequest(
        host=name(host, "host"),
        ticket=ticket,
        ek_public=endorsement.public,
        ek_certificates=endorsement.certificates,
        ak_public=tpm.ak_public(),
        host_key=host_key,
        runtime_pcr=runtime_pcr,
        bank=bank,
    )
    challenge = ask(uplink, "/v1/enrol", request, EnrolChallenge)
    # 2
    secret = tpm.activate(challenge.credential, challenge.secret)
    # 3
    quoted = tpm.quote(enrolment_binding(host, host_key.thumbprint(), challenge.challenge, secret), bank)
    activation = Activation(challenge.challenge, quoted.attest, quoted.signature, quoted.pcrs)
    enrolled = ask(uplink, "/v1/enrol/activate", activation, Enrolled)
    # 4
    if enrolled.host != host:
        raise Unavailable(uplink.base_url, f"expected the enrolment of {host}, got that of {enrolled.host}")
    pinned = Enrolment(
        verifier=uplink.base_url,
        host=host,
        namespace=enrolled.namespace,
        domain=enrolled.domain,
        issuer=enrolled.issuer,
        decision_key=enrolled.decision_key,
        runtime_pcr=runtime_pcr,
        bank=bank,
    )
    write_enrolment(state, pinned)
    return pinned
