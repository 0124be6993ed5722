# ruff: noqa: S103, S606 - starting what should not start, with modes that should not help, is what this file is for
# mypy: ignore-errors
"""What a hostile agent tries, by name. Runs inside a sandbox, as the agent's program; imports nothing but the standard library.

Each attempt is a function: it returns where the attempt worked, and raises OSError (or PermissionError, or a lookup that finds
nothing) where it was refused. Each runs in a child of its own, so that one that is killed tells its signal. Prints one JSON object:
name -> "worked" / "refused NAME" / "killed N" / "hung".
"""

import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time

LIBC = ctypes.CDLL(None, use_errno=True)
GIVEN = json.loads(sys.argv[1]) if __name__ == "__main__" else {}  # what the host offers to steal: ports, names, pids, paths
ATTEMPTS = {}
# x86-64
NR = {
    "shmget": 29, "shmat": 30, "clone": 56, "ptrace": 101, "syslog": 103,
    "personality": 135, "pivot_root": 155, "prctl": 157, "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165,
    "umount2": 166, "swapon": 167, "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175,
    "quotactl": 179, "modify_ldt": 154, "lookup_dcookie": 212, "remap_file_pages": 216, "clock_settime": 227, "kexec_load": 246,
    "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "vmsplice": 278, "perf_event_open": 298, "fanotify_init": 300,
    "name_to_handle_at": 303, "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "seccomp": 317, "memfd_create": 319, "kexec_file_load": 320, "bpf": 321,
    "execveat": 322, "userfaultfd": 323, "pkey_mprotect": 329, "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443,
    "memfd_secret": 447, "process_mrelease": 448,
}  # fmt: skip


def attempt(function):
    ATTEMPTS[function.__name__] = function
    return function


def call(name, *arguments):
    number = NR[name] if isinstance(name, str) else name
    result = LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result == -1:
        raise OSError(ctypes.get_errno(), str(name))
    return result


def page(protection, flags, descriptor=-1):
    LIBC.mmap.restype = ctypes.c_void_p
    LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    at = LIBC.mmap(None, 4096, protection, flags, descriptor, 0)
    if at == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    return at


READ, WRITE, EXEC, PRIVATE, SHARED, ANON = 1, 2, 4, 2, 1, 32


def program(path, content=b"#!/bin/sh\nexit 0\n", mode=0o755):
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)
    return path


def copy_of(source, path):
    with open(source, "rb") as file:
        return program(path, file.read())


def executable(maps, path):
    """A mapping of it can be executed; one that holds its header only is no code."""
    if not any(path in line and "x" in line.split(" ")[1] for line in maps.decode().splitlines()):
        raise PermissionError(errno.EPERM, "not loaded")


def runs(path, *arguments):
    os.execv(path, [path, *arguments])


# --- sockets ------------------------------------------------------------------------------------------------------------------------


def family(name, *arguments):
    def act():
        socket.socket(*arguments).close()

    act.__name__ = name
    attempt(act)


