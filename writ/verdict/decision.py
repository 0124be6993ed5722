"""Decision: what `decide` returns and gates turn into their wire. Only `decide` makes one."""

from __future__ import annotations

from dataclasses import dataclass

from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.reason import Reason
from writ.formats.strict import encode_cbor


@dataclass(frozen=True, slots=True)
class Decision:
    """Proof that `decide` ran on `action`. A permit has no reasons, a refusal at least one.

    `context` is the exact encoded context the policy saw; `entered` everything
    that entered, of which `inputs` is the digest.
    """

    action: Action
    permit: bool
    reasons: tuple[Reason, ...]
    determining: tuple[str, ...]
    context: bytes
    entered: tuple[str | int | bytes | None, ...]

    @property
    def inputs(self) -> Digest:
        """The digest over everything that entered, so that equal inputs can be seen to be equal."""
        return Digest.of(encode_cbor(self.entered))
