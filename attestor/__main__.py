"""The command `attestor`: init, enroll, measure, manifest, serve, status, doctor, config."""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attestor.config import AttestorConfig, check_register, read_enrolment
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import REMEDIES
from writ.formats.strict import name
from writ.formats.tpm.pcr import BANKS, RUNTIME_PCRS
from writ.service import cli, observe
from writ.service import config as configuration

if TYPE_CHECKING:
    from attestor.measure.tree import Identity
    from writ.formats.digest import Digest
    from writ.formats.tree import Component

_STATUS_SECONDS: Final = 5.0


@cli.command
def main(argv: Sequence[str]) -> int:
    """Run one command; the exit code."""
    args = _parser().parse_args(list(argv))
    run: int = args.run(args)
    return run


def _parser() -> argparse.ArgumentParser:
    top = cli.parser("attestor", "Measures agents into the TPM of this host and brings their evidence to the verifier.")
    verbs = top.add_subparsers(required=True, metavar="VERB")

    init = verbs.add_parser("init", help="make state directory, host key and AK")
    init.add_argument("--new-ak", action="store_true", help="replace an AK that exists; the host must enrol again")
    init.set_defaults(run=_init)

    enroll = verbs.add_parser("enroll", help="enrol this host at a verifier")
    enroll.add_argument("--verifier", required=True, metavar="URL")
    enroll.add_argument("--host", required=True, metavar="NAME")
    enroll.add_argument("--ticket", metavar="FILE", help="file with the operator's ticket; - is standard input")
    enroll.add_argument("--pcr", type=int, default=13, help=f"runtime PCR, one of {', '.join(map(str, RUNTIME_PCRS))} (default 13)")
    enroll.add_argument("--bank", default="sha256", help=f"bank that quotes cover: {' or '.join(BANKS)} (default sha256)")
    enroll.set_defaults(run=_enroll)

    measure = verbs.add_parser("measure", help="show what a manifest would measure to; nothing is extended")
    measure.add_argument("manifest", nargs="?", type=Path, metavar="MANIFEST")
    measure.add_argument("--governance", action="store_true", help="measure attestor, enforcer, libraries and interpreter instead")
    measure.add_argument("--offline", action="store_true", help="use no TPM and no enrolment; --domain names the trust domain")
    measure.add_argument("--domain", metavar="DOMAIN", help="trust domain of the agent (default: the enrolled one)")
    measure.add_argument("--out", type=Path, metavar="FILE", help="also write the encoded measurement")
    measure.set_defaults(run=_measure)

    of_manifests = _manifest_verbs(verbs.add_parser("manifest", help="work on manifests"))
    serve = verbs.add_parser("serve", help="run the daemon")
    serve.set_defaults(run=_serve)
    status = verbs.add_parser("status", help="ask the running daemon how it stands")
    status.set_defaults(run=_status)
    doctor = verbs.add_parser("doctor", help="look for what is wrong with this host")
    doctor.set_defaults(run=_doctor)
    check = (
        verbs.add_parser("config", help="the configuration")
        .add_subparsers(required=True, metavar="VERB")
        .add_parser("check", help="say what is wrong with it")
    )
    check.set_defaults(run=_config_check)
    for verb in (init, enroll, measure, *of_manifests, serve, status, doctor, check):
        cli.add_json_flag(verb)
    return top


