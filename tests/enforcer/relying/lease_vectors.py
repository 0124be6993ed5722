"""The vectors about leases: check 16. The lease key is a real one in form, of a chip that is none (`tests.world.lease_chip`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from tests.enforcer.relying import vectors
from tests.enforcer.relying.vectors import CLAIMS, Made, case, no, proof, request, respelt, token, yes
from tests.world.lease_chip import LeaseChip
from writ.formats.digest import Digest
from writ.formats.lease import Lease, encode_lease, parse_lease
from writ.formats.strict import b64url, decode_cbor, encode_cbor

ST_ATTEST_NV: Final = 0x8014
CHIP: Final = LeaseChip("lease of the vectors")
"""As it was when the token was issued, ten seconds ago: its leases live for ten."""
OTHER: Final = LeaseChip("another lease of the vectors")


def after(seconds: int, chip: LeaseChip = CHIP, **changed: Any) -> LeaseChip:
    """The chip so many seconds after the appraisal."""
    made = replace(chip, **changed)
    made.advance(seconds)
    return made


def bound_token(**terms: Any) -> str:
    """A token that takes a lease."""
    return token(lease=replace(CHIP.terms(), **terms))


def given(chip: LeaseChip, compact: str, *, instance: bytes = CLAIMS.instance, key: bytes = CLAIMS.key, **made: int) -> bytes:
    """A lease by a chip for a token."""
    return chip.lease(instance, key, Digest.of(compact.encode()), **made)


def asked(expect: Made, lease: bytes | str | None, compact: str | None = None, **more: Any) -> Made:
    """A request with a token that takes a lease, unless another is given, and this lease, if any."""
    compact = compact or bound_token()
    shown = more.pop("shown", None) or proof(compact, iat=vectors.NOW + more.get("at", 0), jti=f"proof-of-second-{more.get('at', 0):04}")
    text = b64url(lease) if isinstance(lease, bytes) else lease
    headers = [("Authorization", f"DPoP {compact}"), ("DPoP", shown), *([] if text is None else [("Writ-Lease", text)])]
    return request(expect, compact=compact, shown=shown, headers=headers, **more)


def _spoilt(compact: str) -> list[tuple[str, bytes | str]]:
    """What is no lease by the key that the token names."""
    good = given(after(5), compact)
    read: Lease = parse_lease(good)
    members = decode_cbor(good, "lease")
    bit = bytes([read.attest[-1] ^ 1])
    stranger = parse_lease(given(after(5, OTHER), compact))
    return [
        ("padding", b64url(good) + "="),
        ("its last byte missing", good[:-1]),
        ("a byte too many", good + b"\0"),
        ("nothing in it", ""),
        ("another version", encode_cbor({**members, "v": 2})),
        ("an unknown member", encode_cbor({**members, "x": b""})),
        ("no signature", encode_cbor({name: value for name, value in members.items() if name != "signature"})),
        ("a number in another spelling", good.replace(b"av\x01", b"av\x18\x01", 1)),
        ("a length in another spelling", good.replace(b"fattest\x58", b"fattest\x59\0", 1)),
        ("members in another order", b"\xa4" + good[4:] + good[1:4]),
        ("a public area of 1025 bytes", encode_lease(replace(read, public=bytes(1025)))),
        ("another key", given(after(5, OTHER), compact)),
        ("another key's signature", encode_lease(replace(read, attest=stranger.attest, signature=stranger.signature))),
        ("the token's key with a byte behind it", encode_lease(replace(read, public=read.public + b"\0"))),
        ("one bit of what was signed changed", encode_lease(replace(read, attest=read.attest[:-1] + bit))),
        ("something behind its signature", encode_lease(replace(read, signature=read.signature + b"\0"))),
        ("a signature that names SHA-384", encode_lease(replace(read, signature=b"\0\x18\0\x0c" + read.signature[4:]))),
        ("r in 33 bytes", encode_lease(replace(read, signature=read.signature[:4] + b"\0\x21\0" + read.signature[6:]))),
        ("a signature of zeros", encode_lease(replace(read, signature=b"\0\x18\0\x0b\0\1\0\0\1\0"))),
        ("what no TPM made", given(after(5), compact, magic=0xFF544348)),
        ("the contents of an index in the place of the time", given(after(5), compact, kind=ST_ATTEST_NV)),
    ]


def of_the_lease() -> list[Made]:
    """Check 16, and what of 3 and 7 is about leases."""
    compact, plain = bound_token(), token()
    good, invalid, mismatch = given(after(5), compact), no(16, "lease-invalid"), no(16, "lease-mismatch")
    expired = no(16, "lease-expired")
    found = [case(f"a lease with {what}", asked(invalid, lease)) for what, lease in _spoilt(compact)]
    twice = asked(no(3, "malformed", 400), good)
    twice["headers"].append(["writ-lease", b64url(good)])
    early = given(after(0, CHIP, time=CHIP.time - 1), compact)
    shown = proof(compact, iat=vectors.NOW)
    found += [
        case("a lease in its time", asked(yes(), good)),
        case("a token that takes a lease, and none", asked(no(16, "lease-missing"), None)),
        case("two leases", twice),
        case("a lease that is not ASCII", asked(no(3, "malformed", 400), "\u00e4")),
        case("a lease for another token", asked(mismatch, given(after(5), bound_token(life=9)))),
        case("a lease for another instance", asked(mismatch, given(after(5), compact, instance=bytes(16)))),
        case("a lease for another session key", asked(mismatch, given(after(5), compact, key=bytes(32)))),
        case("a lease after a reset of the TPM", asked(mismatch, given(after(5, CHIP, reset_count=CHIP.reset_count + 1), compact))),
        case("a lease after a restart of the TPM", asked(mismatch, given(after(5, CHIP, restart_count=1), compact))),
        case("a lease from before the appraisal", asked(mismatch, early)),
        case("a lease of the moment of the appraisal, when it ends", asked(expired, given(after(0), compact))),
        case("a lease that ends now, of half a second less", asked(expired, given(after(0, CHIP, time=CHIP.time + 999), compact))),
        case("a lease that ends in a second", asked(yes(), given(after(1), compact))),
        case("a lease that ends between two requests", asked(yes(), good, at=4), asked(expired, good, at=5)),
        case("a lease of a time beyond all clocks", asked(yes(), given(after(0, CHIP, time=(1 << 64) - 1), compact))),
        case("a token whose leases do not live", asked(expired, given(after(10), bound_token(life=0)), bound_token(life=0))),
        case("a lease for a token that takes none", asked(yes(), given(after(5), plain), plain)),
        case("rubbish as a lease for a token that takes none", asked(invalid, "AAAA", plain)),
        case(
            "a proof whose lease was refused is not used up",
            asked(no(16, "lease-missing"), None, shown=shown),
            asked(yes(), good, shown=shown),
        ),
    ]  # fmt: skip
    form = no(7, "token-malformed")
    terms = CHIP.terms().to_json()
    wrong: list[tuple[str, object]] = [
        ("no object", "lease"),
        ("no key", {name: value for name, value in terms.items() if name != "key"}),
        ("a key of 31 bytes", {**terms, "key": b64url(bytes(31))}),
        ("a life of 301 s", {**terms, "life": 301}),
        ("a time above 2^53", {**terms, "time": 1 << 53}),
        ("a run of more than 32 bits", {**terms, "restart": 1 << 32}),
        ("an unknown member", {**terms, "x": 1}),
    ]
    for what, claim in wrong:
        spelt = respelt(lambda claims, claim=claim: claims.update(lease=claim))  # type: ignore[misc]  # the loop's own value
        found.append(case(f"a token whose lease claim has {what}", asked(form, good, spelt)))
    return found
