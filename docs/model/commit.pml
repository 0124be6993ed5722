/* The verifier's log: commit, head, answer; killed or without power between any two steps; restored from backup; two writers.
 *
 * Each option of the loop at the end is one step that nothing interrupts; between two of them anything may happen. A kill leaves all
 * that was written; a loss of power leaves what was synced and, of what was not, either.
 *
 * Settings, as `-D`; those of a case stand in tools/model.py:
 *   WRITERS REQUESTS CRASHES BACKUPS RESTORES   the bounds
 *   HEAD_TOO       a restore brings back the head file, too: the stated limit
 *   HEAD_GUARDED   the head is compared, too: before a commit, and under one lock with the rename
 *   NO_LOCK        a second writer is not kept out
 *   LITERAL        also demands that a restored database never signs where nothing that was answered is missing
 *   FORKS_ONLY     does not demand that no observer is alarmed, so that the trace goes on to what he is alarmed about
 *   REACHED        refuted if a writer ever starts on a database that is ahead of its head: shows that the case is in the model
 *   BROKEN_...     one rule of the protocol is left out
 */

#include "words.pml"

#define MISSING (-1) /* there is no head file */
#define TORN (-2)    /* a head file without its content */
#define NOBODY 2

/* Where a writer is: what it does next. */
mtype = { DOWN, READ_HEAD, READ_DATABASE, SYNC_DATABASE, HEAD_TEMP, HEAD_RENAME, HEAD_SYNC, ANSWER, SIGN, COMMIT, COMMIT_SYNC, REFUSES };

/* The database: its entries, and what its last checkpoint signs; then both as they are on the disk for certain. */
int entries, stated, entries_synced, stated_synced;

/* The head file as it is read, as a loss of power may leave it, and whether its content is on the disk. */
int head = MISSING, head_synced = MISSING;
bool head_content = 1;

/* A writer: the log it knows, the one it signs, and whether what it knows was answered, its head being on the disk. */
mtype at[2] = DOWN;
int view[2], sign[2];
bool content[2], served[2];
byte lock = NOBODY; /* the kernel frees it when its holder ends */

/* The longest log whose checkpoint left, and what each of two observers (a host, a witness) saw last. */
int published, seen[2];
bool forked, found;

/* The environment. */
int kept_entries[2], kept_stated[2], kept_head[2];
byte crashes, backups, restores, next = 1;
bool restored, quiet;

#ifdef NO_LOCK
#define MAY_START (true)
#else
#define MAY_START (lock == NOBODY)
#endif

#if defined(BROKEN_NO_CAS)
#define AS_KNOWN(w) (true)
#elif defined(BROKEN_CAS_OF_SIZE)
#define AS_KNOWN(w) (SIZE(stated) == SIZE(view[w]))
#elif defined(HEAD_GUARDED)
#define AS_KNOWN(w) (stated == view[w] && head == view[w])
#else
#define AS_KNOWN(w) (stated == view[w])
#endif

#define UP(w) (at[w] != DOWN && at[w] != REFUSES)
#define IDLE(w) (at[w] == SIGN && view[w] == entries)
#define GROUP(w) (SIZE(sign[w]) - SIZE(view[w]))

/* A checkpoint of `c`, or an answer under it, leaves for the observer `o`. */
inline leave(c, o) {
    printf("  a checkpoint of %x leaves for observer %d, who had %x\n", c, o, seen[o]);
    if
    :: EXTENDS(c, seen[o]) -> seen[o] = c
    :: else -> found = 1; printf("  ALARM\n")
    fi;
    if
    :: EXTENDS(c, published) -> published = c
    :: !EXTENDS(c, published) && EXTENDS(published, c)
    :: else -> forked = 1; printf("  FORK: a checkpoint of %x had left\n", published)
    fi;
#ifndef HEAD_TOO
    PROPERTY("no-fork", !forked);
#if !defined(NO_LOCK) && !defined(FORKS_ONLY)
    PROPERTY("no-false-alarm", !found);
#endif
#endif
}

inline end(w) {
    at[w] = DOWN; view[w] = 0; sign[w] = 0; content[w] = 0; served[w] = 0;
    if
    :: lock == w -> lock = NOBODY
    :: else
    fi
}

inline nothing_lost() {
    PROPERTY("nothing-answered-is-lost", restored || EXTENDS(entries, published))
}

inline refuse(w) {
    end(w); printf("writer %d refuses to sign\n", w);
    if
    :: (head == MISSING && entries == 0) || (head >= 0 && EXTENDS(entries, head)) /* another writer has moved both meanwhile: it starts again */
    :: else -> at[w] = REFUSES; PROPERTY("goes-on-after-a-crash", restored)
    fi
}

inline start(w) {
    printf("writer %d starts\n", w);
    at[w] = READ_HEAD;
#ifndef NO_LOCK
    lock = w;
#endif
}

