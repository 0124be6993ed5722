"""The verbs of `verifier reference`."""

from __future__ import annotations

import argparse
import base64
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from verifier.check.finding import read_file
from verifier.commands import (
    connected,
    corim_file,
    duration,
    group,
    make_directory,
    moment,
    public_key,
    read,
    seconds,
    show,
    text,
    verb,
    write,
)
from verifier.operate import Client, segment
from writ.formats.corim import Corim, encode_corim, is_signed, parse_corim, parse_signed_corim, read_corim, sign_corim
from writ.formats.cose import verify_sign1
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.keys import PublicKey, key_id
from writ.formats.measurement import Governance, Measurement, parse_measured, parse_measurement
from writ.formats.reason import Reason
from writ.formats.strict import Fields
from writ.service import cli

MAX_BOOT_FILE: Final = 1 << 30
MAX_TURN: Final = 5 << 20
"""Bytes of CoRIMs that are sent at once, but for one that alone is larger."""


def add_verbs(verbs: Any) -> None:
    """`reference` and its verbs."""
    reference = group(verbs, "reference", "reference values: from where they are measured to when they are retired")
    made = verb(reference, "capture", "write what a host or a measurement shows as reference values", _reference_capture)
    made.add_argument("--host", help="take instances and governance of this host as it attested last")
    made.add_argument("--agent", help="with --host: only the instances of this agent (name or SPIFFE id)")
    made.add_argument("--governance", action="store_true", help="with --host: only the governance")
    made.add_argument(
        "--pcr",
        type=int,
        action="append",
        default=[],
        metavar="N",
        help="with its governance: PCR N, as its boot log led to it; may be repeated",
    )
    made.add_argument("--boot", action="store_true", help="with --host: what it booted: firmware, Secure Boot, loader and kernel")
    made.add_argument("--files", metavar="NAME", help="with --host: every file that its kernel measured, as files/NAME")
    made.add_argument(
        "--rooted", action="append", default=[], metavar="PART=PATH", help="with --host: measured files at or below PATH as rooted/PART"
    )
    made.add_argument(
        "--measurement", type=Path, action="append", default=[], metavar="FILE", help="an encoded measurement; may be repeated"
    )
    made.add_argument("--out", type=Path, metavar="DIR", help="write each CoRIM here")
    _valid_until(made)
    made.add_argument("--approve", action="store_true", help="import them at once")
    made.add_argument("--replace", action="store_true", help="with --approve: retire the other versions")
    made = verb(reference, "import", "approve reference values, of files or of packages", _reference_import)
    made.add_argument("files", type=Path, nargs="*", default=[], metavar="FILE")
    made.add_argument("--publisher", type=Path, metavar="KEY", help="the public key (PEM or JWK) that signed them; you vouch for it")
    made.add_argument("--adopt", action="store_true", help="with --publisher: take a vendor's values over into --namespace")
    made.add_argument(
        "--over", action="store_true", help="with --adopt: of the governance they are a part; the rest is taken from each version in force"
    )
    made.add_argument("--delegated", action="store_true", help="publishers signed them: the delegation says whether that is enough")
    _valid_until(made)
    made.add_argument("--replace", action="store_true", help="retire the other versions of the same environments")
    for kind, meant in (("deb", "Debian packages"), ("rpm", "RPM packages"), ("repo", "folders that hold an apt or yum snapshot")):
        made.add_argument(f"--{kind}", type=Path, nargs="+", default=[], metavar="FILE" if kind != "repo" else "DIR", help=meant)
    made.add_argument("--keyring", type=Path, metavar="FILE", help="OpenPGP keys, one of which signed the snapshot")
    made.add_argument("--unsigned-repo", action="store_true", help="believe a snapshot without a signature")
    made.add_argument("--out", type=Path, metavar="DIR", help="write the packages' CoRIMs here and import nothing")
    made = verb(reference, "predict", "write what booting a UKI or kernel will show as reference values, offline", _reference_predict)
    booted = made.add_mutually_exclusive_group(required=True)
    booted.add_argument("--uki", type=Path, metavar="FILE", help="a unified kernel image")
    booted.add_argument(
        "--kernel", type=Path, metavar="FILE", help="a kernel with an EFI stub; give its --cmdline, and its --initrd if any"
    )
    made.add_argument("--cmdline", metavar="TEXT", help="with --kernel: exactly what it is given")
    made.add_argument("--initrd", type=Path, metavar="FILE", help="with --kernel: its initrd")
    made.add_argument("--loader", type=Path, action="append", default=[], metavar="FILE", help="what starts it, in order; may be repeated")
    made.add_argument("--bank", choices=("sha256", "sha384"), default="sha256", help="the bank that the hosts quote")
    made.add_argument("--id", required=True, metavar="NAME", help="the CoRIM's name; one for each variant where there are several")
    made.add_argument("--out", type=Path, metavar="DIR", help="write each CoRIM here")
    verb(reference, "list", "what is in force and since when, exemptions, and what waits for approval", _reference_list)
    verb(reference, "show", "one set of reference values", _reference_show).add_argument("digest")
    made = verb(reference, "diff", "compare a CoRIM with another, or with what is in force, component by component", _reference_diff)
    made.add_argument("file", type=Path)
    made.add_argument("other", type=Path, nargs="?", help="compare with this file instead of what is in force")
    made = verb(reference, "dry-run", "say which hosts would pass, and why not, before anything changes", _reference_dry_run)
    made.add_argument("files", type=Path, nargs="*", default=[], metavar="FILE", help="CoRIMs that would come into force")
    made.add_argument("--retire", nargs="+", default=[], metavar="DIGEST", help="what would go out of force")
    made.add_argument("--replace", action="store_true", help="the other versions of the same environments would go out of force")
    made = verb(reference, "retire", "take reference values or exemptions out of force", _reference_retire)
    made.add_argument("digests", nargs="+", metavar="DIGEST")
    made = verb(reference, "except", "propose to let one difference of a refusal pass for a while", _reference_except)
    made.add_argument("refusal", help="the reference of the refused decision, as in `verifier why`")
    made.add_argument("--for", dest="life", type=duration, required=True, metavar="TIME", help="such as 4h, 90m, 2d; at most 7d")
    made.add_argument("--reason", required=True, metavar="TEXT", help="why; everybody sees it")
    made.add_argument("--host", action="append", default=[], metavar="HOST", help="on this host, not the refused one; may be repeated")
    made.add_argument("--component", metavar="CLAIM", help="which difference, where there are several")
    made = verb(reference, "approve", "approve what another person proposed, or withdraw what was proposed", _reference_approve)
    made.add_argument("proposals", nargs="+", metavar="PROPOSAL", help="its digest, or the first 12 digits of it or more")
    made.add_argument("--withdraw", action="store_true", help="it is over, and nothing of it comes into force")
    made = verb(reference, "delegate", "say what publishers may release without an operator; without FILE show it", _reference_delegate)
    made.add_argument("file", type=Path, nargs="?", help="the roles, in TOML")
    made = verb(reference, "export", "write signed CoRIMs: those in force, or files signed with a publisher's key", _reference_export)
    made.add_argument("what", nargs="*", default=[], metavar="DIGEST|FILE", help="these only; with --sign-key the files to sign")
    made.add_argument("--sign-key", type=Path, metavar="FILE", help="sign CoRIM files with this private key (PEM), offline")
    made.add_argument("--signer", default="publisher", metavar="NAME", help="with --sign-key: who signs")
    made.add_argument("--out", type=Path, required=True, metavar="DIR")


