"""Why the answer is no: a closed, append-only table of codes, and a value that names one.

A `Reason` is data: it is signed, stored and replayed. No prose and no
library's text is in it. The remedy is looked up when it is shown.

>>> str(Reason("nonce-mismatch", "extra_data", "aa", "bb"))
'nonce-mismatch: extra_data: expected aa, got bb'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError, Misuse
from writ.formats.strict import Fields

REMEDIES: Final[dict[str, str]] = {
    # evidence: who and when
    "signature-invalid": "The signature does not verify under the enrolled key. Re-enrol the host, or look for who altered the message.",
    "not-tpm-generated": "The attestation structure lacks TPM_GENERATED: it was not made by a TPM.",
    "wrong-attest-type": "Send the structure that TPM2_Quote returned, not another kind of attestation.",
    "algorithm-refused": "Use RSASSA, RSAPSS or ECDSA with SHA-256, SHA-384 or SHA-512.",
    "nonce-mismatch": "The evidence answers another challenge. Fetch a nonce and attest again.",
    "nonce-unknown": "Fetch a nonce from the verifier and attest again.",
    "nonce-spent": "A nonce is used once. Fetch a new one and attest again.",
    "nonce-expired": "Attest within the nonce's life; check the clock and the load of the host.",
    "nonce-superseded": "A newer nonce was fetched for this host; use that one.",
    "extra-data-mismatch": "What travelled is not what the quote binds. Let the attestor assemble the evidence.",
    "pcr-selection-mismatch": "Quote exactly the PCRs that the enrolment fixed, in that bank.",
    "pcr-digest-mismatch": "Send the PCR values that were quoted.",
    "runtime-log-mismatch": "The event log does not replay to the quoted PCR. A reboot of the host starts a clean log.",
    "runtime-log-malformed": "The event log breaks its own rules; see got.",
    "runtime-log-rewound": "Send the log from where the verifier left off, or in full.",
    "full-log-required": "A new boot, or a first attestation, needs the log from its first event.",
    # the machine over time
    "reset-count-fell": "resetCount went backwards within an enrolment: restored or cloned. `verifier host release` after inspection.",
    "clock-fell": "The TPM clock went backwards within a boot: a restored or cloned TPM. `verifier host release` after inspection.",
    "tpm-cleared": "TPM2_Clear was run, and the AK went with it: `attestor init --new-ak`, then enrol again with a new ticket.",
    "host-unknown": "Admit the host: `verifier host admit`.",
    "host-not-active": "The host is not in the active state; see got.",
    "host-contained": "An operator must inspect and release it: `verifier host release`.",
    # enrolment
    "ticket-unknown": "Admit the host and use the ticket that was printed.",
    "ticket-spent": "A ticket works once. Admit the host again for a new one.",
    "ticket-expired": "Admit the host again for a new ticket.",
    "ek-certificate-refused": "The EK certificate does not chain to a manufacturer root the verifier trusts.",
    "ek-mismatch": "The EK certificate, the EK public area and the admitted digest must name one key.",
    "ek-not-admitted": "This TPM was not admitted. Admit its EK digest or use a ticket.",
    "ek-already-bound": "This TPM belongs to another host. `verifier host replace` or `retire` decides.",
    "host-already-enrolled": "The host has another TPM. `verifier host replace` decides.",
    "ek-burnt": "This TPM was retired and can never enrol again.",
    "ak-attributes": "The AK must be restricted, signing, fixedTPM, fixedParent and sensitiveDataOrigin, with no decrypt.",
    "ak-parent": "Create the AK under the EK, so that its counters are not obfuscated.",
    "activation-wrong": "The activation answer is wrong; the challenge is burnt. Start the enrolment again.",
    "challenge-unknown": "Start the enrolment again.",
    "challenge-expired": "Answer the activation challenge within its life.",
    "runtime-pcr-refused": "The runtime PCR must be one of 8 to 15 other than 10, which no one can reset.",
    # the runtime
    "component-mismatch": "Not what was approved. Compare: `verifier reference diff`; approve: `verifier reference import`.",
    "component-missing": "The reference values name a component that was not measured, or a PCR that was not quoted.",
    "component-unexpected": "A component was measured that no reference value names.",
    "reference-expired": "All approved versions ran out. Approve another: `verifier reference capture` or `reference import`.",
    "reference-last": "Without it nothing would be refused. Import a version of what got names, or let the policy refuse runtime-only.",
    "agent-unknown": "No reference values for this agent: `verifier reference import`.",
    "governance-mismatch": "Attestor, enforcer, policy or a PCR of the host is not what was approved, or was not earlier in this boot. "
    "Compare: `verifier reference diff`.",
    "instance-unknown": "The instance has no start event in the quoted log.",
    "instance-stopped": "The instance ended; launch a new one.",
    "instance-drifted": "A measured file changed while the agent ran. The instance is tainted; launch a new one from clean sources.",
    "instance-tainted": "The instance was contained and never becomes trusted again; launch a new one.",
    "instance-key-mismatch": "The session key is not the one that the log binds to the instance.",
    "instance-key-reused": "A session key serves one instance only.",
    "attestor-not-rooted": "No boot or IMA evidence vouches for the attestor itself, so the runtime claim is `runtime-only`.",
    "tpm-class-refused": "The policy does not accept this class of TPM.",
    "action-log-inconsistent": "The action log is not an extension of the one carried before. The instance is contained.",
    "manifest-mutable": "A component was not held in the measured store.",
    # policy and token
    "policy-unknown": "Publish a policy: `verifier policy publish`.",
    "policy-refused": "No policy permits this; see `verifier policy show`.",
    "policy-error": "A policy erred on this request; an error never permits. Correct it: `verifier policy check`, `policy publish`.",
    "policy-digest-mismatch": "The bundle is not the one that the token names; fetch the current one.",
    "policy-rollback": "The bundle is older than one already held.",
    "grant-missing": "The token does not grant this action on this resource.",
    "grants-not-narrower": "An instance's grants must be within its manifest's and its parent's.",
    "lineage-broken": "What a record says led to it is not there, or was no permit for it. Get all logs of the host, and look again.",
    "parent-refused": "A parent of the instance would not pass now; ask why of the parent.",
    "token-expired": "Renew: attest again.",
    "token-not-yet-valid": "The clock of this machine is behind the verifier's by more than the allowed skew.",
    "token-audience": "The token was issued for another audience.",
    "token-issuer": "The token was issued by another verifier.",
    "token-key-unknown": "The token names a key that is not among the verifier's keys.",
    "token-malformed": "The token is not an execution token of Writ.",
    "token-revoked": "The token was revoked.",
    "status-stale": "The revocation list is older than a token's life; fetch it again.",
    "proof-missing": "Send a proof of possession with each request.",
    "proof-invalid": "The proof does not verify under the token's key.",
    "proof-replayed": "A proof is used once.",
    "proof-mismatch": "The proof is for another action, resource, argument or token.",
    "proof-stale": "The proof is older than allowed; check the clock.",
    "hold": "The instance is on hold: no valid token. It thaws after a fresh appraisal.",
    "record-not-durable": "The record could not be made durable, so the action did not pass.",
    "unknown-tool": "No tool or relying service of enforcer.toml has this name; `instance` is there for an agent whose grants name it.",
    # proof
    "proof-bundle-incomplete": "The bundle lacks a part; export it again.",
    "inclusion-invalid": "The inclusion proof does not lead to the root that was carried.",
    "checkpoint-invalid": "The checkpoint is not the log's, or a signature on it does not hold: look for who altered it.",
    "log-head-there": "The head file has a checkpoint of this log, so nothing of it is missing: `init --head` is for one that is gone.",
    "log-put-back": "The log is older than what was signed, or altered: look for a backup that was put back.",
    "quorum-missing": "Too few witnesses cosigned the checkpoint for the policy: ask them, or take a later checkpoint.",
    "log-unknown": "The witness knows no log of this origin: give it the log's key (`auditor witness serve --logs`).",
    "log-forked": "Two roots were signed for one size: keep both checkpoints, rely on neither, and look for who holds the log's key.",
    "witnessed-size": "Ask again, with the consistency proof from the size in expected: it is the last that the witness cosigned.",
    "collateral-refused": "What the bundle holds about the EK's chain was altered, or is of a CA nobody here knows: export again.",
    "receipt-invalid": "The receipt is of another entry, another log or another key.",
    "receipt-missing": "The trust file names a log, so a token comes with a receipt: look for who dropped it on its way from the verifier.",
    "verifier-rolled-back": "The verifier lost what it confirmed: keep the archive, look there, then `enforcer log settle`.",
    "consistency-invalid": "The log is not an extension of its earlier state.",
    "decision-mismatch": "Re-running the decision gives another result than was recorded.",
    "digest-mismatch": "A part of the bundle is not the one that the signed record names.",
    "trust-root-unknown": "The trust file does not name this key or root.",
    "chain-order": "The steps of the chain do not follow each other in time.",
    # the surfaces
    "malformed": "Send what the documentation of this route or command describes.",
    "unauthenticated": "Send a valid credential.",
    "forbidden": "The credential does not permit this. Where it is the namespace, name another by --namespace.",
    "not-found": "No such object in this namespace; --namespace names another, `list` or `status` shows what there is.",
    "conflict": "The object changed meanwhile or exists already; read it and try again.",
    "too-large": "Send less; the limit is in expected.",
    "too-many-requests": "Slow down and try again.",
    "unavailable": "Try again; if it persists, run `doctor` on the role.",
    "internal": "A bug of ours: report it with the reference.",
    # appended
    "action-log-base": "Prove consistency from the checkpoint that the verifier holds, whose size is in expected, and attest again.",
    # measuring a source on the host
    "source-missing": "The manifest names a source that is not there; correct the path.",
    "source-unreadable": "Let the attestor read the source, or exclude it.",
    "source-special-file": "A component holds files, links and directories only; exclude devices, sockets and pipes.",
    "source-link-escapes": "A link must stay within its component: make it relative, with `..` only at its beginning, or exclude it.",
    "source-changing": "The source changed while it was read. Launch again when it is at rest.",
    "source-setuid": "The store holds no setuid or setgid file; exclude it or clear the bit.",
    "source-too-large": "The component is larger than the limit in expected; split or exclude.",
    "record-mismatch": "An installed file is not the one its distribution's RECORD names; install the distribution again.",
    "manifest-unknown": "No manifest of this name lies in the attestor's manifests_dir.",
    "register-unclean": "The runtime PCR holds what the log does not say. A reboot of the host starts a clean log.",
    "not-enrolled": "Enrol the host: `attestor enroll`.",
    # manufacturers' certificates
    "ek-certificate-revoked": "The manufacturer revoked this certificate or a CA above it: `verifier host retire`.",
    "revocation-unknown": "Import a fresh CRL of the issuer, or an OCSP response: `verifier trust import`.",
    "fingerprint-mismatch": "The certificate is not one that is pinned: look for who altered it. You vouch for another by --tpm-class.",
    # the measurement list of IMA
    "ima-log-mismatch": "The IMA list does not replay to the quoted PCR 10. Send it in full; if that fails, reboot the host.",
    "ima-log-malformed": "The IMA list breaks the kernel's format; see got.",
    "ima-log-rewound": "Send the IMA list from where the verifier left off, or in full. A reboot starts a new one.",
    "ima-template-unknown": "Boot with ima_template=ima-ng, ima-ngv2, ima-sig, ima-sigv2 or ima-modsig.",
    "ima-violation": "A file was written while it was read or run, so its measurement says nothing. Find the writer, then reboot.",
    "ima-signature-invalid": "The file's signature does not verify under a key of the policy's keyrings. Reinstall the file.",
    "file-unknown": "No reference value names this file: `verifier reference import`, or exclude it in the policy.",
    "file-mismatch": "The file is not one that was approved: `verifier reference import` its package, or reinstall it and reboot.",
    "boot-aggregate-mismatch": "The IMA list does not belong to this boot: its boot_aggregate is not that of the quoted PCRs.",
    # measured boot
    "uefi-log-mismatch": "The boot log does not lead to this register: edited, cut, of another boot, or faulty firmware. Reboot.",
    "event-digest-mismatch": "The data beside this event's digest is not what was measured: the log was edited. Send the kernel's own log.",
    "uefi-log-malformed": "The boot log breaks the TCG format; see got. Send the kernel's own log.",
    "boot-log-required": "This host sent boot logs before: send those of this boot, or enrol it again.",
    "boot-mismatch": "Not the boot that was approved. Compare: `verifier reference diff`; approve: `verifier reference import`.",
    "ima-not-approved": "Too many files are not approved to name them all. Approve the packages first: `verifier reference import`.",
    "ima-log-partial": "Send the IMA list from the entry in expected on: it is judged when its end is the quoted register.",
    "ima-log-required": "Send the IMA list from its first entry: the verifier judges it anew.",
    "uefi-measurement-error": "The firmware reports an error while it measured. Update the firmware, then reboot.",
    # what the kernel holds
    "verity-unavailable": 'Neither fs-verity nor dm-verity holds this; see got. Enable it, or let the manifest say hold = "store".',
    # who may change what is approved
    "delegation-refused": "No role of these keys covers this: `verifier reference delegate`, or let an operator `reference import` it.",
    "delegation-rollback": "The delegation is older than the one in force: `verifier reference delegate` without a version.",
    "approval-repeated": "It takes another person: `verifier reference approve` with the API key of another operator.",
    "proposal-closed": "The proposal has lapsed, was withdrawn or is settled. Look with `verifier reference list`, and propose it again.",
    "exemption-refused": "Only a difference from the reference values, in a recorded refusal, can be excepted; name one with --component.",
    "release-retired": "An operator retired this release: sign a new one under a new id, or let an operator `reference import` it.",
    # revocation lists and OCSP responses, one after the other
    "crl-rollback": "A later CRL of this issuer, or OCSP response about this certificate, is held: fetch the newest one.",
    "crl-early": "This CRL or OCSP response is of the future: check the verifier's clock, and import it when its time has come.",
    # the devices of an agent
    "device-unknown": "No CDI specification of this host names the device; write one in JSON below cdi_dirs, or correct the manifest.",
    "device-refused": "The device asks for what no agent gets; see got. Give it a CDI specification of nodes, files and variables only.",
    "driver-not-measured": "Driver files come with the image: put the host's own version into the image component, and approve that.",
    # agents that are only watched
    "observed": "An observed agent gets no token, and its actions are recorded only. Launch it without `mode` in its manifest.",
    "observe-refused": "This host runs no observed agents: set `observe = true` in enforcer.toml, or take `mode` out of the manifest.",
    # requests that end at the enforcer
    "tls-refused": "Let the program trust the file in SSL_CERT_FILE and pin nothing, or grant net.connect on the host instead.",
    # what a decision has room for
    "host-refused": "Nothing is issued on a host that is refused: see the reasons against the host.",
    "reasons-left-out": "More stand against it than are named; see got. Mend these and attest again, or ask `verifier reference diff`.",
    # child instances
    "executables-unmeasured": "A child instance runs what its parent writes, so its executables are at warning: expected of its profile.",
    "child-refused": "A child instance is started by an agent's `instance.start` and by nothing else; its profile is `sandboxed`.",
    # leases of a key in the TPM
    "lease-key-missing": "The policy wants a key in the TPM for each instance, and the evidence shows none: update the attestor.",
    "lease-key-refused": "A lease key lies below the EK, for one instance, under the policy's approval key, with no password.",
    "lease-missing": "The token takes a lease with each request: send the one that the host's TPM made last.",
    "lease-invalid": "The lease is not by the key in the TPM that the token names.",
    "lease-mismatch": "The lease is for another token or session key, or of another run of the TPM.",
    "lease-expired": "The lease is over. The host's TPM makes another while the host is as it was approved.",
    "lease-refused": "The TPM itself refused: a register, a reset or its clock is not as approved. A fresh token brings an approval.",
    # servers of the Model Context Protocol
    "tool-changed": "Not the approved definition: compare it by `enforcer tools`, and approve the component with a new file.",
    "tool-unapproved": "Nobody approved this definition: `enforcer tools` proposes the file that does, which is measured.",
    # actions that take a person
    "approval-required": "A person has to approve this very action: `enforcer approve REF`, and then ask again.",
    "approval-unknown": "No refused action of this instance waits for it, or not any more: ask again, and approve that reference.",
    "approval-refused": "An approval is for one action, its arguments, instance and policy, by a key that the policy names. Approve anew.",
    "approval-expired": "An approval is good for 15 minutes at most, by the clocks of both ends. Approve anew.",
    # tokens for elsewhere
    "token-host": "The token is of another host: each host exchanges the tokens of its own instances.",
    "host-unappraised": "What hosts are judged by changed since this one attested: ask again once it has, within half a token's life.",
    "exchange-limit": "So many are decided under one execution token: use the tokens that were given, or wait for the next one.",
    # what a server of the Model Context Protocol would have of its client
    "input-not-offered": "The client takes no such question: use one of 2026-07-28 that declares it, or another tool.",
    "input-not-asked": "An answer is given once, to what was asked of this very request. Call without it, and answer what is asked then.",
    "stream-not-served": "Nothing is held open here: read or list again. What can be listened to is a server of 2026-07-28 on the network.",
    # a log as an auditor finds it
    "log-entry-altered": "An entry is not the one that the log committed to: keep this copy, and read the log from another place.",
    "log-entry-removed": "An entry that the log committed to is not there: keep this copy, and read the log from another place.",
    "log-entry-inserted": "An entry is there that the log never committed to: keep this copy, and read the log from another place.",
    "log-entry-reordered": "Entries stand in another order than the log committed to: keep this copy, and read the log from another place.",
    "log-entry-malformed": "The log holds what is no signed decision of a verifier: ask its operator what wrote it.",
    "log-tile-missing": "A file that the signed size calls for is not there: read the log from another place, or ask its operator.",
    "log-tile-cut": "A file ends before the signed size: read the log from another place, or ask its operator.",
    "log-tile-mismatch": "A tile is not what lies below it: read the log from another place, or ask its operator.",
    "log-trailing-bytes": "A file goes on behind its last entry or hash: keep this copy, and read the log from another place.",
    "log-root-mismatch": "Tiles and entries do not lead to the root that was signed: read the log from another place, or ask its operator.",
    "log-size-mismatch": "The checkpoint names another size than its root has, so its signer lied. Keep it, and stop relying on it.",
    "log-fork": "The log signed two histories: keep both checkpoints, stop relying on it, and ask who was shown which.",
    "log-rollback": "The log is shorter than it was: a restored backup, or a stale copy. Read it elsewhere; if it stays, ask its operator.",
    "log-genesis": "Entry 0 names the log, its key and its verifier, and no other entry does: this is another log than you were told of.",
    "log-time-backwards": "An entry is older than one before it by more than clocks may differ: ask whose clock was moved.",
    "log-time-ahead": "An entry is of a time that is still to come: ask whose clock was moved, or what silence it was to hide.",
    "log-silent": "The log said nothing for longer than was agreed: ask what ran meanwhile, and whether it was logged.",
    "log-entry-repeated": "One thing was decided twice: ask the verifier's operator; a nonce, a ticket or an id is used once.",
    # action logs as an auditor finds them
    "action-log-missing": "The verifier's log names this instance, and nobody handed its action log over: `enforcer log export` there.",
    "action-log-cut": "Records that the TPM quoted are not there: keep this copy, and look for another of that host's log.",
    "action-log-altered": "Records are not those that the TPM quoted: keep this copy, and look for another of that host's log.",
    "action-log-removed": "A record is left out: keep this copy, and look for another of that host's log.",
    "action-log-inserted": "A record is there twice, or was put in: keep this copy, and look for another of that host's log.",
    "action-log-reordered": "Records stand in another order: keep this copy, and look for another of that host's log.",
    "action-log-malformed": "The action log holds what is no record of its place: keep this copy, and ask what wrote it.",
    "action-log-forked": "Two histories of one instance: whoever has root on that host made one of them. Keep both, and contain the host.",
    "range-gap": "Something of the range is not at hand: give the archives of all hosts of the namespace, and a log of the whole time.",
    "record-time": "The record's time is not between the checkpoints around it: ask whose clock was moved.",
    "token-unlogged": "The verifier's log issued no such claims: somebody else has its token key, or it decided without its log.",
    # records off the host
    "sender-unknown": "The store lists no host with this key: list what `enforcer log vkey` prints (`auditor store serve --hosts`).",
    "instance-ambiguous": "Two hosts shipped a log of one instance: keep both, name the host to take (--host), and ask which of them lies.",
    "stored-size": "The store has the log at another size; the host goes on from there.",
    "held": "A legal hold is on it: nothing of it is erased until somebody lifts the hold, which is recorded: `enforcer log lift`.",
    "record-lag": "Records have not reached the store off the host for longer than the policy allows: see `enforcer doctor`.",
    # anchors of action logs
    "anchor-register-mismatch": "The PCR of anchors is not where they lead: somebody extended it, or dropped one. A reboot starts anew.",
    "anchor-register-unclean": "Somebody else extended the PCR of anchors, or its file is gone. Reboot; name a PCR nobody else uses.",
    "anchor-base": "Send the anchors from the register in expected, which the verifier knows, and attest again.",
    "anchor-proof-required": "Carry a log of at least the sizes in expected, with the proof from each anchor, and attest again.",
    "anchor-inconsistent": "The action log lacks what was anchored in the TPM. The instance is contained; look for who cut its log.",
    "anchor-reset": "What was anchored between the last quote and the reset of the TPM is not shown: ask why the host was reset.",
    "anchor-anew": "The host enrolled again, or was released: ask the operator named whether that was meant, and why.",
    "enrolment-unadmitted": "A host enrolled again and no operator's admission is in the log: ask the verifier's operator who let it in.",
    "anchors-off": "Name a PCR (anchor_pcr in attestor.toml), and no hardware mode; or set anchor_every = 0 in enforcer.toml.",
    "anchors-full": "A quote shows so many anchors and no more: they go on after the next one. Anchor less often, or renew sooner.",
    # certificates that vouch for hardware
    "certificate-refused": "The certificate leads to no root that is pinned; see got. Give the CAs between, or look for who altered it.",
    "certificate-expired": "A certificate of the chain is not valid at that time. Give the one after it, or judge as of another time.",
    "certificate-revoked": "The vendor revoked this certificate or a CA above it: the hardware is no longer to be trusted.",
    # AMD SEV-SNP
    "snp-unsigned": "The report has no signature, so anybody can have made it: let the host set MaskChipKey to 0, and ask for a key.",
    "snp-key-missing": "Give the certificate of the VCEK or VLEK that signed the report: `--certs DIR`, or let the host hand it out.",
    "snp-key-mismatch": "The certificate is of another kind of key than signed the report: give the one in expected.",
    "snp-key-refused": "The policy does not accept a report under this kind of key, or under the VLEK of this cloud.",
    "snp-product-mismatch": "Certificates and report are of different processors: look for who put them together.",
    "snp-product-refused": "The policy does not accept this processor; see got.",
    "snp-chip-mismatch": "The certificate is of another chip: fetch the one of the chip in the report from AMD.",
    "snp-tcb-mismatch": "The certificate is for another TCB than the chip reports: fetch the one of the reported TCB from AMD.",
    "snp-tcb-inconsistent": "AMD's firmware does not report such versions together: look for who made the report.",
    "snp-tcb-rolled-back": "The host went back to older firmware while the guest ran: update the host, then launch the guest anew.",
    "snp-tcb-old": "The platform is, or was at launch, below the floor: update firmware and microcode, then launch the guest anew.",
    "snp-tcb-provisional": "The host can still go back from this firmware: let it commit (SNP_COMMIT).",
    "snp-platform-refused": "The platform is not as the policy asks; see expected. Update its firmware, or configure it so.",
    "snp-debug": "The guest's policy lets the host read its memory. Launch it without DEBUG.",
    "snp-migration": "The guest's policy lets a migration agent take it elsewhere. Launch it without MIGRATE_MA.",
    "snp-guest-policy": "The guest was launched under another policy than is asked for; see claim. Launch it with that.",
    "snp-vmpl": "Another privilege level asked for the report, or the host did. Ask for it at the level in expected.",
    "snp-measurement": "Not a launch measurement that is accepted: compute that of the image, or find who launched another one.",
    "snp-host-data": "The host launched the guest with other data than is wanted.",
    "snp-id-block": "The guest was launched with another id block, key or version than is accepted, or with none; see claim.",
    # NVIDIA GPUs and switches
    "nvidia-model-mismatch": "The device is not the one that is stated, or of an unknown generation: collect the evidence again.",
    "nvidia-firmware-mismatch": "The attestation key was certified for other firmware than reported: reset the GPU, attest again.",
    "nvidia-debug": "The device is in a debug, recovery or insecure state, in which it protects nothing. Take a production one.",
    "nvidia-mode-refused": "Set the GPU to CC mode on, or protected PCIe where the policy takes it, neither off nor devtools; reset it.",
    "nvidia-mode-unproven": "The driver is too old for the report to say the mode. Update it, or let the host state it.",
    "nvidia-device-repeated": "Each device counts once. Collect the evidence again, once for each.",
    "nvidia-rim-missing": "Give the RIM in expected (--rims), from NVIDIA's RIM service, for this very driver or VBIOS.",
    "nvidia-rim-refused": "The two RIMs do not go together: give those of this very driver and VBIOS.",
    "nvidia-measurement-mismatch": "Firmware or driver is not what NVIDIA released as this version. Install it again, reset the GPU.",
    "nvidia-svn-low": "The firmware is older than the RIM allows: update it.",
    # Intel TDX and SGX
    "tdx-tee-refused": "An enclave's quote says nothing of a virtual machine: send the quote of the TD, or let the policy accept enclaves.",
    "tdx-key-unbound": "The quoting enclave does not vouch for the key that signed this quote: look for who put it together.",
    "tdx-qe-refused": "The report is not of Intel's quoting enclave, by the identity that Intel publishes: look at who quotes there.",
    "tdx-debug": "It runs under a debugger or a profiler, so its host may look into it. Launch it without.",
    "tdx-attributes-refused": "The TD is not launched as the policy asks; see got. Correct its attributes on the host, and launch it anew.",
    "tdx-service-td-refused": "Another TD may move or change this one, and the policy names no such TD: launch it without, or name it.",
    "tdx-module-refused": "The TDX module is not one that Intel signs: look at what loads it on that host.",
    "tdx-collateral-missing": "Give what Intel's provisioning service says of this platform: `--collateral FILE`, or import it.",
    "tdx-collateral-refused": "Intel did not sign this, or not with a key for it: fetch it anew, and look for who altered it.",
    "tdx-collateral-mismatch": "The collateral is of another platform model: fetch it for the FMSPC and PCE in expected.",
    "tdx-collateral-expired": "Intel promised newer collateral by then, or the policy asks for it: fetch it, or judge as of another time.",
    "tdx-collateral-early": "The collateral is of the future: check the clock, or judge as of another time.",
    "tdx-evaluation-old": "The collateral is of an older evaluation than the policy asks for: fetch the one of the number in expected.",
    "tdx-tcb-unknown": "No TCB level of the collateral is this low: update firmware, microcode, TDX module or quoting enclave; see got.",
    "tdx-tcb-refused": "Intel says so of this TCB; see got and the advisories. Update or configure the host, or let the policy accept it.",
    "tdx-advisory-refused": "The policy refuses a platform with this advisory of Intel: update the host as the advisory says.",
    # AWS Nitro
    "nitro-time-refused": "The document was not made while its certificate was valid, is of the future, or too old: ask for another.",
    "nitro-kind-refused": "The policy takes no document of this kind, enclave or NitroTPM: ask for one of the kind in expected.",
    "nitro-debug": "The enclave runs in debug mode, in which its console can be read and nothing is measured. Launch it without.",
    "nitro-pcr-mismatch": "Not a measurement that is accepted: compute that of the image, or find who launched another one.",
    "nitro-user-data": "The enclave bound other user data than is wanted.",
    "nitro-key-unbound": "The document does not bind this key, so somebody else may hold it: look for who put them together.",
    "azure-claims-unbound": "The hardware did not sign for these runtime claims, and the AK may be anybody's: look for who altered them.",
    "azure-report-refused": "Only a report of SEV-SNP or TDX has hardware behind it: start the VM as a confidential one.",
    "azure-td-mixed": "TDREPORT and quote are of different TDs: ask for the quote with the TDREPORT of this HCL report.",
    "azure-part-missing": "Give this part as well: the HCL report, the vTPM's quote with its PCRs, and of TDX the TD quote.",
}
"""Code -> remedy. Codes are appended and never removed or renamed: old decisions name them."""


@dataclass(frozen=True, slots=True, order=True)
class Reason:
    """Why a verdict is no: which rule, on which claim, what was expected and what came.

    `expected` and `got` are short printable text, never a secret.
    """

    code: str
    claim: str
    expected: str
    got: str

    def __post_init__(self) -> None:
        if self.code not in REMEDIES:
            raise Misuse(f"reason code {self.code!r} is not in the table")

    @property
    def remedy(self) -> str:
        """What to do next, for people."""
        return REMEDIES[self.code]

    def to_cbor(self) -> list[str]:
        """The array form that records carry."""
        return [self.code, self.claim, self.expected, self.got]

    @classmethod
    def from_cbor(cls, value: object) -> Reason:
        """Read the array form. Raises FormatError."""
        if not isinstance(value, list) or len(value) != 4:
            raise FormatError("reason", "an array of four texts", type(value).__name__)
        f = Fields(dict(enumerate(value)), "reason")
        code = f.text(0, most=64)
        if code not in REMEDIES:
            raise FormatError("reason", "a known code", repr(code))
        return cls(code, f.text(1), f.text(2), f.text(3))

    def to_json(self) -> dict[str, str]:
        """The refusal contract of every surface: code, claim, expected, got, remedy."""
        return {"code": self.code, "claim": self.claim, "expected": self.expected, "got": self.got, "remedy": self.remedy}

    def __str__(self) -> str:
        return f"{self.code}: {self.claim}: expected {self.expected}, got {self.got}"


NO_TOKEN: Final = Reason("hold", "token", "a valid execution token", "none")
"""Nothing passes now."""
