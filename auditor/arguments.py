"""The arguments of every verb of `auditor`. What a verb runs on is loaded when it is called, and for no other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from auditor.moment import seconds
from writ.formats.digest import Digest
from writ.formats.tlog.note import parse_vkey
from writ.service import cli

_FOREVER: Final = (1 << 53) - 1
_LONGEST: Final = 10**9


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """What was asked for: `verb`, and its arguments."""
    parser = cli.parser("auditor", "Prove offline, from files and trust anchors, what agents did and on which machines.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_verify(verbs)
    _add_export(verbs)
    _add_trace(verbs)
    _add_lineage(verbs)
    _add_log(verbs)
    _add_replay(verbs)
    _add_report(verbs)
    _add_witness(verbs)
    _add_store(verbs)
    return parser.parse_args(argv)


def _add_verify(verbs: Any) -> None:
    v = verbs.add_parser("verify", help="prove one action, one token or a range of records: from a TPM manufacturer's root to the record")
    v.add_argument("bundle", type=Path, help="a proof bundle, or a range bundle")
    v.add_argument("--trust", type=Path, required=True, help="the trust file: TPM roots, decision keys, and keys of the log")
    v.add_argument("--policy", type=Path, metavar="FILE", help="whose cosignatures the log's checkpoints need: a tlog-policy")
    v.add_argument("--explain", action="store_true", help="each step with what was checked against what")
    cli.add_json_flag(v)


def _add_export(verbs: Any) -> None:
    x = verbs.add_parser("export", help="make proof bundles from archives of verifier and enforcer")
    x.add_argument("source", type=Path, nargs="+", help="archives: `verifier export`, `enforcer log export`")
    made = x.add_mutually_exclusive_group(required=True)
    made.add_argument("--out", type=Path, help="directory for the bundles, one file an action")
    made.add_argument("--range", type=Path, metavar="FILE", help="one bundle of all records of --agent in the time: none is left out")
    x.add_argument("--tokens", action="store_true", help="with --out: a bundle of each token instead, used or not")
    x.add_argument("--log", metavar="LOG", help="with --range: the verifier's log, a directory or an address")
    given = "the trust file: --range is judged by it, and --out takes only what its keys signed"
    x.add_argument("--trust", type=Path, metavar="FILE", help=given)
    x.add_argument("--ca-file", type=Path, metavar="FILE", help="with --log: CA certificates for https; the system's by default")
    x.add_argument("--agent", help="only this agent (SPIFFE id)")
    x.add_argument("--from", dest="earliest", type=seconds, default=0, metavar="RFC3339")
    x.add_argument("--to", dest="latest", type=seconds, default=_FOREVER, metavar="RFC3339")
    cli.add_json_flag(x)


def _add_trace(verbs: Any) -> None:
    made = verbs.add_parser("trace", help="prove one action or one token, and write a TRACE v0.2 record that names the bundle")
    made.add_argument("bundle", type=Path, help="a proof bundle, which the record is handed on with")
    made.add_argument("--trust", type=Path, required=True, help="the trust file")
    made.add_argument("--policy", type=Path, metavar="FILE", help="whose cosignatures the log's checkpoints need: a tlog-policy")
    made.add_argument("--key", type=Path, required=True, metavar="FILE", help="who signs the record: an Ed25519 key, PKCS#8 PEM")
    made.add_argument("--model", required=True, metavar="PROVIDER/MODEL", help="which model the agent asks: your word, no bundle holds it")
    made.add_argument("--data-class", required=True, metavar="CLASS", help="such as internal: your word, too")
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help="the record, JSON")
    cli.add_json_flag(made)


def _add_lineage(verbs: Any) -> None:
    made = verbs.add_parser("lineage", help="look for the record that led to each, or show what led to one action and followed from it")
    made.add_argument(
        "source", nargs="+", metavar="[ID] ARCHIVE",
        help="archives: `enforcer log export`, with the logs of parents and children. ID: INSTANCE-NUMBER, or in hex a leaf hash, "
        "the digest of a token, a trace id or an instance",
    )  # fmt: skip
    made.add_argument(
        "--received", type=Path, metavar="FILE",
        help="the records of a relying service: did the record that each request names lead to it, by the archives' logs?",
    )  # fmt: skip
    cli.add_json_flag(made)


def _add_log(verbs: Any) -> None:
    log = verbs.add_parser("log", help="read a transparency log whole, keep a copy of it, or compare two")
    under = log.add_subparsers(dest="log_verb", required=True, metavar="VERB")
    v = under.add_parser("verify", help="every entry, tile and checkpoint of a log: altered, cut, forked, rolled back, silent")
    v.add_argument("source", help="a directory, or the address of a log")
    v.add_argument("--since", type=Path, metavar="FILE", help="a checkpoint that was kept: the log has to extend it")
    v.add_argument("--silence", type=_whole, metavar="SECONDS", help="the longest time that may pass without an entry; needs --trust")
    v.add_argument(
        "--skew", type=_whole, metavar="SECONDS", help="how far entries may go back in time (default: as far as clocks may part)"
    )
    v.add_argument("--until", type=seconds, metavar="RFC3339", help="the log spoke until then: now, where it is served at an address")
    v.add_argument(
        "--actions",
        type=Path,
        nargs="+",
        metavar="ARCHIVE",
        help="`enforcer log export` of hosts: are all records that were carried there?",
    )
    v.add_argument(
        "--host", action="append", default=[], metavar="NAME", help="with --actions: only this host's logs have to be there; repeatable"
    )
    m = under.add_parser("mirror", help="bring a copy up to date, and keep every checkpoint seen; a fork or rollback is refused")
    m.add_argument("source", help="a directory, or the address of a log")
    m.add_argument("mirror", type=Path, help="the directory of the copy")
    d = under.add_parser("diff", help="compare what two places show of one log; exit status 1 is a fork")
    d.add_argument("a", help="a directory, or the address of a log")
    d.add_argument("b", help="another")
    for one in (v, m, d):
        one.add_argument("--trust", type=Path, metavar="FILE", help="the trust file: keys of the log, and of decisions")
        one.add_argument("--log-key", type=parse_vkey, action="append", default=[], metavar="VKEY", help="a key of the log, NAME+ID+BASE64")
        one.add_argument("--policy", type=Path, metavar="FILE", help="a tlog-policy: keys of the log, and the quorum of witnesses")
        one.add_argument("--ca-file", type=Path, metavar="FILE", help="CA certificates for https; the system's by default")
        one.add_argument("--explain", action="store_true", help="print what was checked against what, step by step")
        cli.add_json_flag(one)


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= _LONGEST):
        raise argparse.ArgumentTypeError(f"expected whole seconds up to {_LONGEST}, got {text[:20]!r}")
    return int(text)


def _add_replay(verbs: Any) -> None:
    made = verbs.add_parser("replay", help="make every decision in archives again, and look whether it is the same")
    made.add_argument("source", type=Path, nargs="+", help="archives: `verifier export`, `enforcer log export`")
    made.add_argument("--trust", type=Path, required=True, help="the trust file: TPM roots and decision keys")
    made.add_argument("--engines", type=Path, metavar="DIR", help="engines of other versions, as `auditor engine` records them")
    made.add_argument(
        "--accept-engine", type=Digest.parse, action="append", default=[], metavar="DIGEST",
        help="of sources of a release, by its own word: an engine in --engines that is run; repeatable",
    )  # fmt: skip
    made.add_argument("--explain", action="store_true", help="print every step of every decision")
    cli.add_json_flag(made)
    made = verbs.add_parser("engine", help="record the wheel of an engine, with its libraries, for a replay in years to come")
    made.add_argument("wheel", type=Path, nargs="+", help="the wheel of writ, and those of libraries under it")
    made.add_argument("--engines", type=Path, required=True, metavar="DIR")
    cli.add_json_flag(made)


def _add_report(verbs: Any) -> None:
    made = verbs.add_parser("report", help="judge a site's archives and log, and write what was found as one page")
    made.add_argument("source", type=Path, nargs="+", help="archives: `verifier export`, `enforcer log export`")
    made.add_argument("--log", required=True, metavar="LOG", help="the verifier's log, a directory or an address")
    made.add_argument("--trust", type=Path, required=True, metavar="FILE", help="the trust file")
    made.add_argument("--policy", type=Path, metavar="FILE", help="a tlog-policy: the quorum of witnesses")
    made.add_argument("--ca-file", type=Path, metavar="FILE", help="CA certificates for https; the system's by default")
    made.add_argument("--silence", type=int, default=3600, metavar="SECONDS", help="a longer time without a word is a gap (3600)")
    made.add_argument("--until", type=seconds, metavar="RFC3339", help="the log spoke until then: now, where it is at an address")
    made.add_argument("--engines", type=Path, metavar="DIR", help="engines of other versions, as `auditor engine` records them")
    made.add_argument("--accept-engine", type=Digest.parse, action="append", default=[], metavar="DIGEST", help="as of `replay`")
    made.add_argument("--output", type=Path, required=True, metavar="FILE", help="the page, HTML")
    cli.add_json_flag(made)


def _add_witness(verbs: Any) -> None:
    group = verbs.add_parser("witness", help="cosign the checkpoints of logs, so that none shows two histories: init, serve, vkey")
    does = group.add_subparsers(dest="does", required=True, metavar="VERB")
    _add_keyed(does, "make a witness: its key and its state", "witness.example.org/w1", "for logs and whoever relies on the witness")
    made = does.add_parser("serve", help="serve HTTP until stopped: C2SP tlog-witness")
    made.add_argument("folder", type=Path, metavar="DIR")
    made.add_argument("--logs", type=Path, required=True, metavar="FILE", help="the logs that are cosigned: a tlog-policy")
    _add_listen(made, 8414)


def _add_keyed(does: Any, makes: str, name: str, whom: str) -> None:
    """`init` and `vkey` of what serves under a key of its own from a folder."""
    made = does.add_parser("init", help=f"{makes}; prints its public key")
    made.add_argument("folder", type=Path, metavar="DIR")
    made.add_argument("--name", required=True, help=f"an address without a scheme, such as {name}, and nobody else's")
    cli.add_json_flag(made)
    made = does.add_parser("vkey", help=f"print the public key, {whom}")
    made.add_argument("folder", type=Path, metavar="DIR")
    cli.add_json_flag(made)


def _add_listen(made: argparse.ArgumentParser, port: int) -> None:
    listen = f"127.0.0.1:{port}"
    made.add_argument("--listen", default=listen, metavar="ADDRESS:PORT", help=f"default: {listen}; elsewhere takes TLS")
    made.add_argument("--prefix", default="", metavar="PATH", help="what stands before the paths, such as /w1")
    made.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    made.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    made.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))


def _add_store(verbs: Any) -> None:
    group = verbs.add_parser("store", help="keep the records of hosts off the hosts, written once: init, serve, vkey, export, acts")
    does = group.add_subparsers(dest="does", required=True, metavar="VERB")
    _add_keyed(does, "make a store: its key and its file", "store.example.org", "for record_store_key of the hosts")
    made = does.add_parser("serve", help="serve HTTP until stopped: take records, and give receipts")
    made.add_argument("folder", type=Path, metavar="DIR")
    made.add_argument("--hosts", type=Path, required=True, metavar="FILE", help="keys of the hosts that may write: a tlog-policy")
    made.add_argument("--most-bytes", type=int, default=1 << 40, metavar="BYTES", help="what the file may grow to (default: 1 TiB)")
    share = "what one host may make it grow by (default: an equal part of --most-bytes for each host)"
    made.add_argument("--most-bytes-host", type=int, metavar="BYTES", help=share)
    made.add_argument("--show-entries", action="store_true", help="serve the records too, to whoever reaches the address")
    _add_listen(made, 8415)
    made = does.add_parser("export", help="write the archive that export, lineage and replay read")
    made.add_argument("folder", type=Path, metavar="DIR")
    made.add_argument("instance", nargs="*", type=bytes.fromhex, help="these, in hex; none for all")
    made.add_argument("--output", type=Path, required=True, metavar="FILE")
    made.add_argument("--host", action="append", default=[], metavar="NAME", help="logs of this host alone, as --hosts of serve names it")
    made.add_argument("--keys", type=Path, metavar="DIR", help="what was kept of a host's keys: NAMESPACE.key, and INSTANCE.key of each")
    cli.add_json_flag(made)
    made = does.add_parser("acts", help="show what operators of each host held, lifted and erased")
    made.add_argument("folder", type=Path, metavar="DIR")
    keys = "a copy of a host's operator/: tells who, and why"
    made.add_argument("--keys", type=Path, metavar="DIR", action="append", default=[], help=keys)
    cli.add_json_flag(made)