def _manifest_verbs(parser: argparse.ArgumentParser) -> tuple[argparse.ArgumentParser, ...]:
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    draft = verbs.add_parser("draft", help="run a program and propose its manifest on standard output")
    draft.add_argument("--agent", default="agent", metavar="NAME")
    draft.add_argument("--namespace", default="default", metavar="NAME")
    draft.add_argument("command", nargs="+", metavar="CMD", help="after --")
    draft.set_defaults(run=_draft)

    image = verbs.add_parser("image", help="propose an image component out of this host's own files")
    image.add_argument("program", nargs="+", type=Path, metavar="PROGRAM", help="a program or library, with what it loads")
    image.add_argument("--tree", action="append", default=[], type=Path, metavar="DIR", help="a directory, whole, with what it loads")
    image.set_defaults(run=_image)

    oci = verbs.add_parser("oci", help="unpack an OCI image layout, and propose the manifest of an agent that runs on it")
    oci.add_argument("layout", type=Path, metavar="LAYOUT", help="directory or tar, as `skopeo copy` and `docker save` write it")
    oci.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the image's tree goes; nothing may be there")
    oci.add_argument("--tag", metavar="NAME", help="which image, where the layout has several")
    oci.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="for which platform (default: this machine's)")
    oci.add_argument("--drop-setuid", action="store_true", help="let files lose setuid, setgid and capabilities instead of refusing them")
    oci.add_argument("--agent", default="agent", metavar="NAME")
    oci.add_argument("--namespace", default="default", metavar="NAME")
    oci.add_argument("--command", nargs=argparse.REMAINDER, default=[], metavar="CMD", help="last: instead of the image's own")
    oci.set_defaults(run=_oci)
    return draft, image, oci


def _config(args: argparse.Namespace) -> AttestorConfig:
    return configuration.load(AttestorConfig, args.config, os.environ, "ATTESTOR")


# --- setting up ------------------------------------------------------------------------------------------------------


def _init(args: argparse.Namespace) -> int:
    from attestor.compose import build_tpm
    from writ.formats.tpm.public import parse_public, spki_digest
    from writ.service.signers import load_or_create_signer

    config = _config(args)
    state = config.state
    state.make()
    key = load_or_create_signer(state.host_key)
    with contextlib.closing(build_tpm(config)) as tpm:
        made = args.new_ak or not state.ak.exists()
        area = tpm.create_ak() if made else tpm.ak_public()
        tpm.check_ak()
        endorsement = tpm.endorsement()
    shown = {
        "state": str(state.path),
        "ak_name": parse_public(area).name().hex(),
        "ak_created": made,
        "ek": str(spki_digest(parse_public(endorsement.public))),
        "ek_certificates": len(endorsement.certificates),
        "host_key": base64.urlsafe_b64encode(key.public.thumbprint()).rstrip(b"=").decode(),
    }
    cli.emit(shown, args.json)
    return cli.ACCEPTED


def _enroll(args: argparse.Namespace) -> int:
    from attestor.compose import build_tpm, build_uplink
    from attestor.enrol import enrol
    from writ.service.signers import load_signer

    check_register(args.pcr, args.bank)
    name(args.host, "host")
    config = _config(args)
    key = load_signer(config.state.host_key)
    ticket = _ticket(args.ticket)
    with contextlib.closing(build_tpm(config)) as tpm, build_uplink(config, args.verifier, None) as uplink:
        pinned = enrol(tpm, uplink, config.state, host=args.host, host_key=key.public, ticket=ticket, runtime_pcr=args.pcr, bank=args.bank)
    shown = {
        "host": pinned.host,
        "namespace": pinned.namespace,
        "domain": pinned.domain,
        "issuer": pinned.issuer,
        "decision_key": base64.urlsafe_b64encode(pinned.decision_key.thumbprint()).rstrip(b"=").decode(),
        "runtime_pcr": pinned.runtime_pcr,
        "bank": pinned.bank,
    }
    cli.emit(shown, args.json)
    return cli.ACCEPTED


def _ticket(place: str | None) -> str | None:
    if place is None:
        return None
    try:
        text = sys.stdin.read(1024) if place == "-" else Path(place).read_text(encoding="ascii")[:1024]
    except (OSError, UnicodeDecodeError):
        raise Unavailable("ticket", f"cannot read {place}") from None
    return text.strip()


# --- measuring -------------------------------------------------------------------------------------------------------


def _measure(args: argparse.Namespace) -> int:
    if args.governance == (args.manifest is not None):
        raise FormatError("arguments", "MANIFEST or --governance", "both" if args.governance else "neither")
    return _measure_governance(args) if args.governance else _measure_agent(args)


