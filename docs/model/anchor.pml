/* Anchors of the verifier's log in its own TPM: extend, quote, append; killed or booted between any two steps; and a root who rolls back.
 *
 * An anchor is an entry of the log. It names by their sizes the checkpoints that were extended into the register since the anchor before
 * it (of this boot), and holds a quote of the register. Whoever replays the log computes the register from the checkpoints of those
 * sizes in *this* log, and compares. What an anchor covers is the log up to the last size it names; entries after that are the window.
 *
 * The log itself is taken to keep what commit.pml shows: `answered` is what the head file holds; a restored database goes on from there
 * or not at all.
 *
 * Settings, as `-D`:
 *   REQUESTS REGISTERS CRASHES BOOTS RESTORES   the bounds; REQUESTS are all entries, anchors among them
 *   ROLLBACKS   how often root takes log, head and database back to any size; from then on root also appends, extends and quotes at will,
 *               and kept every quote it could have had
 *   ACROSS_BOOTS   also demands of a log that was rolled back before a boot that it shows
 *   NO_WINDOW      also demands that the loss of what is answered and not yet anchored shows
 *   NV             the register is an NV index of the extend kind, which a boot does not reset
 *   REACHED        refuted if an anchor is ever completed by the start after a crash: shows that the case is in the model
 *   BROKEN_...     one rule of the protocol is left out
 */

#include "words.pml"

#define NONE 255
#define LONGEST 6

/* The register: a value is what was extended since it was zero, so values are a tree whose root, 0, is zero. */
byte before[REGISTERS], values = 1, reg, boot;
int extended[REGISTERS];
byte had[REGISTERS]; /* the boots in which the register had the value, one bit each */

/* The log, what of it was answered, and of each entry: the quoted value (NONE where it is no anchor), its boot, the sizes it names. */
int log, answered;
byte quoted[LONGEST + 1] = NONE, quoted_in[LONGEST + 1], names[LONGEST + 1], next = 1;

/* The verifier: what it does next, the size it extended, what it quoted. */
mtype = { START, WAIT, QUOTE, APPEND, APPENDED_NOT_ANSWERED, REFUSES };
mtype at = START;
byte size, quote, quote_in;

/* The longest checkpoint that an honest verifier extended, as far as it is demanded that its loss shows. */
int anchored;
bool rolled_back, completing;
byte crashes, boots, restores, rollbacks;

/* Scratch, zero between steps. */
byte v, i, reached, base, middle, latest;

#define ENTRY(a, i) (UPTO(a, i) % 16) /* the i-th entry, from 1 */

/* value = what `base` becomes by extending the checkpoint `c`, NONE where the register never had that. */
inline child(base, c, value) {
    value = NONE; v = 1;
    do
    :: v < values && before[v] == base && extended[v] == c -> value = v; break
    :: v < values && !(before[v] == base && extended[v] == c) -> v++
    :: v >= values -> break
    od;
    v = 0
}

/* base = the register as it was at the last anchor of `a`, if that was in boot `b`; zero else. latest = the boot of that anchor. */
inline last_anchor(a, b, base) {
    base = 0; latest = 0; i = SIZE(a);
    do
    :: i > 0 && quoted[ENTRY(a, i)] != NONE ->
        latest = quoted_in[ENTRY(a, i)];
#ifdef NV
        base = quoted[ENTRY(a, i)];
#else
        if
        :: quoted_in[ENTRY(a, i)] == b -> base = quoted[ENTRY(a, i)]
        :: else
        fi;
#endif
        break
    :: i > 0 && quoted[ENTRY(a, i)] == NONE -> i--
    :: i == 0 -> break
    od;
    i = 0
}

/* found = the size whose checkpoint in `a` leads from `base` to `value`; 0 where there is none. */
inline explain(a, base, value, found) {
    found = 0; i = 1;
    do
    :: i <= SIZE(a) ->
        child(base, UPTO(a, i), reached);
        if
        :: reached == value -> found = i; break
        :: else -> i++
        fi
    :: i > SIZE(a) -> break
    od;
    i = 0; reached = 0
}

inline extend(c) {
    child(reg, c, reached);
    if
    :: reached == NONE -> before[values] = reg; extended[values] = c; reached = values; values++
    :: else
    fi;
    reg = reached; had[reg] = had[reg] | (1 << boot); reached = 0;
    printf("the checkpoint %x is extended\n", c)
}

inline append(entry_quote, entry_boot, entry_names) {
    quoted[next] = entry_quote; quoted_in[next] = entry_boot; names[next] = entry_names;
    log = APPENDED(log, next); next++
}

/* What an auditor does with an anchor that is about to be appended to `a`: it must replay. */
inline audit(a, entry_quote, entry_boot, entry_size) {
    last_anchor(a, entry_boot, base);
    child(base, UPTO(a, entry_size), reached);
    PROPERTY("no-false-alarm", reached == entry_quote && entry_boot >= latest);
    base = 0; reached = 0; latest = 0
}

inline start() {
    answered = log; /* the head is brought up to the database */
    last_anchor(answered, boot, base);
    if
#ifdef BROKEN_NO_COMPLETION
    :: at = WAIT
#else
    :: reg == base -> at = WAIT; printf("the verifier starts: the register is as the last anchor says\n")
    :: else ->
        explain(answered, base, reg, size);
        if
        :: size > 0 -> at = QUOTE; completing = 1; printf("the verifier starts: the register has the checkpoint of size %d more\n", size)
        :: else -> at = REFUSES; printf("the verifier starts, and cannot explain the register\n"); PROPERTY("no-false-alarm", rolled_back)
        fi
#endif
    fi;
    base = 0; latest = 0
}

