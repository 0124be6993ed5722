"""Every shape a policy can have, the most permissive among them: no forgery passes under any."""

from __future__ import annotations

from dataclasses import replace

from tests.world.scene import DEMO, POLICIES, policy
from writ.formats.policy_bundle import PolicyBundle, PolicySettings
from writ.formats.state import TPM_CLASSES

PERMISSIVE = PolicySettings(
    accept_runtime_only=True, tpm_classes=tuple(sorted(TPM_CLASSES)), token_life=300, nonce_life=600, clock_skew=60, hold_max=86_400
)
WIDE = """
permit(principal, action == Writ::Action::"token.issue", resource);
permit(principal, action == Writ::Action::"tool.call", resource);
permit(principal, action == Writ::Action::"file.read", resource);
"""

SHAPES: dict[str, PolicyBundle] = {
    "most permissive": policy(PERMISSIVE, policies=WIDE),
    "demo": policy(DEMO),
    "default settings": policy(PolicySettings()),
    "no policy that permits": policy(DEMO, policies="forbid(principal, action, resource);"),
    "no class of TPM": policy(replace(DEMO, tpm_classes=())),
    "unloadable": policy(PERMISSIVE, policies="permit(principal, action, resource);"),
    "erring": policy(PERMISSIVE, policies=POLICIES + "rubbish"),
}
