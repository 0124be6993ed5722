/* Logs as numbers, and what a property is. Included by the models.
 *
 * A log is a number of at most six hexadecimal digits, the first entry first: 0x123 is a log of the entries 1, 2 and 3, and 0 the
 * empty log. A checkpoint commits to a whole log, as no two logs have the same root: so it is the same number.
 */

#define SIZE(a) ((a) == 0 -> 0 : ((a) < 16 -> 1 : ((a) < 256 -> 2 : ((a) < 4096 -> 3 : ((a) < 65536 -> 4 : ((a) < 1048576 -> 5 : 6))))))

/* The log `a` up to its size `s`, which it must have. */
#define UPTO(a, s) ((a) >> (4 * (SIZE(a) - (s))))

/* `b` is `a`, or goes on where `a` ends: what a consistency proof shows. */
#define EXTENDS(b, a) (SIZE(b) >= SIZE(a) && UPTO(b, SIZE(b) < SIZE(a) -> SIZE(b) : SIZE(a)) == (a))

#define APPENDED(a, id) ((a) * 16 + (id))

/* The property `name`: holds here, or the checker stops and the trace ends with its name. */
#define PROPERTY(name, holds) \
    if \
    :: (holds) \
    :: else -> printf("VIOLATED "); printf(name); printf("\n"); assert(false) \
    fi