family("socket_udp", socket.AF_INET, socket.SOCK_DGRAM)
family("socket_tcp6", socket.AF_INET6, socket.SOCK_STREAM)
family("socket_udp6", socket.AF_INET6, socket.SOCK_DGRAM)
family("socket_icmp_ping", socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
family("socket_raw_icmp", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
family("socket_raw_ip", socket.AF_INET, socket.SOCK_RAW, 255)
family("socket_packet", socket.AF_PACKET, socket.SOCK_RAW, 768)
family("socket_netlink_route", socket.AF_NETLINK, socket.SOCK_RAW, 0)
family("socket_netlink_audit", socket.AF_NETLINK, socket.SOCK_RAW, 9)
family("socket_netlink_kobject", socket.AF_NETLINK, socket.SOCK_DGRAM, 15)
family("socket_vsock", 40, socket.SOCK_STREAM)
family("socket_alg", 38, socket.SOCK_SEQPACKET)
family("socket_bluetooth", 31, socket.SOCK_RAW, 1)
family("socket_can", 29, socket.SOCK_RAW, 1)
family("socket_xdp", 44, socket.SOCK_RAW)
family("socket_mptcp", socket.AF_INET, socket.SOCK_STREAM, 262)
family("socket_sctp", socket.AF_INET, socket.SOCK_STREAM, 132)
family("socket_tipc", 30, socket.SOCK_STREAM)
family("socket_rds", 21, socket.SOCK_SEQPACKET)
family("socket_smc", 43, socket.SOCK_STREAM)
family("socket_kcm", 41, socket.SOCK_DGRAM)
family("socket_qipcrtr", 42, socket.SOCK_DGRAM)


def reaches(host, port):
    with socket.socket() as one:
        one.settimeout(2)
        one.connect((host, port))


@attempt
def network_of_the_host_on_loopback():
    reaches("127.0.0.1", GIVEN["port"])


@attempt
def network_metadata_service():
    reaches("169.254.169.254", 80)


@attempt
def network_public_address():
    reaches("192.0.2.1", 443)


@attempt
def network_private_address():
    reaches("10.0.0.1", 80)


@attempt
def network_name_is_resolved():
    socket.getaddrinfo("example.org", 443)


@attempt
def network_socketpair_of_another_family():
    socket.socketpair(socket.AF_INET)


@attempt
def unix_abstract_socket_of_the_host():
    with socket.socket(socket.AF_UNIX) as one:
        one.connect("\0" + GIVEN["abstract"])


@attempt
def unix_pathname_socket_of_the_host():
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(GIVEN["socket"])


@attempt
def unix_socket_of_the_enforcer_s_control():
    with socket.socket(socket.AF_UNIX) as one:
        one.connect("/run/writ/control.sock")


# --- code that nobody measured ---------------------------------------------------------------------------------------------------


@attempt
def code_memfd():
    call("memfd_create", b"x", 0)


@attempt
def code_memfd_secret():
    call("memfd_secret", 0)


@attempt
def code_anonymous_writable_and_executable():
    page(READ | WRITE | EXEC, PRIVATE | ANON)


@attempt
def code_anonymous_executable():
    page(READ | EXEC, PRIVATE | ANON)


@attempt
def code_written_then_made_executable():
    at = page(READ | WRITE, PRIVATE | ANON)
    if LIBC.mprotect(ctypes.c_void_p(at), 4096, READ | EXEC):
        raise OSError(ctypes.get_errno(), "mprotect")


@attempt
def code_of_a_private_file_mapping_made_executable():
    with open("/usr/bin/python3", "rb") as file:
        at = page(READ | WRITE, PRIVATE, file.fileno())
        if LIBC.mprotect(ctypes.c_void_p(at), 4096, READ | EXEC):
            raise OSError(ctypes.get_errno(), "mprotect")


@attempt
def code_writable_mapping_of_a_measured_file_that_is_executable():
    with open("/usr/bin/python3", "rb") as file:
        page(READ | WRITE | EXEC, PRIVATE, file.fileno())


@attempt
def code_mapped_from_a_file_of_its_own():
    path = program("/tmp/code.bin", b"\xc3" * 4096)
    with open(path, "rb") as file:
        page(READ | EXEC, PRIVATE, file.fileno())


@attempt
def code_shared_mapping_of_a_file_of_its_own():
    path = program("/dev/shm/code.bin", b"\xc3" * 4096)
    with open(path, "rb+") as file:
        page(READ | EXEC, SHARED, file.fileno())


@attempt
def code_in_shared_memory():
    segment = call("shmget", 0, 4096, 0o1700)
    call("shmat", segment, 0, 0o100000)


@attempt
def code_pkey_mprotect():
    at = page(READ | WRITE, PRIVATE | ANON)
    call("pkey_mprotect", at, 4096, READ | EXEC, -1)


@attempt
def code_personality_read_implies_exec():
    call("personality", 0x0400000)


@attempt
def code_by_remap_file_pages():
    at = page(READ, SHARED | ANON)
    call("remap_file_pages", at, 4096, 0, 0, 0)


@attempt
def code_written_through_proc_self_mem():
    address = ctypes.cast(LIBC.getpid, ctypes.c_void_p).value
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(address)
        before = memory.read(1)
        memory.seek(address)
        memory.write(before)


@attempt
def code_process_vm_writev_to_itself():
    buffer = ctypes.create_string_buffer(b"\xc3")
    vector = struct.pack("=QQ", ctypes.addressof(buffer), 1)
    remote = struct.pack("=QQ", ctypes.cast(LIBC.getpid, ctypes.c_void_p).value, 1)
    call("process_vm_writev", os.getpid(), vector, 1, remote, 1, 0)


@attempt
def program_in_home():
    runs(copy_of("/usr/bin/true", "/agent/true"))


@attempt
def program_in_tmp():
    runs(copy_of("/usr/bin/true", "/tmp/true"))


@attempt
def program_in_shm():
    runs(copy_of("/usr/bin/true", "/dev/shm/true"))


@attempt
def program_by_the_loader():
    runs("/lib64/ld-linux-x86-64.so.2", copy_of("/usr/bin/true", "/tmp/by-loader"))


@attempt
def program_by_its_descriptor():
    path = copy_of("/usr/bin/true", "/tmp/by-fd")
    opened = os.open(path, os.O_RDONLY)
    runs(f"/proc/self/fd/{opened}")


@attempt
def program_execveat():
    opened = os.open(copy_of("/usr/bin/true", "/tmp/at"), os.O_RDONLY)
    call("execveat", opened, b"", ctypes.c_char_p(None), ctypes.c_char_p(None), 0x1000)


@attempt
def program_script_of_its_own():
    runs(program("/tmp/script.sh"))


@attempt
def program_hard_link_into_tmp():
    os.link("/usr/bin/true", "/tmp/linked")


@attempt
def library_of_its_own_by_dlopen():
    ctypes.CDLL(copy_of(GIVEN["library"], "/tmp/own.so"))


@attempt
def library_of_its_own_by_preload():
    own = copy_of(GIVEN["library"], "/tmp/preload.so")
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.dup2(writer, 1)
        os.execve("/usr/bin/python3", ["python3", "-I", "-c", "print(open('/proc/self/maps').read())"], {"LD_PRELOAD": own})
    os.close(writer)
    said = b""
    while part := os.read(reader, 65536):
        said += part
    executable(said, own)


@attempt
def library_path_of_its_own():
    os.makedirs("/tmp/lib", exist_ok=True)
    copy_of(GIVEN["library"], "/tmp/lib/libz.so.1")
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.dup2(writer, 1)
        code = "import zlib; print(open('/proc/self/maps').read())"
        os.execve("/usr/bin/python3", ["python3", "-I", "-c", code], {"LD_LIBRARY_PATH": "/tmp/lib"})
    os.close(writer)
    said = b""
    while part := os.read(reader, 65536):
        said += part
    executable(said, "/tmp/lib/")


# --- the tree in which a child instance works: it executes there, and gains nothing else by it -----------------------------------------


@attempt
def work_program():
    runs(copy_of("/usr/bin/true", "/work/true"))


@attempt
def work_script():
    runs(program("/work/script.sh", b"#!/usr/bin/true\n"))


@attempt
def work_library():
    own = copy_of(GIVEN["library"], "/work/own.so")
    ctypes.CDLL(own)


@attempt
def work_code_mapped_from_a_file():
    path = program("/work/code.bin", b"\xc3" * 4096)
    with open(path, "rb") as file:
        page(READ | EXEC, PRIVATE, file.fileno())


@attempt
def work_setuid_program():
    os.chmod(copy_of("/usr/bin/python3", "/work/setuid"), 0o4755)
    code = "import os,sys; sys.exit(0 if os.geteuid() not in (os.getuid(),) else 1)"
    os.execv("/work/setuid", ["/work/setuid", "-I", "-S", "-c", code])


@attempt
def work_block_device():
    os.mknod("/work/disk", stat.S_IFBLK | 0o600, os.makedev(7, 0))


@attempt
def work_character_device():
    os.mknod("/work/mem", stat.S_IFCHR | 0o600, os.makedev(1, 1))


@attempt
def work_file_capabilities():
    os.setxattr(copy_of("/usr/bin/true", "/work/cap"), "security.capability", struct.pack("=IIIII", 0x02000001, 1 << 21, 0, 0, 0))


@attempt
def work_hard_link_from_the_image():
    os.link("/usr/bin/true", "/work/linked")


@attempt
def work_moved_out_of():
    os.rename(copy_of("/usr/bin/true", "/work/true"), "/tmp/moved")
    runs("/tmp/moved")


@attempt
def work_linked_to_from_tmp():
    os.symlink("/tmp/true", "/work/link")
    copy_of("/usr/bin/true", "/tmp/true")
    runs("/work/link")


@attempt
def work_mounted_elsewhere():
    call("mount", b"/work", b"/tmp", b"none", 4096, ctypes.c_char_p(None))


@attempt
def work_exhausted():
    with open("/work/large", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 4 * GIVEN["room"])


@attempt
def work_inodes_exhausted():
    os.makedirs("/work/many")
    for number in range(4 * GIVEN["files"]):
        open(f"/work/many/{number}", "w").close()


# --- namespaces and mounts -----------------------------------------------------------------------------------------------------


def unshares(name, flag):
    def act():
        call("unshare", flag)

    act.__name__ = name
    attempt(act)


for kind, flag in (("user", 0x10000000), ("mount", 0x20000), ("network", 0x40000000), ("pid", 0x20000000), ("ipc", 0x8000000),
                   ("uts", 0x4000000), ("cgroup", 0x2000000), ("time", 0x80)):  # fmt: skip
    unshares(f"namespace_unshare_{kind}", flag)


@attempt
def namespace_clone_user():
    if call("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)


@attempt
def namespace_clone3_user():
    arguments = struct.pack("=11Q", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
    if call("clone3", arguments, len(arguments)) == 0:
        os._exit(0)


@attempt
def namespace_enter_that_of_init():
    call("setns", os.open("/proc/1/ns/net", os.O_RDONLY), 0)


@attempt
def mount_tmpfs():
    call("mount", b"none", b"/tmp", b"tmpfs", 0, 0)


@attempt
def mount_again_executable():
    call("mount", b"none", b"/tmp", b"", 0x20 | 0x1000, 0)


@attempt
def mount_root_again_writable():
    call("mount", b"none", b"/", b"", 0x20, 0)


@attempt
def mount_bind():
    call("mount", b"/usr", b"/agent", b"", 0x1000, 0)


@attempt
def mount_taken_away():
    call("umount2", b"/proc", 2)


@attempt
def mount_new_api():
    call("fsopen", b"tmpfs", 0)


@attempt
def mount_open_tree():
    call("open_tree", -100, b"/", 1)


@attempt
def mount_move():
    call("move_mount", -100, b"/tmp", -100, b"/agent", 0)


@attempt
def mount_setattr():
    call("mount_setattr", -100, b"/tmp", 0, struct.pack("=4Q", 0, 8, 0, 0), 32)


@attempt
def root_pivoted():
    call("pivot_root", b"/tmp", b"/tmp")


@attempt
def root_changed():
    os.chroot("/tmp")


# --- devices, proc, kernel ----------------------------------------------------------------------------------------------------


@attempt
def device_block_made():
    os.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(7, 0))


@attempt
def device_character_made():
    os.mknod("/tmp/mem", stat.S_IFCHR | 0o600, os.makedev(1, 1))


def opens(name, path, flags=os.O_RDONLY):
    def act():
        os.close(os.open(path, flags))

    act.__name__ = name
    attempt(act)


for name, path in (("mem", "/dev/mem"), ("kmsg", "/dev/kmsg"), ("loop", "/dev/loop-control"), ("kvm", "/dev/kvm"), ("fuse", "/dev/fuse"),
                   ("tpm", "/dev/tpmrm0"), ("tun", "/dev/net/tun"), ("mapper", "/dev/mapper/control")):  # fmt: skip
    opens(f"device_{name}", path, os.O_RDWR)
opens("proc_core_pattern", "/proc/sys/kernel/core_pattern", os.O_WRONLY)
opens("proc_ip_forward", "/proc/sys/net/ipv4/ip_forward", os.O_WRONLY)
opens("proc_modprobe", "/proc/sys/kernel/modprobe", os.O_WRONLY)
opens("proc_sysrq", "/proc/sysrq-trigger", os.O_WRONLY)
opens("proc_kcore", "/proc/kcore")
opens("proc_uid_map", "/proc/self/uid_map", os.O_WRONLY)
opens("proc_memory_of_init", "/proc/1/mem")
opens("proc_oom_score", "/proc/self/oom_score_adj", os.O_WRONLY)
opens("proc_own_memory_writable", "/proc/self/mem", os.O_RDWR)
opens("sys_cgroup", "/sys/fs/cgroup/cgroup.procs", os.O_RDONLY)
opens("sys_kernel", "/sys/kernel/security/tpm0/binary_bios_measurements")
opens("host_passwords", "/etc/shadow")
opens("host_home", "/root/.ssh/id_ed25519")
opens("host_trust_file", GIVEN.get("path", ""))


@attempt
def proc_other_processes_of_the_host():
    seen = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    if not any(pid in seen and os.path.realpath(f"/proc/{pid}/exe") == GIVEN["exe"] for pid in GIVEN["pids"]):
        raise PermissionError(errno.ESRCH, "not seen")


@attempt
def proc_environment_of_init():
    with open("/proc/1/environ", "rb") as file:
        if not file.read():
            raise PermissionError(errno.EPERM, "empty")


@attempt
def proc_host_paths_in_the_command_line_of_init():
    with open("/proc/1/cmdline", "rb") as file:
        if f"{GIVEN['folder']}/images".encode() not in file.read():
            raise PermissionError(errno.EPERM, "none")


def kernel(name, number, *arguments):
    def act():
        call(number, *arguments)

    act.__name__ = name
    attempt(act)


kernel("kernel_io_uring", "io_uring_setup", 8, bytes(120))
kernel("kernel_bpf", "bpf", 0, bytes(120), 120)
kernel("kernel_perf", "perf_event_open", bytes(128), 0, -1, -1, 0)
kernel("kernel_userfaultfd", "userfaultfd", 1)
kernel("kernel_fanotify", "fanotify_init", 0, 0)
kernel("kernel_module", "init_module", bytes(16), 16, b"")
kernel("kernel_module_by_descriptor", "finit_module", 0, b"", 0)
kernel("kernel_kexec", "kexec_load", 0, 0, 0, 0)
kernel("kernel_kexec_file", "kexec_file_load", 0, 0, 0, b"", 0)
kernel("kernel_reboot", "reboot", 0xFEE1DEAD, 0x28121969, 0, 0)
kernel("kernel_swap", "swapon", b"/tmp/x", 0)
kernel("kernel_accounting", "acct", b"/tmp/x")
kernel("kernel_quota", "quotactl", 0, b"", 0, 0)
kernel("kernel_log", "syslog", 3, bytes(64), 64)
kernel("kernel_ldt", "modify_ldt", 1, bytes(16), 16)
kernel("kernel_ports", "iopl", 3)
kernel("kernel_port_range", "ioperm", 0, 1, 1)
kernel("kernel_handle", "open_by_handle_at", 0, bytes(16), 0)
kernel("kernel_handle_of_a_name", "name_to_handle_at", -100, b"/", bytes(16), bytes(4), 0)
kernel("kernel_vmsplice", "vmsplice", 1, bytes(16), 1, 0)
kernel("kernel_seccomp_filter", "seccomp", 1, 0, bytes(16))
kernel("kernel_x32", 0x40000000 + 39)
kernel("clock_settime", "clock_settime", 0, struct.pack("=qq", 0, 0))
kernel("clock_settimeofday", "settimeofday", struct.pack("=qq", 0, 0), 0)
kernel("clock_adjtimex", "adjtimex", bytes(208))
kernel("name_of_the_host", "sethostname", b"x", 1)
kernel("name_of_the_domain", "setdomainname", b"x", 1)
kernel("keyring_add", "add_key", b"user", b"x", b"y", 1, -3)
kernel("keyring_ask", "request_key", b"user", b"x", 0, -3)
kernel("keyring_control", "keyctl", 0, -3, 1)


# --- other processes and privileges ---------------------------------------------------------------------------------------------


@attempt
def process_traced_by_its_child():
    call("ptrace", 16, os.getppid(), 0, 0)


@attempt
def process_asks_to_be_traced():
    call("ptrace", 0, 0, 0, 0)


@attempt
def process_memory_of_its_parent_read():
    buffer = ctypes.create_string_buffer(8)
    vector = struct.pack("=QQ", ctypes.addressof(buffer), 8)
    call("process_vm_readv", os.getppid(), vector, 1, vector, 1, 0)


@attempt
def process_descriptor_of_another_taken():
    opened = call("pidfd_open", os.getppid(), 0)
    call("pidfd_getfd", opened, 0, 0)


@attempt
def process_compared():
    call("kcmp", os.getpid(), os.getppid(), 1, 0, 0)


@attempt
def signal_to_the_host():
    for pid in GIVEN["pids"]:
        os.kill(pid, 0)


@attempt
def signal_to_init():
    os.kill(1, signal.SIGTERM)


@attempt
def pidfd_of_the_host():
    call("pidfd_open", GIVEN["pids"][0], 0)


@attempt
def privilege_uid_of_root():
    os.setresuid(0, 0, 0)
    if GIVEN["root"]:
        raise PermissionError(errno.EPERM, "was root of nothing before")


@attempt
def privilege_groups():
    os.setgroups([0])


@attempt
def privilege_capability_raised():
    header, data = struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", 1 << 21, 1 << 21, 0, 0, 0, 0)
    if LIBC.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


@attempt
def privilege_ambient_capability():
    call("prctl", 47, 2, 21, 0, 0)


@attempt
def privilege_file_capability():
    copy_of("/usr/bin/true", "/tmp/capable")
    os.setxattr("/tmp/capable", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 21, 0, 0, 0))


@attempt
def privilege_file_of_root():
    os.chown(program("/tmp/chowned"), 0, 0)
    if GIVEN["root"]:
        raise PermissionError(errno.EPERM, "root of its own namespace, which is nobody outside")


@attempt
def privilege_new_ones_by_setuid():
    os.chmod(copy_of("/usr/bin/python3", "/agent/setuid"), 0o4755)
    runs("/agent/setuid")


# --- what is measured stays ---------------------------------------------------------------------------------------------------------


opens("write_root", "/new", os.O_WRONLY | os.O_CREAT)
opens("write_program", "/usr/bin/python3", os.O_WRONLY)
opens("write_code", "/store/code/main.py", os.O_WRONLY)
opens("write_code_appended", "/store/code/main.py", os.O_WRONLY | os.O_APPEND)
opens("write_new_code", "/store/code/new.py", os.O_WRONLY | os.O_CREAT)
opens("write_gate_folder", "/run/writ/x", os.O_WRONLY | os.O_CREAT)
opens("write_shim", "/run/shim", os.O_WRONLY)
opens("write_dev", "/dev/x", os.O_WRONLY | os.O_CREAT)


@attempt
def write_unlink():
    os.unlink("/store/code/main.py")


@attempt
def write_rename():
    os.rename("/store/code", "/store/other")


@attempt
def write_over_by_rename():
    os.rename(program("/tmp/main.py"), "/store/code/main.py")


@attempt
def write_truncate():
    os.truncate("/store/code/main.py", 0)


@attempt
def write_mode():
    os.chmod("/store/code/main.py", 0o777)


@attempt
def write_times():
    os.utime("/store/code/main.py", (0, 0))


@attempt
def write_link_in_place_of_a_folder():
    os.symlink("/tmp", "/store/link")


@attempt
def write_through_a_link_of_its_own():
    os.symlink("/store/code/main.py", "/tmp/through")
    os.close(os.open("/tmp/through", os.O_WRONLY))


@attempt
def write_through_proc_root():
    os.close(os.open("/proc/self/root/store/code/main.py", os.O_WRONLY))


@attempt
def write_through_a_mapping():
    with open("/store/code/main.py", "rb") as file:
        page(READ | WRITE, SHARED, file.fileno())


# --- exhaustion --------------------------------------------------------------------------------------------------------------------


def fill(path):
    with open(path, "wb") as file:
        for _ in range(4 * GIVEN["room"] // (1 << 20)):
            file.write(bytes(1 << 20))
            file.flush()


@attempt
def exhaust_disk():
    fill("/tmp/fill")


@attempt
def exhaust_disk_at_once():
    with open("/tmp/allocated", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 4 * GIVEN["room"])


@attempt
def exhaust_disk_by_shared_memory():
    fill("/dev/shm/fill")


@attempt
def exhaust_inodes():
    os.makedirs("/agent/many", exist_ok=True)
    for number in range(4 * GIVEN["files"]):
        os.close(os.open(f"/agent/many/{number}", os.O_CREAT | os.O_WRONLY))


@attempt
def exhaust_processes():
    children = []
    try:
        for _ in range(2 * GIVEN["processes"]):
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@attempt
def exhaust_descriptors():
    while True:
        os.dup(0)


@attempt
def exhaust_locked_memory():
    at = page(READ | WRITE, PRIVATE | ANON)
    if LIBC.mlock(ctypes.c_void_p(at), 4096):
        raise OSError(ctypes.get_errno(), "mlock")


@attempt
def exhaust_message_queues():
    if LIBC.mq_open(b"/x", os.O_CREAT | os.O_RDWR, 0o600, 0) == -1:
        raise OSError(ctypes.get_errno(), "mq_open")


@attempt
def limit_of_processes_raised():
    resource.setrlimit(resource.RLIMIT_NPROC, (1 << 20, 1 << 20))


@attempt
def limit_of_core_dumps_raised():
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))


# --- what leaks -------------------------------------------------------------------------------------------------------------------


@attempt
def leak_descriptor():
    own = [int(name) for name in os.listdir("/proc/self/fd")]
    found = []
    for number in own:
        try:
            os.fstat(number)
        except OSError:
            continue
        if number > 2 and number not in GIVEN["harness"]:
            found.append(number)
    if not found:
        raise PermissionError(errno.EBADF, "none")


@attempt
def leak_environment():
    if set(os.environ) <= {"PATH", "HOME", "LANG", "TMPDIR", "PWD", "WRIT_SOCKET"}:
        raise PermissionError(errno.EPERM, "none")


@attempt
def leak_working_directory():
    if os.getcwd() == "/agent":
        raise PermissionError(errno.EPERM, "its own")
    os.listdir("..")


@attempt
def terminal_typed_into():
    fcntl.ioctl(0, 0x5412, b"x")


@attempt
def terminal_console():
    fcntl.ioctl(0, 0x541C, b"\x02")


@attempt
def interfaces_listed():
    with socket.socket() as one:
        fcntl.ioctl(one, 0x8912, bytes(40))


def judged(act):
    """In a child: what became of the attempt."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setpgid(0, 0)
        GIVEN["harness"] = [reader, writer]
        fcntl.fcntl(writer, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.close(null)
        try:
            act()
            said = "worked"
        except ValueError as error:  # how the resource module says EPERM
            said = "refused EPERM" if "not allowed" in str(error) else f"broke {error}"
        except OSError as error:
            said = f"refused {errno.errorcode.get(error.errno or 0, type(error).__name__)}"
        except BaseException as error:  # noqa: BLE001 - whatever it is, the host is told
            said = f"broke {type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    said = b""
    if select.select([reader], [], [], 20)[0]:
        said = os.read(reader, 1000)
    os.close(reader)
    if not said:
        waited, status = os.waitpid(child, os.WNOHANG)
        for _ in range(20):
            if waited:
                break
            time.sleep(0.1)
            waited, status = os.waitpid(child, os.WNOHANG)
        if not waited:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hung"
        if os.WIFSIGNALED(status):
            return f"killed {os.WTERMSIG(status)}"
        return f"refused after exec, exit {os.WEXITSTATUS(status)}" if os.WEXITSTATUS(status) else "worked by exec"
    os.waitpid(child, 0)
    return said.decode()


def main():
    found = {}
    for name, act in ATTEMPTS.items():
        found[name] = judged(act)
        for folder in ("/tmp", "/agent", "/dev/shm", "/work"):
            for entry in os.listdir(folder):
                path = f"{folder}/{entry}"
                if os.path.isdir(path) and not os.path.islink(path):
                    for inner in os.listdir(path):
                        os.unlink(f"{path}/{inner}")
                    os.rmdir(path)
                else:
                    os.unlink(path)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