def _valid_until(made: argparse.ArgumentParser) -> None:
    made.add_argument("--valid-until", type=moment, metavar="TIME", help="of use until then: 2027-01-31, 2027-01-31T12:00Z, seconds")


def _reference_capture(args: argparse.Namespace) -> int:
    """1. What the host showed last. 2. Measurements from files. 3. Written, imported, or both."""
    from verifier.reference import captured, captured_governance, digest_of

    client = connected(args) if args.host or args.approve else None
    corims: dict[str, Corim] = {}
    # 1
    if args.host and client is not None:
        host = client.get(f"/v1/hosts/{segment(args.host)}")
        state = host.get("state")
        if not isinstance(state, dict):
            raise Refused(Reason("not-found", "host.state", "a host that attested once", "one that did not"))
        for made in _captured_machine(args, client, host):
            corims[digest_of(made)] = made
        only = args.boot or args.files or args.rooted
        governance = [(name, Digest.parse(root)) for name, root in state["governance"].items()]
        if args.agent is None and governance and (args.governance or not only):
            made = replace(captured_governance(str(host["namespace"]), governance), registers=_registers(host, args.pcr))
            corims[digest_of(made)] = made
        if not args.governance and not only:
            for measurement in _measurements(state, args.agent):
                made = captured(measurement)
                corims[digest_of(made)] = made
    # 2
    for path in args.measurement:
        measured = parse_measured(read(path))
        if isinstance(measured, Governance):
            if args.namespace is None:
                raise FormatError("--namespace", "the namespace of the hosts, for a governance measurement", "none")
            made = captured_governance(args.namespace, measured.components)
        else:
            made = captured(measured)
        corims[digest_of(made)] = made
    if not corims:
        raise Refused(Reason("not-found", "measurement", "a host's state or a file to capture", "none"))
    if args.valid_until is not None:
        corims = {digest_of(made): made for made in (replace(one, valid_until=args.valid_until) for one in corims.values())}
    if args.pcr and not any(one.registers for one in corims.values()):
        raise FormatError("--pcr", "--host, and its governance among what is captured", "no governance")
    # 3
    if args.out is not None:
        make_directory(args.out)
        for corim in corims.values():
            write(args.out / f"{corim.id}.corim", encode_corim(corim))
    outcome = {}
    if args.approve and client is not None:
        answer = _import(client, [encode_corim(corim) for corim in corims.values()], None, replace=args.replace)
        outcome = {key: answer[key] for key in ("state", "proposal", "missing")}
    listed = [{"digest": digest, **corim.to_json()} for digest, corim in corims.items()]
    return show(args, {"captured": listed, "approved": args.approve, **outcome})


