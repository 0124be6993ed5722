"""The `verifier` command: serve, and operate a verifier that serves."""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from verifier import check
from verifier.check.finding import read_file
from verifier.config import PREFIX, VerifierConfig
from verifier.operate import Client, Server, segment
from writ.formats.corim import Corim, encode_corim, parse_corim, parse_signed_corim
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.measurement import Governance, Measurement, parse_measured, parse_measurement
from writ.formats.policy_bundle import PolicyBundle, PolicySettings
from writ.formats.reason import Reason
from writ.service import cli, config

DEFAULT_POLICY: Final = Path(__file__).parent / "default_policy"
OPERATOR_KEY: Final = "operator.key"
MAX_FILE: Final = 16 << 20
MAX_BOOT_FILE: Final = 1 << 30
MAX_TURN: Final = 5 << 20
"""Bytes of CoRIMs that are sent at once, but for one that alone is larger."""

Verb = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit 0: done or accepted; 1: refused; 2: misuse; 3: could not."""
    return cli.run(_main, sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    args = _parser().parse_args(argv)
    verb: Verb = args.run
    with contextlib.ExitStack() as args.closing:
        return verb(args)


# --- the command line ---------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    top = cli.parser("verifier", "Appraise hosts and agents, and issue execution tokens.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    _local(verbs)
    _hosts(verbs)
    _governance(verbs)
    _others(verbs)
    return top


def _verb(verbs: Any, name: str, text: str, run: Verb, *, remote: bool = True) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    made.set_defaults(run=run)
    cli.add_json_flag(made)
    if remote:
        made.add_argument("--url", metavar="URL", help="address of the verifier (or VERIFIER_URL; else the issuer of --config)")
        made.add_argument("--api-key-file", type=Path, metavar="FILE", help="API key (or VERIFIER_API_KEY_FILE; else the one of --config)")
        made.add_argument("--ca-file", type=Path, metavar="FILE", help="CA of the verifier's certificate")
        made.add_argument("--namespace", metavar="NAME", help="namespace, where the key reaches several")
    return made


def _group(verbs: Any, name: str, text: str) -> Any:
    return verbs.add_parser(name, help=text, description=text).add_subparsers(dest="action", required=True, metavar="ACTION")


def _local(verbs: Any) -> None:
    _verb(verbs, "serve", "serve HTTP until stopped", _serve, remote=False)
    made = _verb(verbs, "init", "make state directory, keys, ledger and the first API key", _init, remote=False)
    made.add_argument("--api-key-file", type=Path, metavar="FILE", help="where the first API key goes (default: state_dir/operator.key)")
    _verb(verbs, "doctor", "say what is wrong with this installation", _doctor, remote=False)
    _verb(_group(verbs, "config", "the configuration"), "check", "say what is wrong with the configuration", _config_check, remote=False)
    checked = verbs.add_parser("check", help="appraise one piece of evidence offline")
    checked.set_defaults(run=_check)
    check.add_arguments(checked)


def _admission(made: argparse.ArgumentParser) -> None:
    made.add_argument("host")
    made.add_argument("--ek", metavar="sha256:HEX", help="admit this TPM by the SHA-256 of its EK's SubjectPublicKeyInfo")
    made.add_argument("--unendorsed", action="store_true", help="with --ek: the TPM has no EK certificate")
    made.add_argument("--life", type=int, default=86_400, metavar="SECONDS", help="life of the ticket")
    made.add_argument("--ticket-file", type=Path, metavar="FILE", help="write the ticket here (0600) instead of printing it")


def _hosts(verbs: Any) -> None:
    host = _group(verbs, "host", "hosts: admit, list, show, release, replace, retire, revoke")
    _admission(_verb(host, "admit", "let a host enrol once", _host_admit))
    _verb(host, "list", "the hosts of the namespace", _host_list)
    _verb(host, "show", "one host, with its instances", _host_show).add_argument("host")
    _verb(host, "release", "let a contained host attest again, after inspection", _host_act("release")).add_argument("host")
    _admission(_verb(host, "replace", "burn the host's TPM and let another enrol", _host_replace))
    _verb(host, "retire", "put host and TPM out of service for ever", _host_act("retire")).add_argument("host")
    revoke = _verb(host, "revoke", "revoke a token, an instance or a host", _revoke)
    revoke.add_argument("kind", choices=("jti", "instance", "host"))
    revoke.add_argument("subject")


def _governance(verbs: Any) -> None:
    reference = _group(verbs, "reference", "reference values: capture, import, predict, list, show, diff")
    made = _verb(reference, "capture", "write what a host or a measurement shows as reference values", _reference_capture)
    made.add_argument("--host", help="take instances and governance of this host as it attested last")
    made.add_argument("--agent", help="with --host: only the instances of this agent (name or SPIFFE id)")
    made.add_argument("--governance", action="store_true", help="with --host: only the governance")
    made.add_argument(
        "--measurement", type=Path, action="append", default=[], metavar="FILE", help="an encoded measurement; may be repeated"
    )
    made.add_argument("--out", type=Path, metavar="DIR", help="write each CoRIM here")
    made.add_argument("--approve", action="store_true", help="import them at once")
    made.add_argument("--replace", action="store_true", help="with --approve: retire the other versions")
    made = _verb(reference, "import", "approve reference values, of files or of packages", _reference_import)
    made.add_argument("files", type=Path, nargs="*", default=[], metavar="FILE")
    made.add_argument("--publisher", type=Path, metavar="JWK", help="the key that signed them")
    made.add_argument("--replace", action="store_true", help="retire the other versions of the same environments")
    for kind, text in (("deb", "Debian packages"), ("rpm", "RPM packages"), ("repo", "folders that hold an apt or yum snapshot")):
        made.add_argument(f"--{kind}", type=Path, nargs="+", default=[], metavar="FILE" if kind != "repo" else "DIR", help=text)
    made.add_argument("--keyring", type=Path, metavar="FILE", help="OpenPGP keys, one of which signed the snapshot")
    made.add_argument("--unsigned-repo", action="store_true", help="believe a snapshot without a signature")
    made.add_argument("--out", type=Path, metavar="DIR", help="write the packages' CoRIMs here and import nothing")
    made = _verb(reference, "predict", "write what booting a UKI or kernel will show as reference values, offline", _reference_predict)
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
    _verb(reference, "list", "what is in force", _reference_list)
    _verb(reference, "show", "one set of reference values", _reference_show).add_argument("digest")
    _verb(reference, "diff", "compare a CoRIM with what is in force", _reference_diff).add_argument("file", type=Path)
    policy = _group(verbs, "policy", "policy: publish, show, check")
    _policy_arguments(_verb(policy, "publish", "put a policy in force", _policy_publish))
    made = _verb(policy, "show", "the policy in force", _policy_show)
    made.add_argument("--out", type=Path, metavar="FILE", help="also write it here as signed, for services that rely on it")
    _policy_arguments(_verb(policy, "check", "say whether a policy would be accepted, offline", _policy_check, remote=False))
    trust = _group(verbs, "trust", "trust anchors: fetch, import, show, export")
    made = _verb(trust, "fetch", "get the pinned manufacturer roots from where they are published", _trust_fetch, remote=False)
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the certificates are written")
    made.add_argument("--manufacturer", action="append", metavar="ID", help="only this TCG vendor id, such as IFX; may be repeated")
    made.add_argument("--list", type=Path, metavar="FILE", help="another list of pinned roots (default: the product's)")
    made.add_argument("--tls-ca", type=Path, metavar="FILE", help="CAs for TLS instead of the system's")
    made = _verb(trust, "import", "believe pinned roots, CAs below them and their CRLs; or roots that you vouch for", _trust_import)
    made.add_argument("path", type=Path, nargs="*", metavar="FILE|DIR")
    made.add_argument(
        "--tpm-class", choices=("discrete", "firmware", "virtual", "software"), help="you vouch for the roots among the files"
    )
    made.add_argument(
        "--require-crl", action=argparse.BooleanOptionalAction, help="refuse a TPM without a fresh CRL of each issuer above it"
    )
    made.add_argument("--crl-max-age", type=int, metavar="SECONDS", help="how old a CRL may be (default: 604800)")
    made.add_argument("--accept-sha1", action=argparse.BooleanOptionalAction, help="believe old chains signed with SHA-1")
    _verb(trust, "show", "what is believed", _trust_show)
    _verb(trust, "export", "write the trust file for auditors", _trust_export).add_argument("--out", type=Path, required=True)


def _policy_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("--schema", type=Path, default=DEFAULT_POLICY / "schema.cedarschema", metavar="FILE")
    made.add_argument("--policies", type=Path, default=DEFAULT_POLICY / "default.cedar", metavar="FILE")
    made.add_argument("--accept-runtime-only", action="store_true", help="accept hosts whose attestor nothing has measured")
    classes = ("discrete", "firmware", "virtual", "software")
    made.add_argument("--tpm-class", action="append", choices=classes, help="accept this class of TPM; may be repeated")
    for name, default in (("token-life", 60), ("nonce-life", 120), ("clock-skew", 5), ("hold-max", 600)):
        made.add_argument(f"--{name}", type=int, default=default, metavar="SECONDS")


def _others(verbs: Any) -> None:
    key = _group(verbs, "key", "keys: token keys (list, rotate) and operators' API keys (create, revoke)")
    _verb(key, "list", "token keys and API keys", _key_list)
    _verb(key, "rotate", "sign tokens with a new key", _key_rotate)
    made = _verb(key, "create", "make an API key", _key_create)
    made.add_argument("--role", required=True, choices=("operator", "reader"))
    made.add_argument("--for-namespace", required=True, metavar="NAME")
    made.add_argument("--label", default="")
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the key is written (0600)")
    _verb(key, "revoke", "make an API key useless", _key_revoke).add_argument("key")
    _verb(verbs, "why", "explain a decision by its reference", _why).add_argument("reference")
    exported = _verb(verbs, "export", "write all decisions and what they rest on, for an auditor", _export)
    exported.add_argument("--out", type=Path, required=True)


# --- local --------------------------------------------------------------------------------------------------------------


def _config(args: argparse.Namespace) -> VerifierConfig:
    return config.load(VerifierConfig, args.config, os.environ, PREFIX)


def _serve(args: argparse.Namespace) -> int:
    from uvicorn import Server as HttpServer

    from verifier import compose
    from writ.service import observe

    loaded = _config(args)
    observe.configure(sys.stderr, loaded.log_level)
    verifier = compose.verifier(loaded)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # uvicorn stops at them, and raises them again when it has stopped
    try:
        server = HttpServer(compose.server_config(verifier.app, loaded))
        server.run()
    finally:
        verifier.close()
    return cli.ACCEPTED if server.started else cli.COULD_NOT


def _init(args: argparse.Namespace) -> int:
    from verifier import compose

    loaded = _config(args)
    key_file: Path = args.api_key_file or loaded.state_dir / OPERATOR_KEY
    try:
        row = compose.init(loaded, key_file)
    except FileExistsError:
        raise FormatError("--api-key-file", "a file that is not there yet", str(key_file)) from None
    made = {"state_dir": str(loaded.state_dir), "api_key_file": None if row is None else str(key_file)}
    cli.emit(made, args.json)
    return cli.ACCEPTED


def _doctor(args: argparse.Namespace) -> int:
    from verifier.doctor import examine

    found = examine(_config(args))
    cli.emit({"checks": [one.to_json() for one in found]}, args.json)
    return cli.REFUSED if any(one.remedy for one in found) else cli.ACCEPTED


def _config_check(args: argparse.Namespace) -> int:
    faults = config.check(VerifierConfig, args.config, os.environ, PREFIX)
    cli.emit({"faults": faults}, args.json)
    return cli.MISUSE if faults else cli.ACCEPTED


def _check(args: argparse.Namespace) -> int:
    result = check.check(args.kind, args, now=int(time.time()))
    cli.emit(result, args.json)
    return check.shown(result)


# --- over the API -------------------------------------------------------------------------------------------------------


def _client(args: argparse.Namespace) -> Client:
    url = args.url or os.environ.get("VERIFIER_URL")
    key = args.api_key_file or (Path(os.environ["VERIFIER_API_KEY_FILE"]) if "VERIFIER_API_KEY_FILE" in os.environ else None)
    if url is None or key is None:
        if args.config is None:
            raise FormatError("--url and --api-key-file", "both, or --config of a verifier on this machine", "neither")
        loaded = _config(args)
        url, key = url or loaded.issuer, key or loaded.state_dir / OPERATOR_KEY
    client = Client(Server(url, key, args.ca_file, args.namespace))
    args.closing.callback(client.close)
    return client


def _show(args: argparse.Namespace, value: object) -> int:
    cli.emit(value, args.json)
    return cli.ACCEPTED


def _host_admit(args: argparse.Namespace) -> int:
    body = {"host": args.host, "ek": args.ek, "unendorsed": args.unendorsed, "life": args.life}
    return _ticket(args, _client(args).post("/v1/hosts", body))


def _host_replace(args: argparse.Namespace) -> int:
    body = {"ek": args.ek, "unendorsed": args.unendorsed, "life": args.life}
    return _ticket(args, _client(args).post(f"/v1/hosts/{segment(args.host)}/replace", body))


def _ticket(args: argparse.Namespace, answer: dict[str, Any]) -> int:
    if args.ticket_file is not None and answer.get("ticket"):
        _write_secret(args.ticket_file, f"{answer['ticket']}\n".encode("ascii"))
        answer["ticket"] = None
        answer["ticket_file"] = str(args.ticket_file)
    return _show(args, answer)


def _host_list(args: argparse.Namespace) -> int:
    client, found = _client(args), []
    after: dict[str, str | int] = {}
    while page := client.get("/v1/hosts", most=500, **after)["hosts"]:
        found += page
        after = {"after": page[-1]["host"]}
    return _show(args, {"hosts": found})


def _host_show(args: argparse.Namespace) -> int:
    return _show(args, _client(args).get(f"/v1/hosts/{segment(args.host)}"))


def _host_act(act: str) -> Verb:
    def run(args: argparse.Namespace) -> int:
        return _show(args, _client(args).post(f"/v1/hosts/{segment(args.host)}/{act}"))

    return run


def _revoke(args: argparse.Namespace) -> int:
    return _show(args, _client(args).post("/v1/revocations", {"kind": args.kind, "subject": args.subject}))


def _reference_capture(args: argparse.Namespace) -> int:
    """1. What the host showed last. 2. Measurements from files. 3. Written, imported, or both."""
    from verifier.reference import captured, captured_governance, digest_of

    client = _client(args) if args.host or args.approve else None
    corims: dict[str, Corim] = {}
    # 1
    if args.host and client is not None:
        host = client.get(f"/v1/hosts/{segment(args.host)}")
        state = host.get("state")
        if not isinstance(state, dict):
            raise Refused(Reason("not-found", "host.state", "a host that attested once", "one that did not"))
        governance = [(name, Digest.parse(root)) for name, root in state["governance"].items()]
        if args.agent is None and governance:
            made = captured_governance(str(host["namespace"]), governance)
            corims[digest_of(made)] = made
        if not args.governance:
            for measurement in _measurements(state, args.agent):
                made = captured(measurement)
                corims[digest_of(made)] = made
    # 2
    for path in args.measurement:
        measured = parse_measured(_read(path))
        if isinstance(measured, Governance):
            if args.namespace is None:
                raise FormatError("--namespace", "the namespace of the hosts, for a governance measurement", "none")
            made = captured_governance(args.namespace, measured.components)
        else:
            made = captured(measured)
        corims[digest_of(made)] = made
    if not corims:
        raise Refused(Reason("not-found", "measurement", "a host's state or a file to capture", "none"))
    # 3
    if args.out is not None:
        _make_directory(args.out)
        for corim in corims.values():
            _write(args.out / f"{corim.id}.corim", encode_corim(corim))
    if args.approve and client is not None:
        _import(client, [encode_corim(corim) for corim in corims.values()], None, replace=args.replace)
    listed = [{"digest": digest, **corim.to_json()} for digest, corim in corims.items()]
    return _show(args, {"captured": listed, "approved": args.approve})


def _measurements(state: dict[str, Any], agent: str | None) -> list[Measurement]:
    found = [parse_measurement(base64.b64decode(i["measurement"])) for i in state["instances"] if i["measurement"]]
    return [m for m in found if agent is None or agent in (m.agent.name, str(m.agent))]


def _import(client: Client, items: list[bytes], publisher: dict[str, Any] | None, *, replace: bool) -> dict[str, Any]:
    corims = [base64.b64encode(item).decode("ascii") for item in items]
    return client.post("/v1/references", {"corims": corims, "publisher": publisher, "replace": replace})


def _reference_import(args: argparse.Namespace) -> int:
    from writ.formats.strict import decode_json

    if args.deb or args.rpm or args.repo:
        return _reference_import_packages(args)
    if not args.files or args.out is not None:
        raise FormatError("arguments", "FILE…, or --deb, --rpm or --repo, the latter perhaps with --out", "neither")
    publisher = None if args.publisher is None else decode_json(_read(args.publisher), "publisher")
    return _show(args, _import(_client(args), [_read(path) for path in args.files], publisher, replace=args.replace))


def _reference_import_packages(args: argparse.Namespace) -> int:
    """1. What was asked for makes sense. 2. Each package read. 3. Written, or imported in as many turns as it takes."""
    from verifier.packages.collect import collect
    from verifier.reference import MAX_IMPORT, digest_of

    # 1
    if args.files or args.publisher is not None:
        raise FormatError("arguments", "packages, or files and their publisher", "both")
    if args.namespace is None:
        raise FormatError("--namespace", "the namespace of the hosts, for packages", "none")
    if args.repo and (args.keyring is None) != args.unsigned_repo:
        got = "neither" if args.keyring is None else "both"
        raise FormatError("--repo", "--keyring FILE, or --unsigned-repo to believe what nobody signed", got)
    client = None if args.out is not None else _client(args)
    # 2
    with cli.progress(None, "packages read") as bar:
        found = collect(
            args.namespace, debs=args.deb, rpms=args.rpm, snapshots=args.repo, keyring=args.keyring, seen=bar.advance
        )  # fmt: skip
    # 3
    if args.out is not None:
        _make_directory(args.out)
    turn: list[bytes] = []
    for corim in found.corims:
        data = encode_corim(corim)
        if args.out is not None:
            _write(args.out / f"{corim.id}.corim", data)
        elif client is not None:
            if turn and (len(turn) == MAX_IMPORT or sum(map(len, turn)) + len(data) > MAX_TURN):
                _import(client, turn, None, replace=args.replace)
                turn = []
            turn.append(data)
    if turn and client is not None:
        _import(client, turn, None, replace=args.replace)
    rows = [{"digest": digest_of(c), "id": c.id, "environment": c.environment, "files": len(c.components)} for c in found.corims]
    shown = {"packages": rows, "empty": list(found.empty), "absent": found.absent, "signed_by": list(found.signed_by)}
    return _show(args, {**shown, "imported": client is not None})


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
        _show(args, {"predicted": known, "missing": missing})
        return cli.REFUSED
    corims = prediction_corims(predicted, namespace=args.namespace, name=args.id)
    if args.out is not None:
        _make_directory(args.out)
        for corim in corims:
            _write(args.out / f"{corim.id}.corim", encode_corim(corim))
    return _show(args, {"predicted": [{"digest": digest_of(corim), **corim.to_json()} for corim in corims], "missing": []})


def _reference_list(args: argparse.Namespace) -> int:
    return _show(args, _client(args).get("/v1/references"))


def _reference_show(args: argparse.Namespace) -> int:
    return _show(args, _client(args).get(f"/v1/references/{args.digest}"))


def _reference_diff(args: argparse.Namespace) -> int:
    data = _read(args.file)
    corim = parse_signed_corim(data).corim if data.startswith(b"\xd2") else parse_corim(data)
    client = _client(args)
    versions = [row for row in client.get("/v1/references")["references"] if row["environment"] == corim.environment]
    mine = {name: str(digest) for name, digest in corim.components}
    compared = []
    for row in versions:
        theirs: dict[str, str] = client.get(f"/v1/references/{row['digest']}")["corim"]["components"]
        names = [name for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)]
        changed = {name: {"in_force": theirs.get(name), "file": mine.get(name)} for name in names}
        compared.append({"id": row["id"], "digest": row["digest"], "differences": changed})
    _show(args, {"environment": corim.environment, "versions": compared})
    return cli.ACCEPTED if any(not one["differences"] for one in compared) else cli.REFUSED


def _settings(args: argparse.Namespace) -> PolicySettings:
    classes = tuple(sorted(set(args.tpm_class or ("discrete", "firmware", "virtual"))))
    return PolicySettings(args.accept_runtime_only, classes, args.token_life, args.nonce_life, args.clock_skew, args.hold_max)


def _policy_publish(args: argparse.Namespace) -> int:
    s = _settings(args)
    settings = {
        "accept_runtime_only": s.accept_runtime_only, "tpm_classes": list(s.tpm_classes), "token_life": s.token_life,
        "nonce_life": s.nonce_life, "clock_skew": s.clock_skew, "hold_max": s.hold_max,
    }  # fmt: skip
    body = {"settings": settings, "schema": _text(args.schema), "policies": _text(args.policies)}
    return _show(args, _client(args).post("/v1/policies", body))


def _policy_show(args: argparse.Namespace) -> int:
    answer = _client(args).get("/v1/policies/current")
    if args.out is not None:
        _write(args.out, base64.b64decode(answer["signed"]))
    return _show(args, answer)


def _policy_check(args: argparse.Namespace) -> int:
    from writ.verdict.cedar import load

    bundle = PolicyBundle("check", 1, 0, _settings(args), _text(args.schema), _text(args.policies))
    ids = load(bundle).ids
    return _show(args, {"verdict": "accepted", "policies": [name for _, name in ids]})


def _trust_fetch(args: argparse.Namespace) -> int:
    from verifier.manufacturers import parse_pinned_roots, pinned_roots
    from verifier.trust_fetch import fetch_roots

    pinned = pinned_roots() if args.list is None else parse_pinned_roots(_text(args.list))
    unknown = set(args.manufacturer or ()) - {root.manufacturer for root in pinned}
    if unknown:
        raise FormatError("--manufacturer", "an id of the list", ", ".join(sorted(unknown)))
    wanted = [root for root in pinned if not args.manufacturer or root.manufacturer in args.manufacturer]
    fetched = fetch_roots(wanted, args.out, ca_file=args.tls_ca)
    cli.emit({"roots": [one.to_json() for one in fetched]}, args.json)
    outcomes = {one.outcome for one in fetched}
    return cli.REFUSED if "refused" in outcomes else cli.COULD_NOT if "unreachable" in outcomes else cli.ACCEPTED


def _trust_import(args: argparse.Namespace) -> int:
    """1. The files, those of directories too. 2. With --tpm-class their certificates are vouched for; CRLs never are. 3. The rules."""
    from verifier.manufacturers import OFFERED, Offered, vouched
    from writ.formats.crl import MAX_CRL

    # 1
    paths = [one for path in args.path for one in (sorted(path.iterdir()) if path.is_dir() else [path])]
    named = [one for one in paths if one in args.path or (one.suffix.lower() in OFFERED and one.is_file())]
    files = [Offered(one.name, read_file(one, 2 * MAX_CRL)) for one in named]
    # 2
    pem, rest = vouched(files) if args.tpm_class else ("", files)
    client = _client(args)
    body: dict[str, Any] = {"files": [{"name": one.name, "data": base64.b64encode(one.data).decode("ascii")} for one in rest]}
    if pem:
        body |= {"pem": pem, "tpm_class": args.tpm_class}
    # 3
    chosen = {"crl_required": args.require_crl, "crl_max_age": args.crl_max_age, "sha1": args.accept_sha1}
    if any(value is not None for value in chosen.values()):
        body["rules"] = {**client.get("/v1/trust")["rules"], **{key: value for key, value in chosen.items() if value is not None}}
    answer = _without_file(client.post("/v1/trust", body))
    cli.emit(answer, args.json)
    return cli.REFUSED if answer["refused"] else cli.ACCEPTED


def _trust_show(args: argparse.Namespace) -> int:
    return _show(args, _without_file(_client(args).get("/v1/trust")))


def _without_file(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "file"}


def _trust_export(args: argparse.Namespace) -> int:
    answer = _client(args).get("/v1/trust")
    _write(args.out, base64.b64decode(answer["file"]))
    return _show(args, {"file": str(args.out), "digest": answer["digest"]})


def _key_list(args: argparse.Namespace) -> int:
    client = _client(args)
    return _show(args, {**client.get("/v1/keys"), **client.get("/v1/api-keys")})


def _key_rotate(args: argparse.Namespace) -> int:
    return _show(args, _client(args).post("/v1/keys/rotate"))


def _key_create(args: argparse.Namespace) -> int:
    answer = _client(args).post("/v1/api-keys", {"namespace": args.for_namespace, "role": args.role, "label": args.label})
    _write_secret(args.out, f"{answer.pop('key')}\n".encode("ascii"))
    return _show(args, {**answer, "file": str(args.out)})


def _key_revoke(args: argparse.Namespace) -> int:
    return _show(args, _client(args).post(f"/v1/api-keys/{segment(args.key)}/revoke"))


def _why(args: argparse.Namespace) -> int:
    entry = _client(args).get(f"/v1/decisions/{segment(args.reference)}")
    if args.json or entry["kind"] != "attest":
        return _show(args, entry)
    said = [*entry["reasons"], *(reason for outcome in entry["outcomes"] for reason in outcome["reasons"])]
    reasons = [Reason(r["code"], r["claim"], r["expected"], r["got"]) for r in said]
    if reasons:
        print(cli.refusal_card(reasons, entry["reference"][:16], stream=sys.stdout))
    issued = sum(outcome["issued"] for outcome in entry["outcomes"])
    print(f"{entry['verdict']}: {entry['host']} at {entry['at']}, {issued} of {len(entry['outcomes'])} instances were given a token")
    return cli.ACCEPTED


def _export(args: argparse.Namespace) -> int:
    data = _client(args).export()
    _write(args.out, data)
    return _show(args, {"file": str(args.out), "bytes": len(data)})


# --- files --------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    return read_file(path, MAX_FILE)


def _text(path: Path) -> str:
    try:
        return _read(path).decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(path.name, "UTF-8 text", "other bytes") from None


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise Unavailable(f"file {path}", error.strerror or "cannot be written") from None


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable("--out", f"expected a directory, or a place for one, at {path}: {error.strerror}") from None


def _write_secret(path: Path, data: bytes) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Unavailable(f"file {path}", error.strerror or "cannot be written") from None
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)


if __name__ == "__main__":
    sys.exit(main())
