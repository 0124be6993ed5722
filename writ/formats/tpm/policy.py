"""Policy digests: what a policy session of a TPM holds after its commands, computed without a TPM.

A key whose authPolicy is such a digest is used only in a session that went through the same commands with the same arguments. Each function
takes the digest before and gives the digest after, in SHA-256, the name algorithm of every key here:

>>> policy_authorize(b"\\x00\\x0b" + bytes(32), b"").hex()[:16]
'fe1a8753ae004faf'

Nothing here says that a TPM ran anything: it is what one *would* have to run.

Source: TPM 2.0 Library Part 3, TPM2_PolicyPCR, TPM2_PolicyCounterTimer, TPM2_PolicyAuthorize; Part 2, TPM_EO, TPMS_TIME_INFO.
"""

from __future__ import annotations

from typing import Final

from writ.formats.digest import hash_bytes
from writ.formats.tpm.pcr import PcrSelection, encode_pcr_selection
from writ.formats.tpm.wire import uint

BEGINNING: Final = bytes(32)
"""The digest of a session that has just been started."""

EQUAL: Final = 0x0000
UNSIGNED_LESS: Final = 0x0005
"""TPM_EO: how the TPM compares its own number, on the left, with the operand."""

CLOCK: Final = (8, 8)
RESET_COUNT: Final = (16, 4)
RESTART_COUNT: Final = (20, 4)
"""Offset and size, in bytes, within TPMS_TIME_INFO."""

_POLICY_AUTHORIZE: Final = 0x0000016A
_POLICY_COUNTER_TIMER: Final = 0x0000016D
_POLICY_PCR: Final = 0x0000017F


def policy_pcr(before: bytes, selection: PcrSelection, pcr_digest: bytes) -> bytes:
    """After TPM2_PolicyPCR, which the TPM runs only while the selected PCRs hash to `pcr_digest` (SHA-256)."""
    return hash_bytes("sha256", before, uint(_POLICY_PCR, 4, "command"), encode_pcr_selection(selection), pcr_digest)


def policy_counter_timer(before: bytes, part: tuple[int, int], operand: int, operation: int) -> bytes:
    """After TPM2_PolicyCounterTimer, which the TPM runs only while `part` of its own TPMS_TIME_INFO compares so with `operand`.

    Raises FormatError where the operand does not fit.
    """
    offset, size = part
    arguments = hash_bytes("sha256", uint(operand, size, "operandB"), uint(offset, 2, "offset"), uint(operation, 2, "operation"))
    return hash_bytes("sha256", before, uint(_POLICY_COUNTER_TIMER, 4, "command"), arguments)


def policy_authorize(key_name: bytes, policy_ref: bytes) -> bytes:
    """After TPM2_PolicyAuthorize, whatever was before: the key of `key_name` signed that, for `policy_ref`."""
    return hash_bytes("sha256", hash_bytes("sha256", BEGINNING, uint(_POLICY_AUTHORIZE, 4, "command"), key_name), policy_ref)


def to_authorize(approved: bytes, policy_ref: bytes) -> bytes:
    """The message that the approving key signs: the digest that is approved, and for what."""
    return approved + policy_ref