def _registers(host: dict[str, Any], wanted: list[int]) -> tuple[tuple[int, Digest], ...]:
    """These PCRs of the host, in the bank that it quotes."""
    known = (host["state"].get("boot") or {}).get("registers", {})
    if missing := sorted(index for index in wanted if str(index) not in known):
        got = ", ".join(map(str, missing))
        raise Refused(Reason("not-found", "host.boot.registers", "PCRs that the host's boot log led to", got))
    return tuple((index, Digest(host["tpm"]["bank"], bytes.fromhex(known[str(index)]))) for index in sorted(set(wanted)))


def _captured_machine(args: argparse.Namespace, client: Client, host: dict[str, Any]) -> Iterator[Corim]:
    """What was asked for of the host's boot and files, as it attested them last."""
    namespace, name = str(host["namespace"]), str(host["host"])
    boot = host["state"].get("boot")
    if args.boot:
        if not boot or not boot["values"]:
            raise Refused(Reason("not-found", "host.boot", "a host whose boot log replays to its registers", name))
        for environment, known in boot["values"].items():
            yield _named(namespace, environment, known)
    if not args.files and not args.rooted:
        return
    files = {path: digests[0] for path, digests in _measured(client, name).items()}
    if args.files:
        yield _named(namespace, f"files/{args.files}", files)
    for part, place in _places(args.rooted).items():
        below = {path: digest for path, digest in files.items() if path == place or path.startswith(place.rstrip("/") + "/")}
        if not below:
            raise FormatError("--rooted", "a path that was measured", f"{part}={place}"[:100])
        yield _named(namespace, f"rooted/{part}", below)


def _places(rooted: list[str]) -> dict[str, str]:
    """The place of each part. Two of one part would be versions of it, either of which will do. Raises FormatError."""
    from writ.verdict.appraise.ima import PARTS

    places: dict[str, str] = {}
    for wanted in rooted:
        part, _, place = wanted.partition("=")
        if part not in PARTS or not place.strip("/") or part in places:
            raise FormatError("--rooted", f"PART={'|'.join(PARTS)}, each once, and a path below /", wanted[:100])
        places[part] = place
    return places


