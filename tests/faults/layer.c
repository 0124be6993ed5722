/* A file layer that fails: preloaded, it counts each write, cut, link, rename, unlink and sync of files below one folder, and at a chosen one kills the process or
 * answers an error in the disk's place. What it lets through it writes down, so that a disk can be made of what was synced alone.
 *
 * tests/faults/disk.py compiles it; tests/faults/writers.py is what it is loaded into. Source: pwrite(2), fsync(2), ld.so(8).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { NOTHING, KILL_BEFORE, KILL_AFTER, NO_SPACE, SHORT, IO_ERROR };
enum { WRITE = 'w', CUT = 't', SYNC = 's', RENAME = 'r', LINK = 'l', UNLINK = 'u' };

static char folder[4096];
static long chosen = -1, steps;
static int action, sticky, trace = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *next(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    return found;
}

static ssize_t really_pwrite(int fd, const void *data, size_t length, off64_t at)
{
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real)
        real = next("pwrite64");
    return real(fd, data, length, at);
}

static ssize_t really_write(int fd, const void *data, size_t length)
{
    static ssize_t (*real)(int, const void *, size_t);
    if (!real)
        real = next("write");
    return real(fd, data, length);
}

static int really_sync(const char *name, int fd)
{
    return ((int (*)(int))next(name))(fd);
}

static int really_cut(int fd, off64_t size)
{
    static int (*real)(int, off64_t);
    if (!real)
        real = next("ftruncate64");
    return real(fd, size);
}

/* The process fails at step `at` from now on, or never where that is negative; the trace goes to `trace_fd`, or nowhere. */
void layer_arm(const char *below, long at, int what, int for_ever, int trace_fd)
{
    snprintf(folder, sizeof folder, "%s/", below);
    chosen = at, action = what, sticky = for_ever, trace = trace_fd, steps = 0;
}

long layer_steps(void)
{
    return steps;
}

/* The name below the folder of the file that is open as `fd`; NULL for all else, and for the index that SQLite maps into memory. */
static const char *watched(int fd, char *path, size_t room)
{
    char link[64];
    if (!folder[0])
        return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, room - 1);
    if (length < 0)
        return NULL;
    path[length] = 0;
    size_t prefix = strlen(folder);
    if (strncmp(path, folder, prefix) || (length > 4 && !strcmp(path + length - 4, "-shm")))
        return NULL;
    return path + prefix;
}

static void note(int kind, int done, const char *name, uint64_t at, const void *data, uint64_t length)
{
    if (trace < 0)
        return;
    uint8_t head[2] = {kind, done};
    uint16_t named = strlen(name);
    uint64_t numbers[2] = {at, length};
    really_write(trace, head, sizeof head);
    really_write(trace, &named, sizeof named);
    really_write(trace, numbers, sizeof numbers);
    really_write(trace, name, named);
    if (data)
        really_write(trace, data, length);
}

/* What happens at this step. */
static int turn(int is_write)
{
    long now = steps++;
    int due = chosen >= 0 && (sticky ? now >= chosen : now == chosen);
    if (!due)
        return NOTHING;
    if ((action == NO_SPACE || action == SHORT) && !is_write) {
        if (!sticky)
            chosen = now + 1; /* a sync needs no room: the next write fails */
        return NOTHING;
    }
    if (action == KILL_BEFORE)
        kill(getpid(), SIGKILL);
    return action;
}

static void over(int what)
{
    if (what == KILL_AFTER)
        kill(getpid(), SIGKILL);
}

