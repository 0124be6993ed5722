"""Decision: what `decide` returns and gates turn into their wire. Only `decide` makes one."""

from __future__ import annotations

from dataclasses import dataclass

from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.reason import Reason


@dataclass(frozen=True, slots=True)
class Decision:
    """Proof that `decide` ran on `action`. A permit has no reasons, a refusal at least one.

    `context` is the exact encoded context the policy saw; `inputs` the digest
    over everything that entered, so that equal inputs can be seen to be equal.
    """

    action: Action
    permit: bool
    reasons: tuple[Reason, ...]
    determining: tuple[str, ...]
    context: bytes
    inputs: Digest
