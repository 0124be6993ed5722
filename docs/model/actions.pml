/* The enforcer's log of actions: record, sync, act; carried to the verifier at each renewal; killed anywhere, answers lost; root drops records.
 *
 * A renewal carries the log's checkpoint and the size from which its consistency is proven, both bound in a quote. The verifier commits
 * the checkpoint and then answers with a token; where its own differs in size, it says from where to prove; what is no extension of its
 * own contains the instance for ever. Anchors in between are quoted with the renewal: each must be a checkpoint that this one extends.
 * A request without a proof from an anchor, or of a shorter log, is told which; that is done once more, with the other sizes.
 *
 * An anchor is two steps: the checkpoint is taken and handed to the attestor, and is extended later, or never; the enforcer may be
 * dead by then, and its renewal answered. What was handed over since its start the enforcer knows, and proves with each request.
 *
 * Settings, as `-D`:
 *   RECORDS CRASHES LOSSES   the bounds; LOSSES are messages, of either direction
 *   DROPS          how often root cuts the log to any size; then records are appended as ever
 *   ANCHORS        how often the log's checkpoint is extended between renewals
 *   RESTORES       how often the verifier is restored to what its head file allows
 *   BACKS          how often it is taken back further, head file and all, to what it held at first
 *   NO_WINDOW      also demands that a drop of what was not yet carried or anchored shows
 *   REACHED        refuted if a drop is ever found: shows that the case is in the model
 *   REACHED_ANCHOR refuted if a drop is ever found that nothing but an anchor shows
 *   BROKEN_...     one rule of the protocol is left out
 */

#include "words.pml"

/* The log as it is read, and what of it is on the disk for certain; the longest log whose last action passed. */
int written, synced, acted;
mtype = { START, RECORD, SYNC, ACT };
mtype at = START;
byte next = 1;

/* The renewal: what it asks from, the size that a token confirmed, and the one message under way. */
mtype = { IDLE, ASKED, TO_ANSWER, TOKEN, BASE, INCONSISTENT };
mtype message = IDLE;
byte from, confirmed, base;
int asked;

/* The verifier: what it holds of this log, what of that its head file covers, what it ever said that it holds. */
int held, held_answered, held_ever;

/* The register, as the quote and the event log show it: the longest checkpoint anchored, and whether all were of one log. */
int anchored;
bool torn_anchor;

/* The checkpoint handed to the attestor and not extended yet; the longest that the enforcer knows it handed over, now and as it asked. */
int handed, knows, proves;

byte bounced; /* renewals that were told another size, one after another, nothing having failed in between */
byte crashes, losses, drops, anchors, restores, backs;
bool dropped, contained, back, found;

inline start() {
    at = RECORD; synced = written;
    printf("the enforcer starts with %x\n", written);
    PROPERTY("no-action-without-its-record", dropped || EXTENDS(written, acted))
}

inline pass() {
    acted = written; at = RECORD; printf("the action of %x passes\n", written)
}

inline end() { at = START; from = 0; confirmed = 0; message = IDLE; asked = 0; base = 0; knows = 0; proves = 0 }

inline hand(c) {
    anchors++; handed = c; knows = c; printf("the checkpoint %x is handed over\n", c)
}

inline anchor(c) {
    if
    :: EXTENDS(c, anchored) -> anchored = c
    :: !EXTENDS(c, anchored) && !EXTENDS(anchored, c) -> torn_anchor = 1
    :: else
    fi;
    printf("the checkpoint %x is extended\n", c)
}

inline ask() {
#ifdef BROKEN_CARRIES_UNSYNCED
    asked = written;
#else
    asked = synced;
#endif
    message = ASKED; proves = knows; printf("a renewal carries %x, from size %d\n", asked, from)
}

/* Of an anchor that what is held does not extend: the request is of a shorter log, or has no proof from it. */
#define SHORTER (!EXTENDS(held, anchored) && SIZE(anchored) > SIZE(asked))
#define UNPROVEN (!EXTENDS(held, anchored) && SIZE(anchored) > SIZE(proves))
#ifdef BROKEN_SHORTER_CONTAINS
#define AGAIN (from != SIZE(held) || (UNPROVEN && !SHORTER))
#else
#ifdef BROKEN_UNPROVEN_CONTAINS
#define AGAIN (from != SIZE(held) || SHORTER)
#define PROVEN (!UNPROVEN)
#else
#define AGAIN (from != SIZE(held) || SHORTER || UNPROVEN)
#endif
#endif
#ifndef PROVEN
#define PROVEN true
#endif
#define CONSISTENT (EXTENDS(asked, held) && (EXTENDS(asked, anchored) || EXTENDS(held, anchored)) && !torn_anchor && PROVEN)

inline judge() {
    if
    :: AGAIN -> base = SIZE(held); message = BASE
    :: !AGAIN && !CONSISTENT ->
        message = INCONSISTENT; contained = 1; printf("the verifier holds %x: inconsistent\n", held);
#ifdef REACHED
        PROPERTY("reached", !dropped);
#endif
#ifdef REACHED_ANCHOR
        PROPERTY("reached", !(dropped && EXTENDS(asked, held) && !EXTENDS(asked, anchored)));
#endif
        PROPERTY("no-false-alarm", dropped || back)
    :: !AGAIN && CONSISTENT ->
        held = asked; message = TO_ANSWER; printf("the verifier commits %x\n", held);
        PROPERTY("what-was-carried-is-not-dropped", back || EXTENDS(held, held_ever));
        PROPERTY("what-was-anchored-is-not-dropped", EXTENDS(held, anchored));
#ifdef NO_WINDOW
        PROPERTY("nothing-is-dropped", EXTENDS(held, acted));
#endif
    fi
}

