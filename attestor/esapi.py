"""A real TPM by ESAPI: EK, AK, registers, quotes. The only module that imports tpm2-pytss, and only when a TPM is opened.

One thread owns the ESAPI context, so no command of ours interleaves with another, and an extend can
never slip between a quote and the values read with it. Methods may be called
from any thread; they block until the TPM has answered.

The AK is an ordinary child of the EK: its quotes show resetCount, restartCount
and firmwareVersion in the clear, and its qualified name says where it lives.

Every failure is `Unavailable`, but for a TPM that was cleared, which no retry mends (`Refused`, `tpm-cleared`): nothing a TPM does
not say is a permission.

Source: TPM 2.0 Library Part 1 to 3; TCG EK Credential Profile 2.5; tpm2-pytss 3.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from attestor.config import AK_KINDS, EK_KINDS, read_private, write_private
from attestor.tpm import QUOTED_PCRS, Clock, Endorsement, MadeLeaseKey, Quoted, Stated, check_tcti
from writ.formats.digest import Digest, hash_bytes
from writ.formats.errors import Misuse, Refused, Unavailable
from writ.formats.lease import LeaseApproval, approval_public
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_cbor, encode_cbor
from writ.formats.tpm.attest import parse_attest
from writ.formats.tpm.pcr import PcrSelection, PcrValues
from writ.formats.tpm.policy import CLOCK, RESET_COUNT, RESTART_COUNT, to_authorize
from writ.formats.tpm.public import parse_public
from writ.formats.tpm.signature import Signature, encode_signature
from writ.formats.tpm.wire import HASH_IDS

T = TypeVar("T")

_TEMPLATES: Final = {"rsa2048": "EK-RSA2048", "p256": "EK-ECC256", "p384": "EK-HIGH-ECC384"}
_CERTIFICATES: Final = {"rsa2048": 0x01C00002, "p256": 0x01C0000A, "p384": 0x01C00016}
_PERSISTENT: Final = {"rsa2048": 0x81010001, "p256": 0x81010002, "p384": 0x81010016}
_CHAIN: Final = (0x01C00100, 0x01C001FF)
"""NV indexes that may hold certificates between EK and root (EK Credential Profile 2.5, 2.2.1.5.2)."""
_MAX_CERTIFICATES: Final = 7
_AK_ATTRIBUTES: Final = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign"
_AK_TEMPLATES: Final = {"p256": "ecc:ecdsa-sha256:null", "rsa2048": "rsa2048:rsassa-sha256:null"}
_LEASE_KEY_TEMPLATE: Final = "ecc:ecdsa-sha256:null"
_ATTEMPTS: Final = 8
_TRANSIENT: Final = 0x80000000
_RC_INTEGRITY: Final = 0x9F
_RC_PCR_CHANGED: Final = 0x128
_RC_REFUSED: Final = frozenset({0x84, 0x9B, 0x9D, 0x126, _RC_INTEGRITY})
"""TPM_RC_VALUE (registers, or a policy, that are others), SIGNATURE, POLICY_FAIL, POLICY (a counter or the clock), and INTEGRITY for a key
of before a reset, or of another TPM."""
_RC_FORMAT_ONE: Final = 0x80
_RC_PLACE: Final = 0xF40
"""The bits of a response code of format one that name the parameter, handle or session at fault (TPM 2.0 Library Part 2, 6.6.3)."""


class EsapiTpm:
    """The TPM behind `tcti`. Connects at the first command and again after the TPM has gone away.

    The AK's blobs lie in `ak_file`, readable by its owner only; only this TPM
    can load them. `ek` None means the first kind that has a certificate.
    """

    lease_key_attributes = "fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|noda|restricted|sign"
    """As `formats.lease.LEASE_KEY_ATTRIBUTES` has them in bits; a verifier approves no key of others."""

    def __init__(self, tcti: str, ak_file: Path, *, allow_software: bool = False, ek: str | None = None, ak: str = "p256") -> None:
        check_tcti(tcti, allow_software=allow_software)
        if ek not in (None, *EK_KINDS) or ak not in AK_KINDS:
            raise Misuse(f"EK kinds are {EK_KINDS}, AK kinds {AK_KINDS}; got {ek}, {ak}")
        self._tcti, self._ak_file, self._ek_kind, self._ak_kind = tcti, ak_file, ek, ak
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tpm")
        self._esapi: Any = None
        self._ak: Any = None

    # --- the Protocol ------------------------------------------------------------------------------------------------

    def banks(self) -> tuple[str, ...]:
        """See `Tpm`."""
        return self._ask("banks", self._banks)

    def endorsement(self) -> Endorsement:
        """See `Tpm`."""
        return self._ask("read the EK", self._endorsement)

    def create_ak(self) -> bytes:
        """See `Tpm`."""
        return self._ask("create the AK", self._create_ak)

    def ak_public(self) -> bytes:
        """See `Tpm`."""
        return self._ask("read the AK", lambda: _read_ak(self._ak_file)[1])

    def check_ak(self) -> None:
        """See `Tpm`."""
        self._ask("load the AK", self._load_ak)

    def activate(self, credential: bytes, secret: bytes) -> bytes:
        """See `Tpm`."""
        return self._ask("activate the credential", lambda: self._activate(credential, secret))

    def extend(self, pcr: int, digests: tuple[Digest, ...]) -> None:
        """See `Tpm`."""
        self._ask(f"extend PCR {pcr}", lambda: self._extend(pcr, digests), again=False)

    def read(self, bank: str) -> PcrValues:
        """See `Tpm`."""
        return self._ask("read PCRs", lambda: self._read(bank))

    def quote(self, extra_data: bytes, bank: str) -> Quoted:
        """See `Tpm`."""
        return self._ask("quote", lambda: self._quote(extra_data, bank))

    def clock(self) -> Clock:
        """See `Tpm`."""
        return self._ask("read the clock", self._clock)

    def time(self, extra_data: bytes) -> Stated:
        """See `Tpm`."""
        return self._ask("state the time", lambda: self._time(extra_data))

    def create_lease_key(self, policy: bytes, qualifying: bytes) -> MadeLeaseKey:
        """See `Tpm`."""
        return self._ask("create a lease key", lambda: self._create_lease_key(policy, qualifying))

    def lease(self, key: MadeLeaseKey, approval: LeaseApproval, extra_data: bytes) -> Stated:
        """See `Tpm`."""
        return self._ask("sign a lease", lambda: self._lease(key, approval, extra_data))

    def close(self) -> None:
        """See `Tpm`."""
        with suppress(RuntimeError):  # closed before
            self._thread.submit(self._disconnect).result()
        self._thread.shutdown()

    # --- on the one thread -------------------------------------------------------------------------------------------

    def _ask(self, what: str, command: Callable[[], T], *, again: bool = True) -> T:
        return self._thread.submit(self._run, what, command, again).result()

    def _run(self, what: str, command: Callable[[], T], again: bool) -> T:
        """The command's answer. A TPM that went away is connected to once more; a command that may not be repeated is not."""
        os.environ.setdefault("TSS2_LOG", "all+none")  # the C libraries write to standard error what is handled here
        from tpm2_pytss import TSS2_Exception  # type: ignore[import-untyped]  # tpm2-pytss ships no types, here and below

        fresh = self._connect()
        try:
            return command()
        except TSS2_Exception as error:
            self._disconnect()
            if not again or fresh:
                raise Unavailable("TPM", f"could not {what}: response code 0x{error.rc:x}") from None
        self._connect()
        try:
            return command()
        except TSS2_Exception as error:
            self._disconnect()
            raise Unavailable("TPM", f"could not {what}: response code 0x{error.rc:x}") from None

    def _connect(self) -> bool:
        """The context is open; True if it was opened just now, with no stale object of ours left in the TPM."""
        if self._esapi is not None:
            return False
        from tpm2_pytss import ESAPI, TPM2_CAP, TSS2_Exception

        try:
            self._esapi = ESAPI(self._tcti)
            if not self._tcti.startswith("device:/dev/tpmrm"):  # a resource manager flushes by itself and shows each its own
                _, found = self._esapi.get_capability(TPM2_CAP.HANDLES, _TRANSIENT, 64)
                for handle in list(found.data.handles):
                    self._esapi.flush_context(self._esapi.tr_from_tpmpublic(handle))
        except (TSS2_Exception, RuntimeError, ValueError) as error:
            self._disconnect()
            code, device = getattr(error, "rc", None), self._tcti.removeprefix("device:")
            if device != self._tcti and not os.path.exists(device):
                raise Unavailable("TPM", f"no device {device}; `tcti` names it") from None
            raise Unavailable("TPM", f"no answer at {self._tcti}" + ("" if code is None else f": response code 0x{code:x}")) from None
        return True

    def _disconnect(self) -> None:
        esapi, ak, self._esapi, self._ak = self._esapi, self._ak, None, None
        if esapi is None:
            return
        with suppress(Exception):  # the TPM may be gone, and with it what there was to flush
            if ak is not None:
                esapi.flush_context(ak)
        with suppress(Exception):
            esapi.close()

    def _banks(self) -> tuple[str, ...]:
        from tpm2_pytss import TPM2_CAP

        names = {number: name for name, number in HASH_IDS.items()}
        _, found = self._esapi.get_capability(TPM2_CAP.PCRS, 0, 16)
        active = [names.get(int(s.hash)) for s in found.data.assignedPCR if any(bytes(s.pcrSelect))]
        if None in active or not active:
            raise Unavailable("TPM", "an active PCR bank whose hash algorithm Writ does not know: an extend would leave it untouched")
        return tuple(name for name in active if name is not None)

    def _nv(self) -> Callable[[int], bytes]:
        from tpm2_pytss.utils import NVReadEK  # type: ignore[import-untyped]

        read: Callable[[int], bytes] = NVReadEK(self._esapi)
        return read

    def _kind(self) -> str:
        """The kind of EK: the configured one, or the one the AK was made under, or the first with a certificate."""
        from tpm2_pytss.utils import NoSuchIndex

        if self._ak_file.exists():
            return _read_ak(self._ak_file)[0]
        if self._ek_kind is not None:
            return self._ek_kind
        for kind in EK_KINDS:
            with suppress(NoSuchIndex):
                self._nv()(_CERTIFICATES[kind])
                return kind
        return EK_KINDS[0]

    def _endorsement(self) -> Endorsement:
        from tpm2_pytss.utils import NoSuchIndex

        kind = self._kind()
        certificates: list[bytes] = []
        for index in (_CERTIFICATES[kind], *range(_CHAIN[0], _CHAIN[1] + 1)):
            try:
                certificates.extend(_certificates(bytes(self._nv()(index))))
            except NoSuchIndex:
                if index == _CERTIFICATES[kind]:
                    continue
                break
        with self._ek(kind) as (_, public):
            return Endorsement(bytes(public.marshal()), tuple(certificates[: 1 + _MAX_CERTIFICATES]))

    @contextmanager
    def _ek(self, kind: str) -> Iterator[tuple[Any, Any]]:
        """The EK's handle and TPMT_PUBLIC: the persistent one where it is the template's, else made anew and flushed after."""
        from tpm2_pytss import ESYS_TR, TSS2_Exception
        from tpm2_pytss.types import TPM2B_SENSITIVE_CREATE  # type: ignore[import-untyped]
        from tpm2_pytss.utils import create_ek_template

        try:
            _, template = create_ek_template(_TEMPLATES[kind], self._nv())
        except ValueError:
            raise Unavailable("TPM", f"no EK certificate of kind {kind}, and no template without one") from None
        kept = self._persistent(kind, template.publicArea)
        if kept is not None:
            yield kept
            return
        handle, made, *_ = self._esapi.create_primary(TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.ENDORSEMENT)
        try:
            yield handle, made.publicArea
        finally:
            with suppress(TSS2_Exception):
                self._esapi.flush_context(handle)

    def _persistent(self, kind: str, wanted: Any) -> tuple[Any, Any] | None:
        """The EK that the platform keeps loaded, if it is of the template; whether it is *the* EK, its certificate says."""
        from tpm2_pytss import TSS2_Exception

        try:
            handle = self._esapi.tr_from_tpmpublic(_PERSISTENT[kind])
            found = self._esapi.read_public(handle)[0].publicArea
        except TSS2_Exception:
            return None
        areas = [(int(p.type), int(p.nameAlg), int(p.objectAttributes), bytes(p.authPolicy)) for p in (found, wanted)]
        return (handle, found) if areas[0] == areas[1] else None

    @contextmanager
    def _ek_session(self, public: Any) -> Iterator[Any]:
        """An authorisation for the EK: PolicySecret of the endorsement hierarchy, or the empty password where its template allows."""
        from tpm2_pytss import ESYS_TR, TPM2_SE, TPMA_OBJECT, TSS2_Exception
        from tpm2_pytss.types import TPMT_SYM_DEF

        if public.objectAttributes & TPMA_OBJECT.USERWITHAUTH:
            yield ESYS_TR.PASSWORD
            return
        session = self._esapi.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, TPMT_SYM_DEF.parse("null"), public.nameAlg)
        try:
            self._esapi.policy_secret(ESYS_TR.ENDORSEMENT, session, expiration=0)
            yield session
        finally:
            with suppress(TSS2_Exception):  # spent by the command it authorised
                self._esapi.flush_context(session)

    def _create_ak(self) -> bytes:
        from tpm2_pytss.types import TPM2B_PUBLIC, TPM2B_SENSITIVE_CREATE

        kind = self._ek_kind or self._kind()
        template = TPM2B_PUBLIC.parse(_AK_TEMPLATES[self._ak_kind], _AK_ATTRIBUTES)
        with self._ek(kind) as (ek, ek_public), self._ek_session(ek_public) as session:
            private, public, *_ = self._esapi.create(ek, TPM2B_SENSITIVE_CREATE(), template, session1=session)
        area = bytes(public.publicArea.marshal())
        parent = parse_public(bytes(ek_public.marshal())).name()
        write_private(self._ak_file, encode_cbor({"v": 1, "ek": kind, "parent": parent, "public": area, "private": bytes(private)}))
        if self._ak is not None:
            self._esapi.flush_context(self._ak)
            self._ak = None
        return area

    def _load_ak(self) -> Any:
        """The AK's handle; it stays loaded until the connection ends.

        TPM2_Clear keeps the EK and changes what its children are wrapped with, so that none of them loads any more: TPM_RC_INTEGRITY
        below the same EK is a Clear, below another EK another TPM. Source: TPM 2.0 Library Part 3, TPM2_Clear and TPM2_Load.
        """
        from tpm2_pytss import TSS2_Exception
        from tpm2_pytss.types import TPM2B_PRIVATE, TPM2B_PUBLIC, TPMT_PUBLIC

        if self._ak is not None:
            return self._ak
        kind, area, private, parent = _read_ak(self._ak_file)
        public = TPM2B_PUBLIC(publicArea=TPMT_PUBLIC.unmarshal(area)[0])
        with self._ek(kind) as (ek, ek_public), self._ek_session(ek_public) as session:
            try:
                self._ak = self._esapi.load(ek, TPM2B_PRIVATE(private), public, session1=session)
            except TSS2_Exception as error:
                if error.rc & ~_RC_PLACE != _RC_INTEGRITY:
                    raise
                if parse_public(bytes(ek_public.marshal())).name() != parent:
                    raise Unavailable("TPM", "could not load the AK: expected the TPM that made it, got another") from None
                raise Refused(Reason("tpm-cleared", "ak", "an AK that its TPM loads", f"response code 0x{error.rc:x}")) from None
        return self._ak

    def _activate(self, credential: bytes, secret: bytes) -> bytes:
        from tpm2_pytss import ESYS_TR
        from tpm2_pytss.types import TPM2B_ENCRYPTED_SECRET, TPM2B_ID_OBJECT

        blob, _ = TPM2B_ID_OBJECT.unmarshal(credential)
        encrypted, _ = TPM2B_ENCRYPTED_SECRET.unmarshal(secret)
        ak = self._load_ak()
        with self._ek(_read_ak(self._ak_file)[0]) as (ek, ek_public), self._ek_session(ek_public) as session:
            return bytes(self._esapi.activate_credential(ak, ek, blob, encrypted, session1=ESYS_TR.PASSWORD, session2=session))

    def _extend(self, pcr: int, digests: tuple[Digest, ...]) -> None:
        from tpm2_pytss import ESYS_TR
        from tpm2_pytss.types import TPML_DIGEST_VALUES, TPMT_HA, TPMU_HA

        values = [TPMT_HA(hashAlg=HASH_IDS[d.algorithm], digest=TPMU_HA(**{d.algorithm: d.value})) for d in digests]
        self._esapi.pcr_extend(ESYS_TR(pcr), TPML_DIGEST_VALUES(values))

    def _read(self, bank: str) -> PcrValues:
        from tpm2_pytss.types import TPML_PCR_SELECTION

        values: list[tuple[int, bytes]] = []
        for group in (QUOTED_PCRS[:8], QUOTED_PCRS[8:]):  # TPM2_PCR_Read answers with at most eight digests
            _, _, digests = self._esapi.pcr_read(TPML_PCR_SELECTION.parse(f"{bank}:{','.join(map(str, group))}"))
            if len(digests) != len(group):
                raise Unavailable("TPM", f"expected {len(group)} values of the bank {bank}, got {len(digests)}")
            values.extend(zip(group, (bytes(d) for d in digests), strict=True))
        return PcrValues(bank, tuple(values))

    def _quote(self, extra_data: bytes, bank: str) -> Quoted:
        """Quote, then read; no extend of ours comes between, and one of another's (IMA) is noticed by the digest."""
        from tpm2_pytss import TPM2_ALG
        from tpm2_pytss.types import TPM2B_DATA, TPML_PCR_SELECTION, TPMT_SIG_SCHEME

        ak, selection = self._load_ak(), PcrSelection(((bank, QUOTED_PCRS),))
        asked = TPML_PCR_SELECTION.parse(f"{bank}:{','.join(map(str, QUOTED_PCRS))}")
        for _ in range(_ATTEMPTS):
            attest, signature = self._esapi.quote(ak, asked, TPM2B_DATA(extra_data), TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL))
            quote = parse_attest(bytes(attest)).quote
            pcrs = self._read(bank)
            if quote is not None and quote.pcr_digest == pcrs.digest(selection, "sha256"):
                return Quoted(bytes(attest), bytes(signature.marshal()), pcrs)
        raise Unavailable("TPM", f"PCRs changed during each of {_ATTEMPTS} quotes")

    def _time(self, extra_data: bytes) -> Stated:
        from tpm2_pytss import ESYS_TR, TPM2_ALG
        from tpm2_pytss.types import TPM2B_DATA, TPMT_SIG_SCHEME

        scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
        attest, signature = self._esapi.get_time(self._load_ak(), TPM2B_DATA(extra_data), scheme, ESYS_TR.ENDORSEMENT)
        return Stated(bytes(attest), bytes(signature.marshal()))

    def _create_lease_key(self, policy: bytes, qualifying: bytes) -> MadeLeaseKey:
        """Made below the EK, where the AK is; certified while the TPM's ticket for its making is at hand; kept as a context, unloaded."""
        from tpm2_pytss import ESYS_TR, TPM2_ALG, TSS2_Exception
        from tpm2_pytss.types import TPM2B_DATA, TPM2B_PUBLIC, TPM2B_SENSITIVE_CREATE, TPMT_SIG_SCHEME

        ak, template = self._load_ak(), TPM2B_PUBLIC.parse(_LEASE_KEY_TEMPLATE, self.lease_key_attributes)
        template.publicArea.authPolicy = policy
        with self._ek(_read_ak(self._ak_file)[0]) as (ek, ek_public):
            with self._ek_session(ek_public) as session:
                private, public, creation, made, ticket = self._esapi.create(ek, TPM2B_SENSITIVE_CREATE(), template, session1=session)
            with self._ek_session(ek_public) as session:
                key = self._esapi.load(ek, private, public, session1=session)
        try:
            context = self._esapi.context_save(key)
            attest, signature = self._esapi.certify_creation(
                ak, key, TPM2B_DATA(qualifying), made, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL), ticket, session1=ESYS_TR.PASSWORD
            )
        finally:
            with suppress(TSS2_Exception):
                self._esapi.flush_context(key)
        area, data = bytes(public.publicArea.marshal()), bytes(creation.creationData.marshal())
        return MadeLeaseKey(area, data, bytes(attest), bytes(signature.marshal()), context)

    def _lease(self, key: MadeLeaseKey, approval: LeaseApproval, extra_data: bytes) -> Stated:
        """Again, a few times, where a register moved between the policy and the signature: another's extend, and perhaps none of ours."""
        from tpm2_pytss import TSS2_Exception

        for _ in range(_ATTEMPTS):
            try:
                return self._lease_once(key, approval, extra_data)
            except TSS2_Exception as error:
                code = error.rc & ~_RC_PLACE if error.rc & _RC_FORMAT_ONE else error.rc
                if code == _RC_PCR_CHANGED:
                    continue
                if code not in _RC_REFUSED:
                    raise
                claim = f"instance.{approval.instance.hex()}.lease"
                raise Refused(Reason("lease-refused", claim, "the state that was approved", f"response code 0x{error.rc:x}")) from None
        raise Unavailable("TPM", f"PCRs changed during each of {_ATTEMPTS} leases")

    def _lease_once(self, key: MadeLeaseKey, approval: LeaseApproval, extra_data: bytes) -> Stated:
        """1. The approval's signature becomes a ticket. 2. The TPM compares its own state. 3. That was approved. 4. It states its time."""
        from tpm2_pytss import ESYS_TR, TPM2_ALG, TPM2_EO, TPM2_SE, TSS2_Exception
        from tpm2_pytss.types import TPM2B_DATA, TPML_PCR_SELECTION, TPMT_SIG_SCHEME, TPMT_SYM_DEF

        moment = approval.moment
        # 1
        ticket = self._approved(approval)
        lease_key = self._esapi.context_load(key.context)
        null = TPMT_SYM_DEF.parse("null")
        session = self._esapi.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, null, TPM2_ALG.SHA256)
        try:
            # 2
            selected = TPML_PCR_SELECTION.parse(f"{moment.bank}:{','.join(map(str, QUOTED_PCRS))}")
            self._esapi.policy_pcr(session, moment.pcr_digest, selected)
            for (offset, size), number, how in (
                (RESET_COUNT, moment.reset_count, TPM2_EO.EQ),
                (RESTART_COUNT, moment.restart_count, TPM2_EO.EQ),
                (CLOCK, moment.clock_before, TPM2_EO.UNSIGNED_LT),
            ):
                self._esapi.policy_counter_timer(session, number.to_bytes(size, "big"), how, offset)
            # 3
            name = approval_public(approval.key).name()
            self._esapi.policy_authorize(session, moment.policy, name, ticket, approval.policy_ref)
            # 4
            scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
            attest, signature = self._esapi.get_time(lease_key, TPM2B_DATA(extra_data), scheme, ESYS_TR.ENDORSEMENT, session2=session)
            return Stated(bytes(attest), bytes(signature.marshal()))
        finally:
            for handle in (lease_key, session):
                with suppress(TSS2_Exception):  # a session is spent by the command that it authorised
                    self._esapi.flush_context(handle)

    def _approved(self, approval: LeaseApproval) -> Any:
        """The TPM's ticket: the approval key signed it."""
        from tpm2_pytss import ESYS_TR, TSS2_Exception
        from tpm2_pytss.types import TPM2B_PUBLIC, TPMT_PUBLIC, TPMT_SIGNATURE

        public = TPM2B_PUBLIC(publicArea=TPMT_PUBLIC.unmarshal(approval_public(approval.key).raw)[0])
        r, s = approval.signature[:32], approval.signature[32:]
        signature = TPMT_SIGNATURE.unmarshal(encode_signature(Signature("ecdsa", "sha256", r=r, s=s)))[0]
        digest = hash_bytes("sha256", to_authorize(approval.moment.policy, approval.policy_ref))
        key = self._esapi.load_external(public, None, ESYS_TR.OWNER)
        try:
            return self._esapi.verify_signature(key, digest, signature)
        finally:
            with suppress(TSS2_Exception):
                self._esapi.flush_context(key)

    def _clock(self) -> Clock:
        info = self._esapi.read_clock().clockInfo
        return Clock(int(info.clock), int(info.resetCount), int(info.restartCount), bool(info.safe))


def _read_ak(path: Path) -> tuple[str, bytes, bytes, bytes]:
    """Kind of EK, TPMT_PUBLIC and private blob of the AK, and the name of the EK that it was made under."""
    data = read_private(path)
    if data is None:
        raise Unavailable("AK", f"expected one in {path}, found none: run `attestor init`")
    f = Fields(decode_cbor(data, "AK file"), "AK file")
    f.version(1)
    kind, public, private = f.text("ek", most=16), f.raw("public", most=4096), f.raw("private", most=4096)
    parent = f.raw("parent", most=66)
    f.done()
    return kind, public, private, parent


def _certificates(data: bytes) -> Iterator[bytes]:
    """The DER certificates in an NV index: one or several behind each other, then perhaps padding, which is dropped."""
    at = 0
    while data[at : at + 2] == b"\x30\x82" and at + 4 <= len(data):
        end = at + 4 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > len(data):
            return
        yield data[at:end]
        at = end
