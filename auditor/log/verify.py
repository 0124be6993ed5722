"""`auditor log verify`: all of a log, read once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from auditor.log.actions import Handed
from auditor.log.source import Source, pieces
from writ.formats.decision import OperatorAct
from writ.formats.reason import Reason
from writ.formats.tlog.checkpoint import Checkpoint
from writ.formats.tlog.tile import ENTRIES, WIDTH
from writ.verdict.anchor_audit import AnchorReplay
from writ.verdict.log_audit import Findings, Judged, LogAudit, Piece, Speaker, Timeline, judge_entries

_FEW: Final = 16 * WIDTH
"""Entries up to which other processes cost more than they save."""
_SUCCESSIONS: Final = ("log-succeed", "log-resume")
_NAMED: Final = 8
"""Of events that are no findings, how many a step names."""


@dataclass(frozen=True, slots=True)
class Content:
    """By whom entries are signed, and how far their times may lie from each other, in seconds; `until` is when a last one was due."""

    speaker: Speaker
    skew: int
    silence: int | None = None
    until: int | None = None


@dataclass(slots=True)
class Report:
    """What was found, and what was checked against what, step by step."""

    reasons: tuple[Reason, ...] = ()
    steps: list[str] = field(default_factory=list)


def verify(
    source: Source, checkpoint: Checkpoint, kept: Iterable[Checkpoint], content: Content | None, handed: Handed | None = None
) -> Report:
    """Every tile, entry and kept checkpoint of the log of `checkpoint`, which its key signed, and action logs that were handed over.

    Raises Unavailable.
    """
    kept = tuple(kept)
    audit = LogAudit(checkpoint, kept)
    found, report = Findings(), Report()
    bundles: Iterator[Piece] = (piece for piece in pieces(source, audit) if piece.tile.level == ENTRIES)
    bundles = bundles if handed is None else handed.compare(bundles)
    timeline, successions, anchors = None, list[OperatorAct](), AnchorReplay()
    if content is None:
        for _ in bundles:
            continue
    else:
        timeline, successions = _judge(bundles, checkpoint.size, content, found, anchors, handed)
    if handed is not None:
        for reason in handed.judge():
            found.add(reason)
    report.reasons = (*audit.findings(), *found.reasons())
    report.steps += [
        *_steps(checkpoint, kept, content, timeline),
        *_succeeded(successions),
        *([] if handed is None else handed.steps()),
        *_replayed(anchors),
    ]
    return report


def _steps(checkpoint: Checkpoint, kept: tuple[Checkpoint, ...], content: Content | None, timeline: Timeline | None) -> Iterator[str]:
    yield f"tiles and entries: {checkpoint.size} entries against their leaves, each tile against those below, all against the signed root"
    sizes = ", ".join(str(one.size) for one in kept[:8]) + (" …" if kept[8:] else "")
    yield f"history: this log's root at {len(kept)} kept sizes against the checkpoint kept ({sizes or 'none'})"
    if content is None or timeline is None:
        yield "decisions: not judged, for want of a trust file"
        yield "times: not judged, for want of a trust file"
        return
    speaker = content.speaker
    yield f"decisions: entry 0 against the log's name, key and verifier, each against {len(speaker.decision_keys)} keys of {speaker.issuer}"
    silence = "any silence accepted" if content.silence is None else f"at most {content.silence} s of silence"
    yield f"times: none back by more than {content.skew} s, {silence}; the longest was {timeline.longest} s"


def _succeeded(acts: Iterable[OperatorAct]) -> Iterator[str]:
    for one in acts:
        what = "its head was lost, and taken from a keeper" if one.act == "log-resume" else f"it was begun after {one.subject} was lost"
        yield f"succession: {what}, at {one.decided_at}, from checkpoint {one.detail}; what only the lost one had is not here"


def _replayed(anchors: AnchorReplay) -> Iterator[str]:
    if anchors.entries:
        resets = f"{len(anchors.resets)} times a TPM was reset or restarted, and no quote shows what was anchored since the one before"
        yield f"anchors: {anchors.entries} entries of {len(anchors.hosts)} hosts against the register that each quote shows; {resets}"
    if anchors.anew:
        named = "; ".join(f"{one.claim}, {one.got}" for one in anchors.anew[:_NAMED]) + (" …" if anchors.anew[_NAMED:] else "")
        yield f"anchors: {len(anchors.anew)} times an operator let a host begin anew, and no quote shows what it anchored last: {named}"


def _judge(
    bundles: Iterator[Piece], size: int, content: Content, found: Findings, anchors: AnchorReplay, handed: Handed | None
) -> tuple[Timeline, list[OperatorAct]]:
    """The entries and their times, in their order. Returns what is known of the times, and what took another log's or head's place."""
    timeline, successions = Timeline(content.skew, content.silence), list[OperatorAct]()
    work = partial(_judge_piece, content.speaker)
    for judged in _in_processes(work, bundles) if size > _FEW else map(work, bundles):
        for reason in judged.reasons:
            found.add(reason)
        for index, at, once in judged.times:
            if (out_of_time := timeline.take(index, at, once)) is not None:
                found.add(out_of_time)
        for told in judged.told:
            if isinstance(told, OperatorAct) and told.act in _SUCCESSIONS:
                successions.append(told)
            for reason in anchors.take(told):
                found.add(reason)
        if handed is not None:
            handed.take(judged.carriages)
    if content.until is not None and (silent := timeline.end(content.until)) is not None:
        found.add(silent)
    return timeline, successions


def _judge_piece(speaker: Speaker, piece: Piece) -> Judged:
    """One bundle, in whatever process."""
    return judge_entries(piece.tile.index * WIDTH, piece.entries, speaker)


def _in_processes(work: Callable[[Piece], Judged], bundles: Iterator[Piece]) -> Iterator[Judged]:
    """`work` on every bundle, in their order; no more of them are held than keep all processors busy."""
    workers = len(os.sched_getaffinity(0))
    waiting: deque[Future[Judged]] = deque()
    with ProcessPoolExecutor(workers) as pool:
        for piece in bundles:
            waiting.append(pool.submit(work, piece))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
