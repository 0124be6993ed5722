"""What `./run fuzz` starts from: bytes that our own generators write, by target. Nothing is copied from a machine or a vector.

They are written in a process of their own, before the code under test is instrumented.
"""

from __future__ import annotations

import base64
import io
import lzma
import ssl
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Final

from cryptography import x509
from h2.config import H2Configuration
from h2.connection import H2Connection

from enforcer.control import CONTROL, Attached, Did, Exited, RefusedRun, Run
from tests.world import nvidia
from tests.world.amd import TURIN_TCB, Amd, SnpChip, certificate_table
from tests.world.authority import Ca
from tests.world.azure import AzureVm, td_of
from tests.world.ima_logs import Kernel, certificate, module_signed, signed
from tests.world.machine import FILES, SHELL, content, part_reference
from tests.world.oci import Layout, directory, hard, layer, link
from tests.world.scene import GOVERNED, NAMESPACE, RUNTIME_PCR, Scene, reference, signer
from tests.world.specimens import specimens
from tests.world.store import HostLog
from tests.world.tdx import ENCLAVE, TDX_10, TDX_15, TDX_15_MIGRATED, Platform
from tests.world.tlog import MemoryLog, plain_key, witness_key
from tests.world.uefi_logs import Boot, encode_log
from tests.writ.formats.pe_images import make_pe
from writ.formats.corim import Corim, encode_corim, sign_corim
from writ.formats.digest import Digest
from writ.formats.eventlog.cel import encode_cel, encode_record
from writ.formats.eventlog.cel_json import UserspaceEvent, encode_systemd_log
from writ.formats.eventlog.runtime import AnchorEvent, DriftEvent, KeyEvent, RuntimeEvent, StopEvent, UpdateEvent, encode_event
from writ.formats.eventlog.uefi import BANKS, LogKind, UefiEvent, UefiLog
from writ.formats.evidence import ImaLog, encode_evidence
from writ.formats.forward import forward_set
from writ.formats.grants import grant_set
from writ.formats.local import LOCAL, Launch, Refusal, Status, Stop
from writ.formats.manifest import ComponentSpec, Manifest, encode_manifest
from writ.formats.mcp.approved import ApprovedServer, Remote, encode_approved
from writ.formats.mcp.protocol import MODERN
from writ.formats.mcp.request import modern_meta
from writ.formats.measurement import ComponentRoot, Measurement, encode_measurement
from writ.formats.reason import Reason
from writ.formats.record import encode_record as encode_leaf
from writ.formats.record import preimage_of
from writ.formats.secret import Secret
from writ.formats.spiffe import AgentId
from writ.formats.strict import encode_cbor, encode_json
from writ.formats.tlog.note import encode_note
from writ.formats.tlog.proof import encode_tlog_proof
from writ.formats.tlog.storing import encode_info, encode_sealed
from writ.formats.tlog.tile import ENTRIES, Tile, encode_bundle, path_of
from writ.formats.tpm.pcr import PcrSelection, encode_pcr_selection
from writ.formats.x509 import parse_certificate, to_pem

X = Digest.of(b"x")


def uefi_logs() -> Iterator[bytes]:
    """Boots in each kind of log, with and without Secure Boot, under several loaders, with padding and start-up locality."""
    boots = [
        Boot(), Boot(banks=("sha256",), secure_boot=b"\0", locality=3), Boot(banks=("sha384",), dbx=1, grub_commands=3),
        Boot(banks=tuple(name for name, _ in BANKS.values() if not name.startswith("sm3")), db=(b"one", b"two")),
    ]  # fmt: skip
    for boot in boots:
        log = boot.measure()
        yield encode_log(log)
        yield encode_log(replace(log, events=log.events[:3], padding=40))
        yield encode_log(replace(log, events=log.events[-8:]), padding=bytes(7) + b"\xff" * 9)
    log = Boot(banks=("sha1",)).measure()
    yield encode_log(replace(log, kind=LogKind.SHA1))
    log = Boot(banks=("sha384",)).measure()
    rows = [UefiEvent(at, register, event.type, event.digests, event.data) for at, event in enumerate(log.events)
            for register in ({7: 1, 4: 2, 9: 3, 11: 3}.get(event.pcr, 1),)]  # fmt: skip
    yield encode_log(UefiLog(LogKind.CCEL, log.banks, tuple(rows), None, 0))