inline read_head(w) { /* first the head: what another writer does meanwhile makes the database longer, never shorter than this */
    printf("writer %d reads the head: %d = %x\n", w, head, head);
    sign[w] = head; at[w] = READ_DATABASE
}

#ifdef BROKEN_NO_START_CHECK
#define MAY_SIGN(w) (true)
#else
#define MAY_SIGN(w) (NEW(w) || (sign[w] >= 0 && EXTENDS(entries, sign[w])))
#endif
#define NEW(w) (sign[w] == MISSING && entries == 0)

inline read_database(w) {
    printf("writer %d reads the database: %x\n", w, entries);
#ifdef REACHED
    PROPERTY("reached", (sign[w] < 0 || entries == sign[w]));
#endif
    if
#ifdef BROKEN_CREATED_LATE
    :: NEW(w) -> view[w] = 0; sign[w] = 0; served[w] = 1; at[w] = SIGN /* its head file comes with its first commit */
    :: !NEW(w) && MAY_SIGN(w) -> view[w] = entries; sign[w] = entries; at[w] = SYNC_DATABASE
#else
    :: MAY_SIGN(w) -> view[w] = entries; sign[w] = entries; at[w] = SYNC_DATABASE /* the head file comes first, of a new log with size 0 */
#endif
    :: else -> refuse(w)
    fi
}

inline sync_database(w) { /* a killed writer may have left it written and not synced */
#ifndef BROKEN_NO_START_SYNC
    printf("writer %d syncs the database\n", w);
    entries_synced = entries; stated_synced = stated;
#endif
    at[w] = HEAD_TEMP
}

inline make(w) { /* one or two entries, a root, a signature: in memory */
    sign[w] = APPENDED(view[w], next); next++;
    if
    :: next <= REQUESTS -> sign[w] = APPENDED(sign[w], next); next++
    :: true
    fi;
    printf("writer %d signs %x over %x\n", w, sign[w], view[w]);
#ifdef BROKEN_HEAD_BEFORE_COMMIT
    at[w] = HEAD_TEMP
#else
    at[w] = COMMIT
#endif
}

inline commit(w) { /* the transaction: written, not yet synced */
    if
    :: AS_KNOWN(w) ->
#ifndef HEAD_TOO
        PROPERTY("a-database-that-lacks-what-was-answered-never-signs", EXTENDS(entries, published));
#endif
#ifdef LITERAL
        PROPERTY("a-restored-database-never-signs", !restored);
#endif
        entries = (entries << (4 * GROUP(w))) + (sign[w] - (view[w] << (4 * GROUP(w))));
        stated = sign[w]; at[w] = COMMIT_SYNC;
        printf("writer %d commits %x: the database is %x\n", w, sign[w], entries);
        PROPERTY("a-checkpoint-is-of-its-entries", entries == stated)
    :: else -> printf("writer %d finds a checkpoint of %x and ends\n", w, stated); end(w)
    fi
}

inline commit_sync(w) {
#ifndef BROKEN_NO_COMMIT_SYNC
    printf("writer %d syncs the commit\n", w);
    entries_synced = entries; stated_synced = stated;
#endif
#if defined(BROKEN_HEAD_BEFORE_COMMIT)
    at[w] = ANSWER
#elif defined(BROKEN_ANSWER_BEFORE_HEAD)
    leave(sign[w], 0); at[w] = HEAD_TEMP
#else
    at[w] = HEAD_TEMP
#endif
}

inline head_temp(w) {
    printf("writer %d writes %x to a file beside the head\n", w, sign[w]);
#ifndef BROKEN_NO_CONTENT_SYNC
    content[w] = 1;
#endif
    at[w] = HEAD_RENAME
}

inline head_rename(w) {
    if
#ifdef HEAD_GUARDED
    :: head >= 0 && !EXTENDS(sign[w], head) -> printf("writer %d finds the head %x and ends\n", w, head); end(w)
    :: !(head >= 0 && !EXTENDS(sign[w], head)) ->
#else
    :: true ->
#endif
        head = sign[w]; head_content = content[w]; content[w] = 0; at[w] = HEAD_SYNC;
        printf("writer %d renames it: the head is %x\n", w, head)
    fi
}

inline head_sync(w) {
#ifndef BROKEN_NO_FOLDER_SYNC
    printf("writer %d syncs the folder\n", w);
    head_synced = head;
#endif
#ifdef BROKEN_HEAD_BEFORE_COMMIT
    if
    :: sign[w] != view[w] -> at[w] = COMMIT
    :: else -> at[w] = ANSWER
    fi
#else
    at[w] = ANSWER
#endif
}

inline answer(w, o) {
    view[w] = sign[w]; served[w] = 1; at[w] = SIGN;
    if
    :: o != NOBODY -> printf("writer %d answers\n", w); leave(view[w], o)
    :: else -> printf("writer %d answers, and it is lost\n", w)
    fi
}