def _measured(client: Client, host: str) -> dict[str, list[str]]:
    """The files that the host's kernel measured, each in one version: who captures a machine trusts it as it is."""
    found: dict[str, list[str]] = client.get(f"/v1/hosts/{segment(host)}/files")["files"]
    twice = sorted(path for path, digests in found.items() if len(digests) > 1)
    if twice:
        raise Refused(Reason("conflict", "host.files", "each file in one version: reboot the host, then capture", ", ".join(twice)[:200]))
    return found


def _named(namespace: str, environment: str, known: Mapping[str, str]) -> Corim:
    components = tuple(sorted((name, Digest.parse(digest)) for name, digest in known.items()))
    named = Digest.of(b"".join(name.encode() + b"\0" + digest.value for name, digest in components)).hex()[:16]
    return Corim(f"{environment.replace('/', '.')}-{named}", namespace, environment, components)


def _reference_dry_run(args: argparse.Namespace) -> int:
    """Exit 0 only if every host that attested would pass; 3 where none did, since then nothing is foreseen."""
    corims = [base64.b64encode(corim_file(path)).decode("ascii") for path in args.files]
    retire = _digests(args.retire)
    answer = connected(args).post("/v1/dry-runs", {"corims": corims, "retire": retire, "replace": args.replace})
    if not answer["hosts"]:
        raise Unavailable(
            "dry run", f"no host of the namespace ever attested, so nothing is foreseen; {len(answer['never_attested'])} wait"
        )
    show(args, answer)
    return cli.REFUSED if answer["refused"] else cli.ACCEPTED


def _measurements(state: dict[str, Any], agent: str | None) -> list[Measurement]:
    found = [parse_measurement(base64.b64decode(i["measurement"])) for i in state["instances"] if i["measurement"]]
    return [m for m in found if agent is None or agent in (m.agent.name, str(m.agent))]


def _import(client: Client, items: list[bytes], publisher: dict[str, Any] | None, *, replace: bool) -> dict[str, Any]:
    corims = [base64.b64encode(item).decode("ascii") for item in items]
    return client.post("/v1/references", {"corims": corims, "publisher": publisher, "replace": replace})


def _reference_import(args: argparse.Namespace) -> int:
    if args.deb or args.rpm or args.repo:
        return _reference_import_packages(args)
    if not args.files or args.out is not None:
        raise FormatError("arguments", "FILE…, or --deb, --rpm or --repo, the latter perhaps with --out", "neither")
    items = [_until(corim_file(path), args.valid_until, path) for path in args.files]
    if args.delegated:
        if args.publisher is not None or args.replace:
            raise FormatError("--delegated", "neither --publisher nor --replace, which are an operator's", "one of them")
        return _publish(args, items)
    publisher = None if args.publisher is None else public_key(args.publisher)
    if args.over and not args.adopt:
        raise FormatError("--over", "--adopt", "no --adopt")
    client = connected(args)
    if args.adopt:
        if publisher is None or args.namespace is None:
            raise FormatError("--adopt", "--publisher and --namespace", "one of them or neither")
        adopted, publisher = [_adopted(item, publisher, args.namespace) for item in items], None
        items = [encode_corim(one) for part in adopted for one in (_over_each(client, part) if args.over else (part,))]
    jwk = None if publisher is None else publisher.to_jwk()
    return show(args, _import(client, items, jwk, replace=args.replace))


def _adopted(data: bytes, publisher: PublicKey, namespace: str) -> Corim:
    """The values that the publisher signed for a namespace of its own, unsigned, for this one. Raises FormatError, Refused.

    Only what is no agent's: an agent's SPIFFE id has its namespace in it.
    """
    signed = parse_signed_corim(data)
    if not verify_sign1(signed.sign1, publisher):
        raise Refused(Reason("signature-invalid", "corim", f"a signature by {key_id(publisher)}", "another"))
    if signed.corim.environment.startswith("spiffe://"):
        raise Refused(Reason("forbidden", "corim.environment", "one that is no agent's", signed.corim.environment))
    return replace(signed.corim, namespace=namespace)