def systemd_logs() -> Iterator[bytes]:
    """Phases, and records of what is no PCR."""
    words = ("enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final")
    events = tuple(
        UserspaceEvent(
            11, (("sha1", Digest.of(word.encode(), "sha1").value), ("sha256", Digest.of(word.encode()).value)), word, "phase", "0" * 32
        )
        for word in words
    )
    yield encode_systemd_log(events)
    yield encode_systemd_log((UserspaceEvent(15, (("sha384", bytes(48)),), "machine-id:\u00e9\u4e00", "machine-id", ""),))
    yield b'\x1e{"nv_index":1,"digests":[]}\n\x1e{"rtmr":2}\n' + encode_systemd_log(events[:1])


def ima_logs() -> Iterator[bytes]:
    """Lists of every template, binary and ASCII, with signatures, a key learnt, violations, approved and other files."""
    digest = Digest.of(b"library")
    kernel = Kernel()
    kernel.measure("/bin/sh", SHELL)
    kernel.measure(FILES["interpreter"], content("interpreter"))
    yield from (kernel.binary, kernel.ascii)
    kernel.measure("/usr/lib/x", digest, template="ima-sig", sig=signed(digest, "publisher"))
    kernel.measure(".ima", Digest.of(certificate("learnt")), template="ima-buf", buf=certificate("learnt"))
    yield from (kernel.binary, kernel.ascii)
    kernel = Kernel(aggregate=False)
    kernel.measure("/old", "sha1:" + "ab" * 20, template="ima")
    kernel.measure("/tmp/x y", digest, violation=True)
    kernel.measure("/verity", digest, template="ima-sigv2", kind="verity", sig=signed(digest, "publisher", version=3, type_=6))
    module = module_signed(b"module", "publisher")
    kernel.measure("/module", digest, template="ima-modsig", modsig=module["modsig"], d_modsig=module["d_modsig"])
    kernel.measure("/evm", digest, template="evm-sig", iuid=bytes(4), imode=b"\xa4\x81", xattrnames=b"security.ima")
    kernel.measure("/other", Digest.of(b"o", "sha512"), template="ima-ngv2", kind="ima")
    kernel.measure("/described", digest, template="n-ng|d-ng")
    yield from (kernel.binary, kernel.ascii)
    start = 0
    for end in kernel.ends:
        yield kernel.binary[start + 24 : end]
        start = end
    yield from (signed(digest, "publisher"), module["modsig"])


def runtime_logs() -> Iterator[bytes]:
    """A host that governs, launches, drifts and stops, whole and in parts, and each kind of event alone."""
    scene = Scene()
    one = scene.launch("one")
    scene.launch("two", parent="one")
    more: tuple[RuntimeEvent, ...] = (
        KeyEvent(one.instance, bytes(32)), UpdateEvent("spiffe://example.org/demo/agent/reporter", "prompts", X),
        DriftEvent(one.instance, "prompts", "a/b.txt", X, None), AnchorEvent(one.instance, 3, bytes(32)), StopEvent(one.instance, "exited"),
    )  # fmt: skip
    for event in more:
        scene.event(event)
    assert {record.pcr for record in scene.records} == {RUNTIME_PCR}
    yield encode_cel(scene.records)
    for count in range(1, len(scene.records)):
        yield encode_cel(scene.records[:count])
    yield encode_record(replace(scene.records[0], content_type=4, content=b"another's"))
    yield from (record.content for record in scene.records)
    yield from map(encode_event, more)


def action_logs() -> Iterator[bytes]:
    """Leaves of each kind, a commitment opened, and a log of them: its second engine begins where the first has left an action open."""
    kinds = [specimens()[name].value for name in ("log-opening", "action-record", "outcome-record", "action-record-denied")]
    opening, permitted, outcome, denied = kinds
    log = [
        opening, replace(permitted, sequence=1, opening=0), replace(denied, sequence=2, opening=0), replace(opening, sequence=3),
        replace(permitted, sequence=4, opening=3), replace(outcome, sequence=5, of=1),
    ]  # fmt: skip
    leaves = [encode_leaf(record) for record in (*kinds, *log)]
    yield from leaves
    yield b"".join(len(leaf).to_bytes(2, "big") + leaf for leaf in leaves[len(kinds) :])
    yield preimage_of(bytes(32), b"arguments")