inline answer() {
    held_answered = held; message = TOKEN;
    if
    :: EXTENDS(held, held_ever) -> held_ever = held
    :: else
    fi
}

inline hear() {
    if
    :: message == TOKEN ->
        bounced = 0;
        PROPERTY("a-verifier-that-went-back-is-found", found || SIZE(asked) >= confirmed && !(back && confirmed > from));
        from = SIZE(asked); confirmed = SIZE(asked); printf("a token: %x is carried\n", asked)
    :: message == BASE && SIZE(anchored) > SIZE(synced) ->
        found = 1; printf("the verifier saw an anchor of more than there is\n"); PROPERTY("no-false-alarm", dropped)
    :: message == BASE && SIZE(anchored) <= SIZE(synced) && base > SIZE(synced) -> found = 1; printf("the verifier holds more than there is\n"); PROPERTY("goes-on-after-a-crash", dropped)
    :: message == BASE && SIZE(anchored) <= SIZE(synced) && base <= SIZE(synced) ->
#ifndef BROKEN_GOES_BACK_SILENTLY
        if
        :: base < confirmed -> found = 1; printf("the verifier lost what it had confirmed: ALARM\n"); PROPERTY("no-false-alarm", back)
        :: else
        fi;
#endif
#ifndef BROKEN_NEVER_RESUMES
        from = base;
#endif
        if
        :: SIZE(knows) < SIZE(anchored) -> knows = anchored
        :: else
        fi;
        bounced++; printf("the verifier says: from size %d\n", base);
        PROPERTY("goes-on-after-a-crash", dropped || bounced < 2)
    :: message == INCONSISTENT
    fi;
    message = IDLE; asked = 0; base = 0; proves = 0
}

#define DROP(to) \
    :: d_step { drops < DROPS && at == RECORD && message == IDLE && to < SIZE(written) -> \
        drops++; dropped = 1; written = UPTO(written, to); synced = written; printf("root cuts the log to %x\n", written) }

active proctype Next() {
    do
    :: d_step { at == START -> start() }
    :: d_step { at == RECORD && next <= RECORDS -> written = APPENDED(written, next); next++; at = SYNC; printf("a record is written: %x\n", written) }
#ifdef BROKEN_ACTS_BEFORE_SYNC
    :: d_step { at == SYNC -> acted = written; at = ACT; printf("the action of %x passes\n", written) }
    :: d_step { at == ACT -> synced = written; at = RECORD }
#else
    :: d_step { at == SYNC -> synced = written; at = ACT; printf("it is synced\n") }
    :: d_step { at == ACT -> pass() }
#endif
#ifdef BROKEN_ANCHORS_UNSYNCED
    :: d_step { anchors < ANCHORS && at != START && written > 0 && !handed && message == IDLE -> hand(written) }
#else
#ifdef BROKEN_ANCHORS_WHILE_ASKING
    :: d_step { anchors < ANCHORS && at != START && synced > 0 && !handed -> hand(synced) }
#else
    :: d_step { anchors < ANCHORS && at != START && synced > 0 && !handed && message == IDLE -> hand(synced) }
#endif
#endif
    :: d_step { handed != 0 -> anchor(handed); handed = 0; bounced = (crashes > 0 -> 0 : bounced) } /* of an enforcer that is gone */
    :: d_step { crashes < CRASHES && handed != 0 -> crashes++; handed = 0; printf("the attestor is killed before the extend\n") }
    :: d_step { message == IDLE && at != START && !contained && !found && (synced != held_answered || from != SIZE(held_answered)) -> ask() }
    :: d_step { message == ASKED -> judge() }
    :: d_step { message == TO_ANSWER -> answer() }
    :: d_step { (message == TOKEN || message == BASE || message == INCONSISTENT) && at != START -> hear() }
    :: d_step { losses < LOSSES && message != IDLE -> losses++; bounced = 0; message = IDLE; held_answered = held; asked = 0; base = 0; proves = 0; printf("it is lost\n") }
    :: d_step { restores < RESTORES && message == TO_ANSWER ->
        restores++; bounced = 0; held = held_answered; message = IDLE; asked = 0; proves = 0; printf("the verifier is killed and restored: it holds %x\n", held) }
    :: d_step { backs < BACKS && held_answered != 0 && message == IDLE ->
        backs++; bounced = 0; back = 1; held = UPTO(held_answered, SIZE(held_answered) - 1); held_answered = held; printf("the verifier is taken back to %x\n", held) }
    :: d_step { crashes < CRASHES && at != START -> crashes++; end(); bounced = 0; held_answered = held; printf("the enforcer is killed\n") }
    :: d_step { crashes < CRASHES && at != START ->
        crashes++; end(); bounced = 0; held_answered = held; written = synced; printf("the power fails: the log is %x\n", written) }
    DROP(0)
    DROP(1)
    DROP(2)
    :: else -> break
    od;
    PROPERTY("goes-on-after-a-crash", dropped || back || (held == written && next > RECORDS))
}
