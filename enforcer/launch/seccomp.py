"""The system calls of an agent: a list of what is allowed, by name, and everything else does not exist (ENOSYS).

libseccomp makes the filter for this machine's architecture; a call by another architecture's number (32-bit, x32) kills. An
argument is judged where it is a number; what a pointer leads to is never looked at, since it can change after the look.

What no profile allows: another namespace or mount, another process's memory, new privileges, loading into the kernel, keyrings,
io_uring, and sockets of any family but AF_UNIX and TCP over IPv4.

Source: libseccomp 2.5, seccomp_init(3), seccomp_rule_add(3), seccomp_attr_set(3); Linux Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from writ.formats.errors import Unavailable

_ALLOW: Final = 0x7FFF0000
_KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000
_ATTR_BAD_ARCH, _ATTR_NNP, _ATTR_OPTIMIZE = 2, 3, 8
_MASKED_EQ: Final = 7
_MISSING: Final = -1

_NAMES: Final = """
accept accept4 access alarm bind brk capget capset chdir chmod chown clock_getres clock_gettime clock_nanosleep close close_range connect
copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve exit
exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork
fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_waitv futimesat get_mempolicy get_robust_list getcpu getcwd getdents
getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid
getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch inotify_init inotify_init1
inotify_rm_watch ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat
listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise membarrier mincore mkdir mkdirat mlock mlock2 mlockall mremap
msgctl msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal
pipe pipe2 poll ppoll pread64 preadv preadv2 prlimit64 pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
recvfrom recvmmsg recvmsg removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_tid_address
setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid
setxattr shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 splice stat statfs statx symlink symlinkat sync sync_file_range
syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
timerfd_settime times tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork wait4 waitid write writev
"""
PLAIN: Final = tuple(_NAMES.split())
"""Allowed whatever the arguments. Those that an architecture does not have are left out there."""

_NEW_NAMESPACES: Final = 0x7E020000
"""CLONE_NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWNS."""
_SOCK_FLAGS: Final = 0x80800
_AF_UNIX, _AF_INET, _SOCK_STREAM, _TCP = 1, 2, 1, 6
_WHOLE: Final = 0xFFFFFFFF
_PROT_WRITE, _PROT_EXEC, _MAP_ANONYMOUS, _SHM_EXEC = 2, 4, 0x20, 0o100000

_Rule = tuple[str, tuple[tuple[int, int, int], ...]]
"""A call, and for each argument that is judged: its place, a mask, and what is left under it."""

IOCTLS: Final = {
    "TCGETS": 0x5401, "TCSETS": 0x5402, "TCSETSW": 0x5403, "TCSETSF": 0x5404, "TCSBRK": 0x5409, "TCXONC": 0x540A, "TCFLSH": 0x540B,
    "TIOCGPGRP": 0x540F, "TIOCSPGRP": 0x5410, "TIOCOUTQ": 0x5411, "TIOCGWINSZ": 0x5413, "TIOCSWINSZ": 0x5414, "FIONREAD": 0x541B,
    "FIONBIO": 0x5421, "TIOCNOTTY": 0x5422, "TIOCGSID": 0x5429, "FIONCLEX": 0x5450, "FIOCLEX": 0x5451,
}  # fmt: skip
"""Of terminals and descriptors. TIOCSTI, which types into a terminal, and all that configures interfaces are not among them."""
PRCTLS: Final = {
    "SET_PDEATHSIG": 1, "GET_PDEATHSIG": 2, "GET_DUMPABLE": 3, "SET_DUMPABLE": 4, "GET_KEEPCAPS": 7, "GET_TIMING": 13, "SET_NAME": 15,
    "GET_NAME": 16, "GET_SECCOMP": 21, "CAPBSET_READ": 23, "GET_SECUREBITS": 27, "SET_TIMERSLACK": 29, "GET_TIMERSLACK": 30,
    "SET_CHILD_SUBREAPER": 36, "GET_CHILD_SUBREAPER": 37, "SET_NO_NEW_PRIVS": 38, "GET_NO_NEW_PRIVS": 39, "GET_TID_ADDRESS": 40,
    "SET_THP_DISABLE": 41, "GET_THP_DISABLE": 42, "GET_MDWE": 66, "SET_VMA": 0x53564D41,
}  # fmt: skip

_JUDGED: Final[tuple[_Rule, ...]] = (
    ("socket", ((0, _WHOLE, _AF_UNIX),)),
    ("socket", ((0, _WHOLE, _AF_INET), (1, _WHOLE & ~_SOCK_FLAGS, _SOCK_STREAM), (2, _WHOLE, 0))),
    ("socket", ((0, _WHOLE, _AF_INET), (1, _WHOLE & ~_SOCK_FLAGS, _SOCK_STREAM), (2, _WHOLE, _TCP))),
    ("socketpair", ((0, _WHOLE, _AF_UNIX),)),
    ("clone", ((0, _NEW_NAMESPACES, 0),)),
    ("personality", ((0, _WHOLE, 0),)),
    ("personality", ((0, _WHOLE, _WHOLE),)),
    *((call, ((at, stat.S_IFMT(_WHOLE), kind),)) for call, at in (("mknod", 1), ("mknodat", 2)) for kind in (stat.S_IFIFO, stat.S_IFREG)),
    *(("ioctl", ((1, _WHOLE, number),)) for number in sorted(IOCTLS.values())),
    *(("prctl", ((0, _WHOLE, option),)) for option in sorted(PRCTLS.values())),
    *(("arch_prctl", ((0, _WHOLE, code),)) for code in (0x1001, 0x1002, 0x1003, 0x1004)),
)
_NO_NEW_CODE: Final[tuple[_Rule, ...]] = (
    ("mmap", ((2, _PROT_EXEC, 0),)),
    ("mmap", ((2, _PROT_EXEC | _PROT_WRITE, _PROT_EXEC), (3, _MAP_ANONYMOUS, 0))),
    ("mprotect", ((2, _PROT_EXEC, 0),)),
    ("shmat", ((2, _SHM_EXEC, 0),)),
)
"""What becomes executable comes from a file, and is never writable; files can be executed only where they are measured."""
_ANY_CODE: Final[tuple[_Rule, ...]] = tuple(
    (call, ()) for call in ("mmap", "mprotect", "pkey_alloc", "pkey_free", "pkey_mprotect", "shmat")
)


class _Arg(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("datum_a", ctypes.c_uint64), ("datum_b", ctypes.c_uint64))


def compiled(*, new_code: bool, ioctls: tuple[tuple[int, int], ...] = ()) -> bytes:
    """The filter as the kernel takes it, 8 bytes an instruction; with `new_code` memory may become executable (jit).

    `ioctls` are those of devices: each a mask over the number, and what is left under it.

    Raises Unavailable where libseccomp is not there, or knows this machine's architecture not.
    """
    return _compiled(new_code, ioctls)


@lru_cache(maxsize=8)
def _compiled(new_code: bool, ioctls: tuple[tuple[int, int], ...]) -> bytes:
    library = _library()
    context = library.seccomp_init(_ERRNO | errno.ENOSYS)
    if not context:
        raise Unavailable("libseccomp", "it makes no filter for this architecture")
    handle = ctypes.c_void_p(context)
    try:
        for attribute, value in ((_ATTR_BAD_ARCH, _KILL_PROCESS), (_ATTR_NNP, 0), (_ATTR_OPTIMIZE, 2)):
            _must(library.seccomp_attr_set(handle, attribute, ctypes.c_uint32(value)), f"attribute {attribute}")
        for name in PLAIN:
            _allow(library, handle, name, ())
        controls = tuple(("ioctl", ((1, mask, value),)) for mask, value in ioctls)
        for name, judged in (*_JUDGED, *controls, *(_ANY_CODE if new_code else _NO_NEW_CODE)):
            _allow(library, handle, name, judged)
        return _exported(library, handle)
    finally:
        library.seccomp_release(handle)


def _allow(library: ctypes.CDLL, handle: ctypes.c_void_p, name: str, judged: Sequence[tuple[int, int, int]]) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number == _MISSING:
        raise Unavailable("libseccomp", f"it does not know {name}: expected version 2.5 or later")
    if number < _MISSING:
        return  # another architecture's
    arguments = (_Arg * len(judged))(*(_Arg(at, _MASKED_EQ, mask, value) for at, mask, value in judged))
    _must(library.seccomp_rule_add_array(handle, _ALLOW, number, len(judged), arguments), name)


def _exported(library: ctypes.CDLL, handle: ctypes.c_void_p) -> bytes:
    descriptor = os.memfd_create("filter", os.MFD_CLOEXEC)
    try:
        _must(library.seccomp_export_bpf(handle, descriptor), "export")
        return os.pread(descriptor, 1 << 20, 0)
    finally:
        os.close(descriptor)


def _must(result: int, what: str) -> None:
    if result != 0:
        raise Unavailable("libseccomp", f"{what}: {os.strerror(-result)}")


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        raise Unavailable("libseccomp", "libseccomp.so.2 is not installed") from None
    library.seccomp_init.restype = ctypes.c_void_p
    return library