def evidences() -> Iterator[bytes]:
    """One attestation, with and without each log."""
    scene = Scene()
    scene.launch("one")
    bare = scene.evidence("one")
    yield encode_evidence(bare)
    yield encode_evidence(replace(bare, ima_log=ImaLog(0, Kernel().binary), systemd_log=next(systemd_logs())))
    yield encode_evidence(replace(bare, uefi_log=encode_log(Boot(banks=("sha256",)).measure())))
    yield specimens()["evidence-logs"].data
    yield specimens()["evidence-anchors"].data


def certificates() -> Iterator[bytes]:
    """An authority, an EK certificate under it, a signer of files, CRLs and OCSP responses."""
    ca = Ca("authority")
    ek = ca.ek()
    yield from (ca.certificate(), ek, certificate("publisher"), certificate("rsa", "rsa"))
    yield ek + b"\xff" * 100
    yield b"\x10\x01\x00" + (len(ek) + 2).to_bytes(2, "big") + b"\x10\x02" + ek
    yield (to_pem(parse_certificate(ek)) + to_pem(parse_certificate(ca.certificate()))).encode()
    numbered = ((x509.CRLNumber(7), False),)
    yield from (ca.crl(this=1_790_000_000), ca.crl(5, 0x7FFF, this=1_790_000_000, extensions=numbered))
    yield ca.ocsp(0x77, this=1_790_000_000, following=1_790_600_000, responder=ca.responder(x509.OCSPNoCheck()))
    yield from (ca.ocsp(5, "revoked", this=1_790_000_000, by_key=True), ca.ocsp(5, "unknown", this=1_790_000_000, hashed="sha256"))


def nitro_documents() -> Iterator[bytes]:
    """Nitro documents and what they are signed under."""
    yield from (Nitro().document(), b"\xd2" + Nitro().document(pcrs=..., nitrotpm_pcrs=PCRS), Nitro().leaf())


def snp_evidence() -> Iterator[bytes]:
    """SNP reports of each version, as tools write them, the certificates of their keys and a host's table."""
    chips = (SnpChip(), SnpChip(Amd("Turin"), tcb=TURIN_TCB), SnpChip(cloud="a cloud"))
    for chip in chips:
        yield from (chip.report(), chip.certificate().der)
    yield from (chips[0].report(version=version) for version in (2, 3, 4))
    yield chips[0].report().hex().encode()
    yield certificate_table({"63da758d-e664-4564-adc5-f4b93be8accd": b"vcek", "00112233-4455-6677-8899-aabbccddeeff": b"r"}, padding_to=64)


def azure_parts() -> Iterator[bytes]:
    """HCL reports about SNP and a TD, their claims, a TDREPORT, and quotes as messages and in bincode."""
    vm = AzureVm()
    report, (_, local) = vm.snp(), td_of(vm, bytes(64))
    yield vm.hcl(report.hardware)
    yield vm.hcl(local, "TDX") + bytes(64)
    yield from (report.claims, local, vm.quote(), vm.bincode())


def nvidia_evidence() -> Iterator[bytes]:
    """Devices in a file, a report, opaque data of both layouts, RIMs and what the RIM service answers, and a document with namespaces."""
    device = nvidia.Device()
    short = device.report(blocks={1: bytes(48), 8: b"\1" * 48})
    yield nvidia.evidence(device.entry(report=short), nvidia.BLACKWELL.entry(report=nvidia.BLACKWELL.report(blocks={8: b"x"})))
    yield encode_json({"evidence_list": [device.entry(report=short)], "nonce": nvidia.NONCE.hex()})
    yield short
    yield nvidia.tlv(nvidia.gpu_fields().items())
    yield nvidia.headed([(3, 0x86, b"620.12\0"), (0x26, 0x87, b"\3\0")])
    yield from (nvidia.composite(nvidia.FIRMWARE).value, nvidia.tcb_info(nvidia.FIRMWARE, bytes(48)).value)
    small = nvidia.RimMaker(active={9: [bytes(48), b"\1" * 48]}, inactive=(0,), floors={0x26: 3}).document()
    yield small
    yield encode_json({"id": "NV_GPU_DRIVER_GH100_550.90.07", "rim": base64.b64encode(small).decode()})
    yield b'<a xmlns="u:1" xmlns:p="u:2" p:b="&#9;&lt;"><b xmlns=""><![CDATA[&]]>&#13;</b><p:c p:z="1" a="2"/></a>'


