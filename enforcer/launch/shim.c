/* What runs between us and a program in its sandbox, twice: before bubblewrap and after it.
 *
 * Freestanding and static: it starts in a millisecond, runs in any image and trusts no file of it. hatch_build.py says how it is made.
 * Whatever fails is named on REPORT by a word and an error number, and ends with status 125: nothing is left out for being missing.
 *
 * `shim join PROCS GATE REPORT KEEP UID PROCESSES PROGRAM ARGUMENT...`, as root, outside:
 *
 * 1. Join the cgroup whose cgroup.procs is PROCS, and say "joined" on REPORT.
 * 2. Wait at GATE: one byte lets it pass; end of file (the holder died) ends it. The gate fails closed.
 * 3. Every descriptor is closed but 0, 1, 2 and those in KEEP (numbers, rising, with commas between); signals do what they do.
 * 4. A new session, limits, no supplementary groups, gid, uid, no_new_privs, umask.
 * 5. Exec with an empty environment: bubblewrap.
 *
 * `shim become SPEC REPORT PROGRAM ARGUMENT...`, inside, where bubblewrap leaves off; SPEC and REPORT are descriptors. SPEC is a pipe and a
 * second gate: what is not there whole starts nothing. Native byte order, as enforcer/launch/sandbox.py writes it:
 *
 *     u32 magic, u32 flags (1: no new executable memory), u64 fs, u64 net, u64 scoped        what Landlock handles
 *     u32 count, { u64 access, u32 size, path with its NUL }                                 beneath these directories and files
 *     u32 count, { u64 access, u64 port }
 *     u32 count, { u32 resource, u64 limit }
 *     u32 count, { 8 bytes }                                                                 the seccomp filter
 *
 * 1. Landlock. 2. Limits. 3. No memory that was written becomes executable. 4. Every descriptor but 0, 1, 2 is closed, the report on
 * exec. 5. "ready" on REPORT, and the filter, last, so that it need allow none of this. 6. Exec. A report that ends behind "ready" means
 * that the program runs.
 *
 * Source: Linux Documentation/userspace-api/landlock.rst, prctl(2) PR_SET_MDWE, seccomp(2), cgroups(7).
 */

#include <asm/unistd.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>

#define MAGIC 0x54495257u /* "WRIT" */
#define NO_NEW_CODE 1u
#define MAX_SPEC 65536
#define PR_SET_NO_NEW_PRIVS 38
#define PR_SET_MDWE 65
#define F_SETFD 2
#define FD_CLOEXEC 1
#define O_PATH_CLOEXEC 012000000 /* the same on every architecture here */
#define AT_FDCWD -100
#define O_WRONLY_CLOEXEC 02000001
#define RLIMIT_CORE 4
#define RLIMIT_NPROC 6
#define LAST_SIGNAL 64

struct ruleset { uint64_t fs, net, scoped; };
struct __attribute__((packed)) beneath { uint64_t access; int32_t parent; };
struct port { uint64_t access, port; };

#if defined(__x86_64__)
static long call(long n, long a, long b, long c, long d, long e) {
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    __asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
    return result;
}
__asm__(".globl _start\n_start:\n  mov %rsp, %rdi\n  and $-16, %rsp\n  call start\n");
#elif defined(__aarch64__)
static long call(long n, long a, long b, long c, long d, long e) {
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
}
__asm__(".globl _start\n_start:\n  mov x0, sp\n  and sp, x0, #-16\n  bl start\n");
#else
#error "no sandbox for this architecture"
#endif

static int report = 2;
static unsigned char spec[MAX_SPEC];
static size_t at, size;