def _over_each(client: Client, part: Corim) -> tuple[Corim, ...]:
    """A part of the governance over each version in force; where one is that already, it itself. Other values as they are.

    Raises Refused where no version is in force.
    """
    from verifier.reference import laid_over
    from writ.verdict.reference import GOVERNANCE

    if part.environment != GOVERNANCE:
        return (part,)
    rows = [row for row in client.get("/v1/references")["references"] if row["environment"] == part.environment]
    shown = [client.get(f"/v1/references/{row['digest']}") for row in rows]
    versions = [parse_signed_corim(base64.b64decode(one["signed"])).corim for one in shown]
    if not versions:
        raise Refused(Reason("not-found", part.environment, "a version in force to lay it over", "none"))
    found = {one.components: one for one in (laid_over(part, base) for base in versions)}
    return tuple({**found, **{one.components: one for one in versions if one.components in found}}.values())


def _until(data: bytes, valid_until: int | None, path: Path) -> bytes:
    """The CoRIM with that end; one that is signed cannot be given another."""
    if valid_until is None:
        return data
    if is_signed(data):
        raise FormatError(str(path), "an unsigned CoRIM, for --valid-until", "a signed one")
    return encode_corim(replace(parse_corim(data), valid_until=valid_until))


def _publish(args: argparse.Namespace, items: list[bytes]) -> int:
    """Signatures of the same CoRIM travel together; each CoRIM comes into force by itself."""
    together: dict[str, list[bytes]] = {}
    for item in items:
        together.setdefault(str(Digest.of(encode_corim(parse_signed_corim(item).corim))), []).append(item)
    client = connected(args)
    bodies = [{"signed": [base64.b64encode(one).decode("ascii") for one in signed]} for signed in together.values()]
    return show(args, {"published": [client.post("/v1/publications", body) for body in bodies]})


def _reference_import_packages(args: argparse.Namespace) -> int:
    """1. What was asked for makes sense. 2. Each package read; a set holds them. 3. Written, or imported in as many turns as it takes."""
    from verifier.packages.collect import collect
    from verifier.reference import MAX_IMPORT, digest_of, judge_size

    # 1
    if args.files or args.publisher is not None or args.delegated or args.adopt:
        raise FormatError("arguments", "packages, or files and their publisher", "both")
    if args.namespace is None:
        raise FormatError("--namespace", "the namespace of the hosts, for packages", "none")
    if args.repo and (args.keyring is None) != args.unsigned_repo:
        got = "neither" if args.keyring is None else "both"
        raise FormatError("--repo", "--keyring FILE, or --unsigned-repo to believe what nobody signed", got)
    client = None if args.out is not None else connected(args)
    # 2
    with cli.progress(None, "packages read") as bar:
        found = collect(
            args.namespace, debs=args.deb, rpms=args.rpm, snapshots=args.repo, keyring=args.keyring, seen=bar.advance
        )  # fmt: skip
    corims = [one if args.valid_until is None else replace(one, valid_until=args.valid_until) for one in found.corims]
    encoded = [encode_corim(corim) for corim in corims]
    if client is not None:
        judge_size(len(encoded), sum(map(len, encoded)))
    # 3
    if args.out is not None:
        make_directory(args.out)
    turn: list[bytes] = []
    waiting: list[str] = []
    for corim, data in zip(corims, encoded, strict=True):
        if args.out is not None:
            write(args.out / f"{corim.id}.corim", data)
        elif client is not None:
            if turn and (len(turn) == MAX_IMPORT or sum(map(len, turn)) + len(data) > MAX_TURN):
                waiting += _waiting(_import(client, turn, None, replace=args.replace))
                turn = []
            turn.append(data)
    if turn and client is not None:
        waiting += _waiting(_import(client, turn, None, replace=args.replace))
    rows = [{"digest": digest_of(c), "id": c.id, "environment": c.environment, "files": len(c.components)} for c in corims]
    shown = {"packages": rows, "empty": list(found.empty), "absent": found.absent, "signed_by": list(found.signed_by)}
    return show(args, {**shown, "imported": client is not None, "proposals": waiting})


def _waiting(answer: dict[str, Any]) -> list[str]:
    return [] if answer["proposal"] is None else [answer["proposal"]]