def tdx_parts() -> Iterator[bytes]:
    """Quotes of each version, with chains in PEM and in DER and with none, and collateral whole and in parts."""
    host = Platform()
    for version, body_type in ((4, TDX_10), (5, TDX_15), (5, TDX_15_MIGRATED)):
        yield host.quote(version, body_type)
    enclave = host.of_sgx()
    yield enclave.quote(3, ENCLAVE)
    yield host.quote(certification=(5, host.pck() + host.pck_ca.certificate() + host.root.certificate()))
    yield host.quote(certification=(1, bytes(36)))
    whole = host.collateral_json()
    yield encode_json(whole)
    yield encode_json({key: whole[key] for key in ("pck_crl", "tcb_info", "tcb_info_signature")})
    yield b'{"tcbInfo":' + enclave.tcb_info("SGX") + b',"signature":"' + b"00" * 64 + b'"}'
    yield b'{"enclaveIdentity":' + host.identity() + b',"signature":"' + b"00" * 64 + b'"}'


def images() -> Iterator[bytes]:
    """Images with and without certificates, and a unified kernel image."""
    inner = make_pe([(".text", b"kernel")])
    yield inner
    yield make_pe([(".text", b"t"), (".data", b"")], certificates=bytes(16), plus=False, trailing=b"behind")
    yield make_pe(
        [(".osrel", b"ID=x\n"), (".cmdline", b"quiet\0"), (".initrd", b"i"), (".uname", b"6"), (".sbat", b"sbat,1\n"), (".linux", inner)]
    )


def corims() -> Iterator[bytes]:
    """Reference values of an agent, of files and of a boot, signed and not, and a CoMID alone."""
    boot = Corim("boot-1", NAMESPACE, "boot", (("cmdline", X),), ((4, X), (7, Digest.of(b"y", "sha384"))), 1_800_000_000)
    for one in (reference(), GOVERNED, part_reference("interpreter"), boot):
        yield encode_corim(one)
    yield sign_corim(boot, signer("publisher"), signer_name="team")
    yield encode_cbor({1: {0: "boot-1"}, 4: {0: [[{0: {1: NAMESPACE, 2: "boot"}}, [{0: "cmdline", 1: {2: [[1, X.value]]}}]]]}})


def tpm_structures() -> Iterator[bytes]:
    """A quote, its signature, the keys, a certification, a selection."""
    scene = Scene()
    attest, signature = scene.chip.quote(bytes(32))
    yield from (attest, signature, scene.chip.ak.raw, scene.chip.ek.raw)
    yield len(scene.chip.ak.raw).to_bytes(2, "big") + scene.chip.ak.raw
    yield encode_pcr_selection(PcrSelection((("sha1", ()), ("sha256", (0, 7, 23)))))


def packages() -> Iterator[bytes]:
    """Packages of both kinds, put together here: an ar of two tars, plain and compressed, and the headers of an RPM."""
    control, data = _tar("control", b"Package: tool\nVersion: 1-1\nArchitecture: all\n"), _tar("usr/bin/tool", b"tool")
    yield _ar(("debian-binary", b"2.0\n"), ("control.tar", control), ("data.tar", data))
    yield _ar(("debian-binary", b"2.0\n"), ("control.tar.xz", lzma.compress(control)), ("data.tar.xz", lzma.compress(data)))
    yield b"\xed\xab\xee\xdb\3\0" + bytes(90) + _rpm_header((1000, 6, 1, b"x\0"))[:-1] + bytes(7) + _rpm_header(
        (1000, 6, 1, b"tool\0"), (1001, 6, 1, b"1\0"), (1002, 6, 1, b"2\0"), (1022, 6, 1, b"noarch\0"), (1044, 6, 1, b"tool.src.rpm\0"),
        (1030, 3, 1, b"\x81\xa4"), (1035, 8, 1, b"ab" * 32 + b"\0"), (1037, 4, 1, bytes(4)), (1116, 4, 1, bytes(4)),
        (1117, 8, 1, b"tool\0"), (1118, 8, 1, b"/usr/bin/\0"), (5011, 4, 1, b"\0\0\0\x08"),
    )  # fmt: skip


def _tar(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as made:
        info = tarfile.TarInfo(f"./{name}")
        info.size = len(data)
        made.addfile(info, io.BytesIO(data))
    return buffer.getvalue()[:2048]


def _ar(*members: tuple[str, bytes]) -> bytes:
    made = b"!<arch>\n"
    for name, data in members:
        made += b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name.encode(), 0, 0, 0, b"100644", len(data)) + data + b"\n" * (len(data) % 2)
    return made