def _measure_governance(args: argparse.Namespace) -> int:
    from attestor.measure.governance import measure_governance
    from writ.formats.tree import component_root

    parts = measure_governance()
    if args.json:
        cli.emit({"governance": {part.name: str(component_root(part)) for part in parts}, "components": [_tree(p) for p in parts]}, True)
    else:
        cli.emit({"governance": {part.name: str(component_root(part)) for part in parts}}, False)
    if args.out is not None:
        from writ.formats.measurement import Governance, encode_governance

        _write_out(args.out, encode_governance(Governance(tuple((part.name, component_root(part)) for part in parts))))
    return cli.ACCEPTED


def _measure_agent(args: argparse.Namespace) -> int:
    from attestor.measure.doubts import doubts
    from attestor.measure.manifest import measure_manifest, read_manifest
    from attestor.measure.tree import hash_file
    from attestor.measure.verity import Artefacts
    from writ.formats.eventlog.runtime import command_digest
    from writ.formats.measurement import encode_measurement

    if args.offline and args.domain is None:
        raise FormatError("arguments", "--domain DOMAIN with --offline", "none")
    domain = args.domain or read_enrolment(_config(args).state).domain
    manifest = read_manifest(args.manifest)
    with cli.progress(None, "bytes hashed") as bar:

        def read(fd: int, identity: Identity, executable: bool) -> tuple[Digest, int]:
            digest, size = hash_file(fd, identity, executable)
            bar.advance(size)
            return digest, size

        held = Artefacts(bar.advance)
        measured = measure_manifest(manifest, args.manifest.resolve().parent, domain=domain, read=read, held=held)
    m = measured.measurement
    shown: dict[str, object] = {
        "agent": str(m.agent),
        "manifest_root": str(m.root()),
        "command": list(m.command),
        "command_digest": str(command_digest(m.command)),
        "secrets": [list(one) for one in m.secrets],
        "components": [_tree(tree) if args.json else _summary(tree) for tree in measured.trees],
        "doubts": list(doubts(manifest)),
    }
    if not args.offline:
        enrolment = read_enrolment(_config(args).state)
        shown["register"] = {"pcr": enrolment.runtime_pcr, "bank": enrolment.bank}
    cli.emit(shown, args.json)
    if args.out is not None:
        _write_out(args.out, encode_measurement(m))
    return cli.ACCEPTED


def _tree(part: Component) -> dict[str, object]:
    from writ.formats.tree import component_root

    rows = []
    for entry in part.entries:
        row: dict[str, object] = {"path": entry.path, "kind": entry.kind}
        if entry.digest is not None:
            row |= {"digest": str(entry.digest), "size": entry.size, "executable": entry.mode_exec}
        if entry.target is not None:
            row["target"] = entry.target
        rows.append(row)
    return {"name": part.name, "kind": part.kind, "root": str(component_root(part)), "entries": rows}


def _summary(part: Component) -> dict[str, object]:
    """What a person looks at; each entry is in --json."""
    from writ.formats.tree import component_root

    size = sum(entry.size or 0 for entry in part.entries)
    return {"name": part.name, "kind": part.kind, "root": str(component_root(part)), "entries": f"{len(part.entries)}, {size} bytes"}