def _reference_predict(args: argparse.Namespace) -> int:
    from verifier.reference import digest_of
    from writ.verdict.predict import predict_kernel, predict_uki, prediction_corims

    if args.namespace is None:
        raise FormatError("--namespace", "the namespace of the hosts", "none")
    if (args.kernel is None) != (args.cmdline is None) or (args.initrd is not None and args.kernel is None):
        raise FormatError("arguments", "--cmdline with --kernel, and --initrd only there", "another")
    loaders = [read_file(path, MAX_BOOT_FILE) for path in args.loader]
    if args.uki is not None:
        predicted = predict_uki(read_file(args.uki, MAX_BOOT_FILE), loaders=loaders, bank=args.bank)
    else:
        initrd = None if args.initrd is None else read_file(args.initrd, MAX_BOOT_FILE)
        kernel = read_file(args.kernel, MAX_BOOT_FILE)
        predicted = predict_kernel(kernel, cmdline=args.cmdline, initrd=initrd, loaders=loaders, bank=args.bank)
    missing = [{"name": name, "why": why} for name, why in predicted.missing]
    if missing:
        known = [{"label": one.label, "values": {name: str(digest) for name, digest in one.values}} for one in predicted.variants]
        show(args, {"predicted": known, "missing": missing})
        return cli.REFUSED
    corims = prediction_corims(predicted, namespace=args.namespace, name=args.id)
    if args.out is not None:
        make_directory(args.out)
        for corim in corims:
            write(args.out / f"{corim.id}.corim", encode_corim(corim))
    return show(args, {"predicted": [{"digest": digest_of(corim), **corim.to_json()} for corim in corims], "missing": []})


def _reference_list(args: argparse.Namespace) -> int:
    return show(args, connected(args).get("/v1/references"))


def _reference_show(args: argparse.Namespace) -> int:
    return show(args, connected(args).get(f"/v1/references/{_digests([args.digest])[0]}"))


def _reference_diff(args: argparse.Namespace) -> int:
    """Exit 0 where it is one of the versions it is compared with, 1 where it differs from each."""
    corim = read_corim(corim_file(args.file))
    mine = _values(corim.to_json())
    compared = []
    for name, digest, theirs in _others(args, corim):
        names = [one for one in sorted({*mine, *theirs}) if mine.get(one) != theirs.get(one)]
        changed = {one: {"in_force" if args.other is None else "other": theirs.get(one), "file": mine.get(one)} for one in names}
        compared.append({"id": name, "digest": digest, "differences": changed})
    show(args, {"environment": corim.environment, "versions": compared})
    return cli.ACCEPTED if any(not one["differences"] for one in compared) else cli.REFUSED