def _rpm_header(*tags: tuple[int, int, int, bytes]) -> bytes:
    """Each tag is number, type, count and value."""
    index, store = b"", b""
    for number, kind, count, value in tags:
        index += b"".join(part.to_bytes(4, "big") for part in (number, kind, len(store), count))
        store += value
    return b"\x8e\xad\xe8\x01" + bytes(4) + len(tags).to_bytes(4, "big") + len(store).to_bytes(4, "big") + index + store


def oci_images() -> Iterator[bytes]:
    """The documents of a layout, and a layer with everything that one may hold."""
    made = Layout()
    made.image([layer(("a", b""))], {"Cmd": ["a"], "Env": ["A=1"], "Volumes": {"/v": {}}}, packing="")
    yield from (data[:8192] for data in made.files().values())
    everything = directory("d"), ("d/a", b"1", 0o755), link("l", "d/a"), hard("h", "d/a"), (".wh.x", b""), ("d/.wh..wh..opq", b"")
    yield layer(*everything, ("n" * 120, b"2"))[:8192]


def shipped() -> Iterator[bytes]:
    """Records as a host ships them, what is sealed beside them, and sizes."""
    yield specimens()["add-records"].data
    log = HostLog(6, signer=signer("store"))
    yield from (log.body(0, 3), log.body(3, 6, [("token", b"ey")]), log.body(6, 6))
    yield from (encode_sealed((b"one", None, b"three")), encode_info(0), encode_info(1234), log.key.name.encode())


def logged() -> Iterator[bytes]:
    """One of each text and message of a log and its witnesses, and what is within a receipt."""
    log, made = MemoryLog([b"%d" % number for number in range(9)]), specimens()
    yield from (made[name].data for name in made if name.startswith("tlog-"))
    yield from (log.receipt(1, 2), log.receipt(8), encode_cbor([9, 5, [bytes(32)]]), encode_bundle([b"a", b"", b"bc"]), b"12\n")
    yield from (encode_note(log.checkpoint(0).note), encode_tlog_proof(log.proof(0, 1)))
    yield from (path_of(Tile(level, 1_234_067, width)).encode() for level, width in ((ENTRIES, 256), (0, 7), (3, 255)))
    witnesses = "".join(f"witness {name} {witness_key(name)}\n" for name in ("w1", "w2", "w3"))
    yield f"# ours\nlog {plain_key()} https://a.test/\n{witnesses}group g 2 w1 w2\ngroup h any g w3\nquorum h\n".encode()


def cdi_specs() -> Iterator[bytes]:
    """Specifications with every key, and with what no agent gets."""
    node = {"path": "/dev/a", "hostPath": "/dev/b", "type": "c", "major": 1, "minor": 2, "permissions": "rwm"}
    mount = {"hostPath": "/a", "containerPath": "/b", "options": ["ro"], "type": "bind"}
    for edits in ({"env": ["A=1"], "deviceNodes": [node], "mounts": [mount]}, {"hooks": [{}], "additionalGids": [1], "intelRdt": {}}):
        device = {"name": "0", "annotations": {"a": "b"}, "containerEdits": edits}
        yield encode_json({"cdiVersion": "0.8.0", "kind": "v.com/c", "devices": [device], "containerEdits": {}})


def requests() -> Iterator[bytes]:
    """Lines to the proxy and to a host, fields, and the beginning of TLS."""
    yield b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n"
    yield b"POST http://api.test/v1/a?b HTTP/1.1\r\nHost: api.test\r\nContent-Length: 3\r\n\r\nabc"
    yield b"GET /v1/caf%c3%a9 HTTP/1.1\r\nHost: api.test\r\nX: y\r\n\r\n"
    for more in (b"", b"\ncontent-length=3", b"\nte=trailers\nhost=api.test\nx-y=z"):
        yield b":method=POST\n:scheme=https\n:authority=api.test\n:path=/v1/a?b" + more
    yield b"grpc-status=0\ngrpc-message=none"
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="api.test").do_handshake()
    yield outgoing.read()