def _write_out(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise Unavailable("output", f"{path}: {error.strerror}") from None


def _draft(args: argparse.Namespace) -> int:
    from attestor.measure.draft import draft, trace

    command = tuple(args.command)
    toml = draft(
        command, trace(command), Path.cwd().resolve(), agent=name(args.agent, "agent"), namespace=name(args.namespace, "namespace")
    )
    if args.json:
        cli.emit({"manifest": toml.decode()}, True)
    else:
        sys.stdout.write(toml.decode())
    return cli.ACCEPTED


def _image(args: argparse.Namespace) -> int:
    from attestor.measure.closure import image_of
    from writ.formats.manifest import component_lines

    toml = "\n".join(component_lines(image_of(args.program, args.tree))) + "\n"
    if args.json:
        cli.emit({"component": toml}, True)
    else:
        sys.stdout.write(toml)
    return cli.ACCEPTED


def _oci(args: argparse.Namespace) -> int:
    from attestor.measure.oci import Layout, this_platform
    from attestor.measure.oci_manifest import propose
    from writ.formats.oci import Platform

    platform = this_platform() if args.platform is None else Platform.parse(args.platform)
    agent, namespace, out = name(args.agent, "agent"), name(args.namespace, "namespace"), args.out.absolute()
    with contextlib.closing(Layout(args.layout)) as layout:
        image = layout.image(platform, args.tag)
        layout.unpack(image, out, drop_setuid=args.drop_setuid)
    try:
        proposal = propose(image, out, tuple(args.command), agent=agent, namespace=namespace)
    except (FormatError, Refused, Unavailable):
        shutil.rmtree(out, ignore_errors=True)
        raise
    if args.json:
        cli.emit(proposal.to_json(), True)
    else:
        sys.stdout.write(proposal.toml.decode())
    return cli.ACCEPTED


# --- running ---------------------------------------------------------------------------------------------------------


def _serve(args: argparse.Namespace) -> int:
    import asyncio

    from attestor.compose import build_daemon, build_tpm

    observe.configure(sys.stderr)
    config = _config(args)
    with contextlib.closing(build_tpm(config)) as tpm:
        daemon = build_daemon(config, tpm)

        async def serve() -> None:
            task = asyncio.current_task()
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, lambda: task and task.cancel())
            log = observe.get_logger("attestor")
            with contextlib.suppress(asyncio.CancelledError):
                await daemon.run(config.socket, config.uids, lambda: log.info("ready", socket=str(config.socket)))

        try:
            asyncio.run(serve())
        except* (Refused, Unavailable, FormatError) as group:
            raise _first(group) from None
    return cli.ACCEPTED


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _status(args: argparse.Namespace) -> int:
    import asyncio

    from writ.formats.local import LOCAL, MAX_FRAME, Status, StatusAnswer
    from writ.service.peers import connect

    config = _config(args)

    async def ask() -> StatusAnswer:
        connection = await connect(config.socket, MAX_FRAME, _STATUS_SECONDS)
        try:
            await connection.send(LOCAL.encode(Status()))
            data = await connection.receive(_STATUS_SECONDS)
        finally:
            connection.close()
        answer = LOCAL.parse(data) if data is not None else None
        if not isinstance(answer, StatusAnswer):
            raise Unavailable("attestor", f"no status at {config.socket}")
        return answer

    answer = asyncio.run(ask())
    shown = {key: getattr(answer, key) for key in ("host", "enrolled", "events", "instances", "last_verdict")}
    if answer.last_verdict in REMEDIES:
        shown["next"] = REMEDIES[answer.last_verdict]
    cli.emit(shown, args.json)
    return cli.ACCEPTED


def _doctor(args: argparse.Namespace) -> int:
    from attestor.compose import build_tpm
    from attestor.doctor import examine

    config = _config(args)
    with contextlib.closing(build_tpm(config)) as tpm:
        findings = examine(config, tpm)
    rows = [{"check": f.name, "ok": f.ok, "found": f.found} | ({} if f.ok or not f.remedy else {"next": f.remedy}) for f in findings]
    cli.emit({"ok": all(f.ok for f in findings), "findings": rows}, args.json)
    return cli.ACCEPTED if all(f.ok for f in findings) else cli.REFUSED


def _config_check(args: argparse.Namespace) -> int:
    faults = configuration.check(AttestorConfig, args.config, os.environ, "ATTESTOR")
    cli.emit({"ok": not faults, "faults": faults}, args.json)
    return cli.MISUSE if faults else cli.ACCEPTED


if __name__ == "__main__":
    sys.exit(main())