static _Noreturn void fail(const char *what, long error) {
    char line[80];
    size_t n = 0;
    while (what[n] && n < 60) {
        line[n] = what[n];
        n++;
    }
    unsigned long number = error < 0 ? (unsigned long)-error : (unsigned long)error;
    char digits[20];
    size_t d = 0;
    do {
        digits[d++] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    line[n++] = ' ';
    while (d) line[n++] = digits[--d];
    call(__NR_write, report, (long)line, (long)n, 0, 0);
    for (;;) call(__NR_exit_group, 125, 0, 0, 0, 0);
}

static void must(long result, const char *what) {
    if (result < 0) fail(what, result);
}

static const void *take(size_t n) {
    if (size - at < n) fail("spec too short", (long)n);
    const void *found = spec + at;
    at += n;
    return found;
}

static uint32_t u32(void) {
    uint32_t value;
    __builtin_memcpy(&value, take(sizeof value), sizeof value);
    return value;
}

static uint64_t u64(void) {
    uint64_t value;
    __builtin_memcpy(&value, take(sizeof value), sizeof value);
    return value;
}

static int number(const char *text) {
    int value = 0;
    if (!text || !*text) fail("descriptor", 0);
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || value > 100000) fail("descriptor", 0);
        value = value * 10 + (*text - '0');
    }
    return value;
}

static void read_spec(int descriptor) {
    while (size < MAX_SPEC) {
        long got = call(__NR_read, descriptor, (long)(spec + size), (long)(MAX_SPEC - size), 0, 0);
        must(got, "read spec");
        if (!got) break;
        size += (size_t)got;
    }
    if (size == MAX_SPEC) fail("spec too long", MAX_SPEC);
    if (u32() != MAGIC) fail("spec magic", 0);
}

/* Whatever the kernel does not know of what is to be handled makes it refuse the ruleset, and so the start. */
static void landlock(struct ruleset handled) {
    size_t known = handled.scoped ? 24 : handled.net ? 16 : 8;
    long rules = call(__NR_landlock_create_ruleset, (long)&handled, (long)known, 0, 0, 0);
    must(rules, "landlock ruleset");
    for (uint32_t left = u32(); left; left--) {
        struct beneath one;
        one.access = u64();
        uint32_t length = u32();
        const char *path = take(length);
        if (!length || path[length - 1]) fail("landlock path without end", 0);
        long opened = call(__NR_openat, AT_FDCWD, (long)path, O_PATH_CLOEXEC, 0, 0);
        must(opened, path);
        one.parent = (int32_t)opened;
        must(call(__NR_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, (long)&one, 0, 0), path);
        call(__NR_close, opened, 0, 0, 0, 0);
    }
    for (uint32_t left = u32(); left; left--) {
        struct port one;
        one.access = u64();
        one.port = u64();
        must(call(__NR_landlock_add_rule, rules, 2 /* LANDLOCK_RULE_NET_PORT */, (long)&one, 0, 0), "landlock port");
    }
    must(call(__NR_landlock_restrict_self, rules, 0, 0, 0, 0), "landlock restrict");
    call(__NR_close, rules, 0, 0, 0, 0);
}