def mcp_messages() -> Iterator[bytes]:
    """A request of each generation and method with a name, an answer, and a file of what was approved."""
    calls: dict[str, dict[str, object]] = {
        "tools/call": {"name": "read", "arguments": {"by": 1.5}}, "resources/read": {"uri": "note://files/a%20b"},
        "prompts/get": {"name": "greet", "arguments": {"who": "you"}},
    }  # fmt: skip
    for method, params in calls.items():
        for sent in (params, {**params, "_meta": modern_meta("fuzz", "1")}):
            yield encode_json({"id": 1, "jsonrpc": "2.0", "method": method, "params": sent}, floats=True)
    yield encode_json({"id": 1, "jsonrpc": "2.0", "result": {"content": [{"type": "text", "text": "x"}], "resultType": "complete"}})
    yield encode_approved(ApprovedServer(MODERN, {"read": Digest.of(b"")}, {}, resources=True))
    yield encode_approved(ApprovedServer(MODERN, {}, {}, remote=Remote("https://a.test/mcp", (("Authorization", "Bearer ", "key"),))))
    yield b": alive\r\n\r\nevent: message\nid: 1\ndata: {\ndata: }\n\nretry: 5\n\n"
    yield b'{"progressToken":1,"progress":0.5,"total":1,"message":"half"}'
    yield b'{"inputRequests":{"a":{"method":"elicitation/create","params":{"message":"?"}}},"requestState":"s"}'


def http2_connections() -> Iterator[bytes]:
    """A client's beginning and requests, a server's beginning and answers after as many bytes."""
    client = H2Connection()
    client.initiate_connection()
    head = [(":method", "POST"), (":scheme", "https"), (":authority", "api.test"), (":path", "/v1/a"), ("x-long", "y" * 100)]
    client.send_headers(1, head)
    client.send_data(1, b"abc", pad_length=3)
    client.send_headers(1, [("x", "y")], end_stream=True)
    client.send_headers(3, head, end_stream=True, priority_weight=3)
    client.ping(b"12345678")
    client.reset_stream(3)
    said = client.data_to_send()
    yield said
    server = H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    server.receive_data(said[:-13])
    for number, fields in ((1, [(":status", "200"), ("content-length", "3")]), (3, [(":status", "204")])):
        server.send_headers(number, fields)
        server.send_data(number, b"abc"[: 3 if number == 1 else 0], end_stream=True)
    server.close_connection()
    yield bytes(24) + server.data_to_send()


def messages() -> Iterator[bytes]:
    """A message of each kind between programs of one host, a command, a manifest and a measurement."""
    reasons = (Reason("hold", "a", "b", "c"),)
    for said in (
        Run("a", ("b",), bytes(16), False),
        Attached(bytes(16), "held", bytes(32)),
        RefusedRun("r0", reasons, True),
        Did(True),
        Exited(0),
    ):
        yield CONTROL.encode(said)
    for told in (Launch("a", ("b",), signer("a").public, None), Stop(bytes(16), "exited"), Refusal(reasons, True), Status()):
        yield LOCAL.encode(told)
    limits = {"output": 8, "seconds": 5}
    yield encode_json({"argv": ["/a"], "cwd": "/work", "env": {"A": "b"}, "instance": "0" * 32, "limits": limits, "stdin": "YQ=="})
    yield encode_json({"instance": "0" * 32, "script": "c"})
    secrets = {"key": Secret("key", "KEY"), "file": Secret("file", "file")}
    parts = (ComponentSpec("main", "code", "src", ("*.pyc",)), ComponentSpec("system", "image", "/", (), include=("usr/bin/a",)))
    grants, forwards = grant_set([("http.get", "https://a.example:443/*")]), forward_set([(5432, "tcp:db:5432")], "forwards")
    named = tuple(secrets[name] for name in sorted(secrets))
    yield encode_manifest(Manifest("a", "b", "c", ("/d",), parts, named, grants, forwards=forwards))
    roots = tuple(ComponentRoot(part.name, part.kind, Digest.of(b"")) for part in parts)
    yield encode_measurement(Measurement(AgentId("d.example", "b", "a"), ("/d",), roots, named, "c", grants, forwards=forwards))


SEEDS: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "uefi-log": uefi_logs,
    "systemd-log": systemd_logs,
    "ima-log": ima_logs,
    "cel": runtime_logs,
    "action-log": action_logs,
    "evidence": evidences,
    "certificates": certificates,
    "snp": snp_evidence,
    "nitro": nitro_documents,
    "azure": azure_parts,
    "nvidia": nvidia_evidence,
    "tdx": tdx_parts,
    "pe": images,
    "corim": corims,
    "tpm": tpm_structures,
    "packages": packages,
    "oci": oci_images,
    "cdi": cdi_specs,
    "stored": shipped,
    "tlog": logged,
    "requests": requests,
    "http2": http2_connections,
    "mcp": mcp_messages,
    "local": messages,
}
"""By target, as in `tools.fuzz_targets`."""
