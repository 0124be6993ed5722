"""Hypothesis strategies for the TPM's structures."""

from __future__ import annotations

from hypothesis import strategies as st

from writ.formats.digest import SIZES
from writ.formats.tpm.attest import TPM_GENERATED, Attest, CertifyInfo, CreationInfo, QuoteInfo
from writ.formats.tpm.pcr import PcrSelection, PcrValues
from writ.formats.tpm.public import KNOWN_ATTRIBUTES, EccParameters, Public, RsaParameters, Scheme, Symmetric
from writ.formats.tpm.signature import Signature

BANKS = st.sampled_from(sorted(SIZES))
INDICES = st.sets(st.integers(0, 23)).map(lambda found: tuple(sorted(found)))
NAMES = st.binary(max_size=66)


def selections() -> st.SearchStrategy[PcrSelection]:
    """PCR selections of up to four banks in any order."""
    return st.lists(st.tuples(BANKS, INDICES), unique_by=lambda row: row[0], max_size=4).map(lambda rows: PcrSelection(tuple(rows)))


@st.composite
def pcr_values(draw: st.DrawFn) -> PcrValues:
    """Values of some PCRs of one bank."""
    bank = draw(BANKS)
    size = SIZES[bank]
    return PcrValues(bank, tuple((index, draw(st.binary(min_size=size, max_size=size))) for index in draw(INDICES)))


@st.composite
def attests(draw: st.DrawFn) -> Attest:
    """Attestations of every type, and of none."""
    tag = draw(st.sampled_from([0x8014, 0x8017, 0x8018, 0x8019, 0x801A]))
    digests = st.binary(max_size=64)
    body: QuoteInfo | CertifyInfo | CreationInfo | bytes
    if tag == 0x8018:
        body = QuoteInfo(draw(selections()), draw(digests))
    elif tag == 0x8017:
        body = CertifyInfo(draw(NAMES), draw(NAMES))
    elif tag == 0x801A:
        body = CreationInfo(draw(NAMES), draw(digests))
    else:
        body = draw(st.binary(max_size=40))
    return Attest(
        magic=draw(st.sampled_from([TPM_GENERATED, 0, 0xFFFFFFFF])),
        type_tag=tag,
        qualified_signer=draw(NAMES),
        extra_data=draw(NAMES),
        clock=draw(st.integers(0, 2**64 - 1)),
        reset_count=draw(st.integers(0, 2**32 - 1)),
        restart_count=draw(st.integers(0, 2**32 - 1)),
        safe=draw(st.booleans()),
        firmware_version=draw(st.integers(0, 2**64 - 1)),
        body=body,
    )


def _schemes(*names: str) -> st.SearchStrategy[Scheme | None]:
    return st.none() | st.builds(Scheme, st.sampled_from(names), BANKS)


@st.composite
def publics(draw: st.DrawFn) -> Public:
    """Public areas that can be written down; most are no usable key."""
    algorithm = draw(BANKS)
    parameters: RsaParameters | EccParameters
    if draw(st.booleans()):
        scheme = draw(_schemes("rsassa", "rsapss", "oaep") | st.just(Scheme("rsaes", None)))
        parameters = RsaParameters(draw(st.integers(0, 65535)), draw(st.integers(0, 2**32 - 1)), draw(st.binary(max_size=512)))
    else:
        scheme = draw(_schemes("ecdsa", "ecdh"))
        kdf = draw(_schemes("mgf1", "kdf1_sp800_56a", "kdf2", "kdf1_sp800_108"))
        x, y = draw(st.binary(max_size=66)), draw(st.binary(max_size=66))
        parameters = EccParameters(draw(st.sampled_from(["p256", "p384", "p521"])), kdf, x, y)
    ciphers = st.builds(
        Symmetric,
        st.sampled_from(["aes", "sm4", "camellia"]),
        st.integers(0, 65535),
        st.sampled_from(["ctr", "ofb", "cbc", "cfb", "ecb"]),
    )
    return Public(
        name_algorithm=algorithm,
        attributes=draw(st.integers(0, 2**32 - 1)) & KNOWN_ATTRIBUTES,
        auth_policy=draw(st.sampled_from([b"", bytes(SIZES[algorithm])])),
        symmetric=draw(st.none() | ciphers),
        scheme=scheme,
        parameters=parameters,
    )


def signatures() -> st.SearchStrategy[Signature]:
    """Signatures that can be written down."""
    parts = st.binary(min_size=1, max_size=66)
    values = st.binary(min_size=1, max_size=512)
    return st.builds(Signature, st.sampled_from(["rsassa", "rsapss"]), BANKS, value=values) | st.builds(
        Signature, st.just("ecdsa"), BANKS, r=parts, s=parts
    )