/* What is asked again, a retry or the checkpoint's address, is answered by a thread beside the writer's. */
#if defined(BROKEN_READS_DATABASE)
#define MAY_ASK(w) (UP(w) && stated > 0)
#define ASKED(w) stated
#elif defined(BROKEN_READS_HEAD)
#define MAY_ASK(w) (UP(w) && head > 0)
#define ASKED(w) head
#else
#define MAY_ASK(w) (served[w])
#define ASKED(w) view[w]
#endif

inline ask(w, o) { printf("writer %d is asked\n", w); leave(ASKED(w), o) }

inline kill(w) {
    crashes++; end(w); printf("writer %d is killed\n", w);
    nothing_lost()
}

inline power_loss() {
    crashes++; end(0); end(1); printf("the power fails\n");
    if
    :: entries_synced != entries || stated_synced != stated -> entries = entries_synced; stated = stated_synced; printf("the database is %x\n", entries)
    :: true
    fi;
    if
    :: head_synced != head -> head = head_synced; head_content = 1; printf("the head is %d = %x\n", head, head)
    :: !head_content -> head = TORN; head_content = 1; printf("the head is empty\n")
    :: true
    fi;
    entries_synced = entries; stated_synced = stated; head_synced = head; head_content = 1;
    nothing_lost()
}

inline backup() {
    kept_entries[backups] = entries; kept_stated[backups] = stated; kept_head[backups] = head; backups++;
    printf("a backup is made: database %x, head %x\n", entries, head)
}

inline restore(b) {
    restores++; restored = 1;
    entries = kept_entries[b]; stated = kept_stated[b]; entries_synced = entries; stated_synced = stated;
    printf("the database is restored: %x\n", entries);
#ifdef HEAD_TOO
    head = kept_head[b]; head_synced = head; head_content = 1; printf("and the head: %x\n", head);
#endif
    if
    :: at[0] == REFUSES -> at[0] = DOWN
    :: else
    fi;
    if
    :: at[1] == REFUSES -> at[1] = DOWN
    :: else
    fi
}

#define DIFFERS(b) (kept_entries[b] != entries || kept_stated[b] != stated)

#define WRITER(w) \
    :: d_step { at[w] == DOWN && MAY_START -> start(w) } \
    :: d_step { at[w] == READ_HEAD -> read_head(w) } \
    :: d_step { at[w] == READ_DATABASE -> read_database(w) } \
    :: d_step { at[w] == SYNC_DATABASE -> sync_database(w) } \
    :: atomic { at[w] == SIGN && next <= REQUESTS -> make(w) } \
    :: d_step { at[w] == COMMIT -> commit(w) } \
    :: d_step { at[w] == COMMIT_SYNC -> commit_sync(w) } \
    :: d_step { at[w] == HEAD_TEMP -> head_temp(w) } \
    :: d_step { at[w] == HEAD_RENAME -> head_rename(w) } \
    :: d_step { at[w] == HEAD_SYNC -> head_sync(w) } \
    :: d_step { at[w] == ANSWER -> answer(w, NOBODY) } \
    :: d_step { at[w] == ANSWER -> answer(w, 0) } \
    :: d_step { at[w] == ANSWER -> answer(w, 1) } \
    :: d_step { MAY_ASK(w) && seen[0] != ASKED(w) && !(quiet && found) -> ask(w, 0) } \
    :: d_step { MAY_ASK(w) && seen[1] != ASKED(w) && !(quiet && found) -> ask(w, 1) } \
    :: d_step { !quiet && crashes < CRASHES && UP(w) -> kill(w) }

active proctype Next() {
    do
    WRITER(0)
#if WRITERS == 2
    WRITER(1)
#endif
    :: atomic { !quiet && crashes < CRASHES && (UP(0) || UP(1)) -> power_loss() }
    :: d_step { !quiet && backups < BACKUPS -> backup() }
    :: d_step { !quiet && restores < RESTORES && backups > 0 && DIFFERS(0) -> restore(0) }
    :: d_step { !quiet && restores < RESTORES && backups > 1 && DIFFERS(1) -> restore(1) }
    :: d_step { !quiet -> quiet = 1; printf("from here on nothing fails\n") }
    :: else -> break
    od;
    /* Nothing fails any more, and there is nothing left to do. */
    PROPERTY("goes-on-after-a-crash", restored || (next > REQUESTS && (IDLE(0) || IDLE(1))));
#ifdef HEAD_TOO
    PROPERTY("a-fork-is-found", found || !forked || !(IDLE(0) || IDLE(1)));
    PROPERTY("a-loss-is-found", found || EXTENDS(entries, published) || !(IDLE(0) || IDLE(1)))
#endif
}