static int same(const char *a, const char *b) {
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

static size_t length_of(const char *text) {
    size_t n = 0;
    while (text[n]) n++;
    return n;
}

static void limit(uint32_t resource, uint64_t most) {
    uint64_t both[2] = {most, most};
    must(call(__NR_prlimit64, 0, resource, (long)both, 0, 0), "limit");
}

static void say(const char *word) { must(call(__NR_write, report, (long)word, (long)length_of(word), 0, 0), "report"); }

/* A number of at most 20 digits in front of a comma or the end, and where it ends. */
static const char *listed(const char *text, int *value) {
    char digits[20];
    size_t n = 0;
    while (*text && *text != ',' && n < sizeof digits - 1) digits[n++] = *text++;
    digits[n] = 0;
    *value = number(digits);
    return *text == ',' ? text + 1 : text;
}

static _Noreturn void join(char **argv) {
    const char *procs = argv[2], *keep = argv[5];
    int gate = number(argv[3]), uid = number(argv[6]);
    char byte = 0;
    report = number(argv[4]);
    /* 1 */
    long file = call(__NR_openat, AT_FDCWD, (long)procs, O_WRONLY_CLOEXEC, 0, 0);
    must(file, "cgroup");
    must(call(__NR_write, file, (long)"0", 1, 0, 0), "cgroup join");
    say("joined\n");
    /* 2 */
    if (call(__NR_read, gate, (long)&byte, 1, 0, 0) != 1 || byte != 'G') fail("the gate closed: the holder is gone", 0);
    /* 3 */
    int after = 2;
    while (*keep) {
        int kept;
        keep = listed(keep, &kept);
        if (kept <= after) fail("descriptors to keep", kept);
        if (kept > after + 1) must(call(__NR_close_range, after + 1, kept - 1, 0, 0, 0), "close");
        must(call(__NR_fcntl, kept, F_SETFD, 0, 0, 0), "keep");
        after = kept;
    }
    must(call(__NR_close_range, after + 1, 0x7fffffff, 0, 0, 0), "close");
    const uint64_t dont[4] = {0, 0, 0, 0};
    for (long signal = 1; signal <= LAST_SIGNAL; signal++) call(__NR_rt_sigaction, signal, (long)dont, 0, 8, 0);
    /* 4 */
    must(call(__NR_setsid, 0, 0, 0, 0, 0), "session");
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_NPROC, (uint64_t)number(argv[7]));
    if (!uid) fail("expected a uid that is not root's, got", 0);
    must(call(__NR_setgroups, 0, 0, 0, 0, 0), "groups");
    must(call(__NR_setresgid, uid, uid, uid, 0, 0), "gid");
    must(call(__NR_setresuid, uid, uid, uid, 0, 0), "uid");
    if (call(__NR_geteuid, 0, 0, 0, 0, 0) != uid || call(__NR_getegid, 0, 0, 0, 0, 0) != uid) fail("uid is another", uid);
    must(call(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    call(__NR_umask, 077, 0, 0, 0, 0);
    /* 5 */
    char *environment[] = {0};
    fail(argv[8], call(__NR_execve, (long)argv[8], (long)(argv + 8), (long)environment, 0, 0));
}

static _Noreturn void become(char **argv, char **environment) {
    report = number(argv[3]);
    int source = number(argv[2]);
    read_spec(source);
    uint32_t flags = u32();
    struct ruleset handled;
    handled.fs = u64();
    handled.net = u64();
    handled.scoped = u64();
    /* 1 */
    must(call(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    landlock(handled);
    /* 2 */
    for (uint32_t left = u32(); left; left--) {
        uint32_t resource = u32();
        limit(resource, u64());
    }
    /* 3 */
    if (flags & NO_NEW_CODE) must(call(__NR_prctl, PR_SET_MDWE, 1, 0, 0, 0), "no new executable memory");
    /* 4 */
    if (report > 3) must(call(__NR_close_range, 3, report - 1, 0, 0, 0), "close");
    must(call(__NR_close_range, report + 1, 0x7fffffff, 0, 0, 0), "close");
    must(call(__NR_fcntl, report, F_SETFD, FD_CLOEXEC, 0, 0), "report");
    /* 5 */
    say("ready\n");
    uint32_t length = u32();
    if (!length || length > 4096 || size - at != 8ul * length) fail("filter", length);
    struct sock_fprog filter = {(unsigned short)length, (struct sock_filter *)(spec + at)};
    must(call(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, (long)&filter, 0, 0), "filter");
    /* 6 */
    fail("exec", call(__NR_execve, (long)argv[4], (long)(argv + 4), (long)environment, 0, 0));
}

__attribute__((used)) _Noreturn void start(long *stack) {
    long count = stack[0];
    char **argv = (char **)(stack + 1);
    if (count > 8 && same(argv[1], "join")) join(argv);
    if (count > 4 && same(argv[1], "become")) become(argv, argv + count + 1);
    fail("arguments", count);
}