static ssize_t put(int fd, const void *data, size_t length, off64_t at, int placed)
{
    char path[4096];
    const char *name = watched(fd, path, sizeof path);
    if (!name)
        return placed ? really_pwrite(fd, data, length, at) : really_write(fd, data, length);
    pthread_mutex_lock(&lock);
    int what = turn(1), fault = what == NO_SPACE ? ENOSPC : what == IO_ERROR ? EIO : 0;
    ssize_t done = -1;
    if (!fault) {
        off64_t where = placed ? at : lseek64(fd, 0, (fcntl(fd, F_GETFL) & O_APPEND) ? SEEK_END : SEEK_CUR);
        size_t part = what == SHORT ? length / 2 : length;
        done = placed ? really_pwrite(fd, data, part, at) : really_write(fd, data, part);
        fault = errno;
        if (done > 0)
            note(WRITE, 1, name, where, data, done);
        if (done > 0 && (fcntl(fd, F_GETFL) & O_DSYNC))
            note(SYNC, 1, name, 0, NULL, 0);
        if (what == SHORT && !sticky)
            chosen = steps, action = NO_SPACE; /* whoever writes the rest finds no room */
    } else if (fcntl(fd, F_GETFL) & O_DSYNC)
        note(SYNC, 0, name, 0, NULL, 0);
    over(what);
    pthread_mutex_unlock(&lock);
    errno = fault;
    return done;
}

static int sync_by(const char *call, int fd)
{
    char path[4096];
    const char *name = watched(fd, path, sizeof path);
    if (!name)
        return really_sync(call, fd);
    pthread_mutex_lock(&lock);
    int what = turn(0), done = -1, fault = EIO;
    if (what != IO_ERROR) {
        done = really_sync(call, fd);
        fault = errno;
    }
    note(SYNC, done == 0, name, 0, NULL, 0);
    over(what);
    pthread_mutex_unlock(&lock);
    errno = fault;
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at)
{
    return put(fd, data, length, at, 1);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t at)
{
    return put(fd, data, length, at, 1);
}

ssize_t write(int fd, const void *data, size_t length)
{
    return put(fd, data, length, 0, 0);
}

int fsync(int fd)
{
    return sync_by("fsync", fd);
}

int fdatasync(int fd)
{
    return sync_by("fdatasync", fd);
}

int ftruncate64(int fd, off64_t size)
{
    char path[4096];
    const char *name = watched(fd, path, sizeof path);
    if (!name)
        return really_cut(fd, size);
    pthread_mutex_lock(&lock);
    int what = turn(1), done = -1, fault = what == NO_SPACE || what == SHORT ? ENOSPC : EIO;
    if (what == NOTHING || what == KILL_AFTER) {
        done = really_cut(fd, size);
        fault = errno;
        if (done == 0)
            note(CUT, 1, name, size, NULL, 0);
    }
    over(what);
    pthread_mutex_unlock(&lock);
    errno = fault;
    return done;
}

int ftruncate(int fd, off_t size)
{
    return ftruncate64(fd, size);
}

static int named(const char *call, int kind, const char *from, const char *to)
{
    int (*real)(const char *, const char *) = next(call);
    size_t prefix = strlen(folder);
    if (!prefix || strncmp(from, folder, prefix))
        return real(from, to);
    pthread_mutex_lock(&lock);
    int what = turn(1), done = -1, fault = what == NO_SPACE || what == SHORT ? ENOSPC : EIO;
    if (what == NOTHING || what == KILL_AFTER) {
        done = real(from, to);
        fault = errno;
        if (done == 0)
            note(kind, 1, from + prefix, 0, to + prefix, strlen(to + prefix));
    }
    over(what);
    pthread_mutex_unlock(&lock);
    errno = fault;
    return done;
}

int rename(const char *from, const char *to)
{
    return named("rename", RENAME, from, to);
}

int link(const char *from, const char *to)
{
    return named("link", LINK, from, to);
}

int unlink(const char *path)
{
    int (*real)(const char *) = next("unlink");
    size_t prefix = strlen(folder), length = strlen(path);
    if (!prefix || strncmp(path, folder, prefix) || (length > 4 && !strcmp(path + length - 4, "-shm")))
        return real(path);
    pthread_mutex_lock(&lock);
    int what = turn(0), done = -1, fault = EIO;
    if (what != IO_ERROR) {
        done = real(path);
        fault = errno;
        if (done == 0)
            note(UNLINK, 1, path + prefix, 0, NULL, 0);
    }
    over(what);
    pthread_mutex_unlock(&lock);
    errno = fault;
    return done;
}