def _others(args: argparse.Namespace, corim: Corim) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Id, digest and values of what a file is compared with."""
    if args.other is not None:
        other = read_corim(corim_file(args.other))
        if other.environment != corim.environment:
            raise FormatError(str(args.other), f"reference values of {corim.environment}", other.environment)
        yield other.id, str(Digest.of(encode_corim(other))), _values(other.to_json())
        return
    client = connected(args)
    for row in client.get("/v1/references")["references"]:
        if row["environment"] == corim.environment and row["valid_until"] != 0:  # names that were kept are no version
            yield row["id"], row["digest"], _values(client.get(f"/v1/references/{row['digest']}")["corim"])


def _values(shown: Mapping[str, Any]) -> dict[str, str]:
    """Components and PCRs of a CoRIM as JSON, by name."""
    pcrs = {f"PCR {one['index']} {one['digest'].partition(':')[0]}": one["digest"] for one in shown["registers"]}
    return {**shown["components"], **pcrs}


# --- in force, out of force, for a while ----------------------------------------------------------------------------------


def _reference_retire(args: argparse.Namespace) -> int:
    return show(args, connected(args).post("/v1/retirements", {"digests": _digests(args.digests)}))


def _digests(named: list[str]) -> list[str]:
    """The same, each spelt as `reference list` shows it. Raises FormatError."""
    for one in named:
        if re.fullmatch(r"sha256:[0-9a-f]{64}", one, re.ASCII) is None:
            raise FormatError("DIGEST", "sha256: and 64 lower-case hex digits, as `reference list` shows it", repr(one)[:80])
    return named


def _reference_except(args: argparse.Namespace) -> int:
    body = {"reference": args.refusal, "component": args.component, "hosts": args.host, "life": args.life, "why": args.reason}
    return show(args, connected(args).post("/v1/exemptions", body))


def _reference_approve(args: argparse.Namespace) -> int:
    """Each by its digest; a beginning of one has to name one open proposal."""
    client, done = connected(args), []
    act, word = ("withdraw", "withdrawn") if args.withdraw else ("approve", "approved")
    for asked in args.proposals:
        digest = _proposal(client, asked)
        done.append({word: digest, **client.post(f"/v1/proposals/{segment(digest)}/{act}")})
    return show(args, {"proposals": done})


def _proposal(client: Client, asked: str) -> str:
    """The digest of the open proposal that begins so. Raises Refused."""
    digest = asked if asked.startswith("sha256:") else f"sha256:{asked}"
    if len(digest) >= len("sha256:") + 64:
        return digest
    found = [one["proposal"] for one in client.get("/v1/references")["proposals"] if one["proposal"].startswith(digest)]
    if len(found) != 1 or len(digest) < len("sha256:") + 12:
        raise Refused(Reason("not-found", "proposal", "12 digits or more that one open proposal begins with", asked[:80]))
    return str(found[0])


def _reference_delegate(args: argparse.Namespace) -> int:
    if args.file is None:
        return show(args, connected(args).get("/v1/delegations/current"))
    return show(args, connected(args).post("/v1/delegations", roles_of(args.file)))


def roles_of(path: Path) -> dict[str, Any]:
    """The body of a delegation: `[[role]]` tables of a TOML file, whose publishers are files of public keys beside it."""
    try:
        document = Fields(tomllib.loads(text(path)), str(path))
    except tomllib.TOMLDecodeError as error:
        raise FormatError(str(path), "TOML", str(error)[:200]) from None
    roles = []
    for item in document.items("role", most=64) if document.has("role") else []:
        if not isinstance(item, dict):
            raise FormatError(f"{path}.role", "tables", type(item).__name__)
        role: dict[str, Any] = item
        keys, end = role.get("publishers"), role.get("not_after")
        if not isinstance(keys, list) or not all(isinstance(one, str) for one in keys):
            raise FormatError(f"{path}.publishers", "files of public keys", type(keys).__name__)
        roles.append({**role, "publishers": [public_key(path.parent / one).to_jwk() for one in keys], "not_after": seconds(end)})
    body: dict[str, Any] = {"roles": roles}
    if document.has("version"):
        body["version"] = document.uint("version")
    document.done()
    return body


def _reference_export(args: argparse.Namespace) -> int:
    """1. With --sign-key: CoRIM files, signed. 2. Else: what is in force, or the digests asked for, as it was signed."""
    written = []
    make_directory(args.out)
    # 1
    if args.sign_key is not None:
        from writ.service.signers import load_signer

        signer = load_signer(args.sign_key)
        if not args.what:
            raise FormatError("arguments", "CoRIM files to sign", "none")
        for corim in (read_corim(read(Path(one))) for one in args.what):
            digest = Digest.of(encode_corim(corim))
            file = args.out / f"{digest.hex()[:16]}-{key_id(signer.public)[:8]}.corim"
            write(file, sign_corim(corim, signer, signer_name=args.signer))
            written.append({"file": str(file), "digest": str(digest), "id": corim.id, "signer": args.signer})
        return show(args, {"written": written, "kid": key_id(signer.public)})
    # 2
    client = connected(args)
    for digest in args.what or [row["digest"] for row in client.get("/v1/references")["references"]]:
        shown = client.get(f"/v1/references/{segment(digest)}")
        file = args.out / f"{shown['digest'].removeprefix('sha256:')[:16]}.corim"
        write(file, base64.b64decode(shown["signed"]))
        written.append({"file": str(file), "digest": shown["digest"], "id": shown["id"], "signer": shown["signer"]})
    return show(args, {"written": written})