inline down() { at = START; size = 0; quote = 0; quote_in = 0; completing = 0 }

/* What an honest verifier extends: what is answered. Its loss must show, from now on. */
inline pin(c) {
    if
    :: !rolled_back -> anchored = c
    :: else
    fi
}

inline anchor_extend() {
#ifdef BROKEN_EXTEND_BEFORE_HEAD
    size = SIZE(log); extend(log); pin(answered);
#else
    size = SIZE(answered); extend(answered); pin(answered);
#endif
    at = QUOTE
}

inline anchor_early() { /* the checkpoint that the next commit will have; killed before the commit, no log has it */
    size = SIZE(log) + 1; extend(APPENDED(log, next)); next++; at = QUOTE
}

inline anchor_append() {
    if
    :: !rolled_back -> audit(log, quote, quote_in, size)
    :: else
    fi;
    append(quote, quote_in, size); printf("the anchor of size %d is committed: %x\n", size, log);
#ifdef REACHED
    PROPERTY("reached", !completing);
#endif
    completing = 0; size = 0; quote = 0; quote_in = 0;
#ifdef BROKEN_NEXT_BEFORE_ANSWER
    at = WAIT
#else
    at = APPENDED_NOT_ANSWERED /* until then nothing more is extended: a restored database may lack this anchor, but no more than one */
#endif
}

/* Root appends an anchor with a quote of any value the register had, naming one size or two, if it can be made to replay. */
inline forge(value, in) {
    last_anchor(log, in, base);
    explain(log, base, value, size);
    if
    :: size > 0
    :: else -> /* one more in between: the value before `value` */
        explain(log, base, before[value], middle);
        if
        :: middle > 0 && before[value] > 0 -> explain(log, before[value], value, size)
        :: else
        fi;
        middle = 0
    fi;
    base = 0;
    if
    :: size > 0 && in >= latest ->
        printf("root appends an anchor of size %d to %x, and it replays\n", size, log);
        PROPERTY("what-an-anchor-covers-is-not-forked", EXTENDS(UPTO(log, size), anchored) || EXTENDS(anchored, UPTO(log, size)));
        append(value, in, size); answered = log
    :: else
    fi;
    size = 0; latest = 0
}

#define MAY_FORGE(value, in) (rolled_back && next <= REQUESTS && (value) < values && (had[value] & (1 << (in))) && at == REFUSES)

#define FORGE(value) \
    :: d_step { MAY_FORGE(value, 0) -> forge(value, 0) } \
    :: d_step { MAY_FORGE(value, 1) -> forge(value, 1) }

#define ROLLBACK(to) \
    :: d_step { rollbacks < ROLLBACKS && to < SIZE(log) -> \
        rollbacks++; rolled_back = 1; log = UPTO(log, to); answered = log; down(); at = REFUSES; \
        printf("root takes the log back to %x\n", log) } \
    :: d_step { rolled_back && at == REFUSES && to > 0 && to <= SIZE(log) && values < REGISTERS -> extend(UPTO(log, to)) }

active proctype Next() {
    had[0] = 1;
    do
    :: d_step { at == START -> start() }
    /* Entries go on being appended while an anchor is made. */
    :: d_step { at != START && at != REFUSES && log == answered && next < REQUESTS -> append(NONE, 0, 0); printf("committed: %x\n", log) }
    :: d_step { at != START && at != REFUSES && log != answered ->
        answered = log; printf("answered: %x\n", log);
#ifdef NO_WINDOW
        pin(answered);
#endif
        if
        :: at == APPENDED_NOT_ANSWERED -> at = WAIT
        :: else
        fi }
#ifdef BROKEN_EXTEND_BEFORE_COMMIT
    :: d_step { at == WAIT && log == answered && next < REQUESTS && values < REGISTERS -> anchor_early() }
    :: d_step { at == QUOTE && size > SIZE(log) -> log = APPENDED(log, next - 1); printf("committed: %x\n", log) }
    :: d_step { at == QUOTE && size <= SIZE(log) -> quote = reg; quote_in = boot; at = APPEND; printf("the register is quoted\n") }
#else
    :: d_step { at == WAIT && answered > 0 && next <= REQUESTS && values < REGISTERS -> anchor_extend() }
    :: d_step { at == QUOTE -> quote = reg; quote_in = boot; at = APPEND; printf("the register is quoted\n") }
#endif
    :: d_step { at == APPEND && log == answered && next <= REQUESTS -> anchor_append() }
    :: d_step { at != REFUSES && crashes < CRASHES && at != START -> crashes++; down(); printf("the verifier is killed\n") }
    :: d_step { at != REFUSES && restores < RESTORES && log != answered ->
        restores++; log = answered; down(); printf("the verifier is killed, the database restored: %x\n", log) }
    :: d_step { boots < BOOTS ->
        boots++; boot++;
#ifndef NV
        reg = 0;
#ifndef ACROSS_BOOTS
        anchored = 0;
#endif
#endif
        had[reg] = had[reg] | (1 << boot);
        if
        :: at != REFUSES -> down()
        :: else
        fi;
        printf("the machine boots\n") }
    ROLLBACK(0)
    ROLLBACK(1)
    ROLLBACK(2)
    ROLLBACK(3)
    ROLLBACK(4)
    :: d_step { rolled_back && at == REFUSES && next <= REQUESTS -> append(NONE, 0, 0); answered = log; printf("root appends: %x\n", log) }
    FORGE(1)
    FORGE(2)
    FORGE(3)
    FORGE(4)
    FORGE(5)
    :: else -> break
    od
}
