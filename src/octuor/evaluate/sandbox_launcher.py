"""Run as a program of its own: shuts itself off from network, files and other processes, then becomes another program.

    python -I -S sandbox_launcher.py isolated|bare FOLDER SECONDS MEMORY_BYTES FILE_BYTES PROCESSES PROGRAM

isolated: new user, network, process, mount, IPC and host-name namespaces (Linux, namespaces(7)); the root is an empty
tmpfs with the system's libraries and this Python bound into it, read-only, and FOLDER as /work; no home folder, no
/run, no sockets. bare: the limits alone. PROGRAM is a Python file in FOLDER. Exits 125 where it could not isolate.

Standard library only: it must not need this package.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
NAMESPACES = CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 4096, 16384, 1 << 18
SYS_MOUNT_SETATTR, AT_RECURSIVE, AT_FDCWD = 442, 0x8000, -100
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
NOBODY = 65534
NOT_ISOLATED = 125
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", "/etc/ld.so.conf.d", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")

libc = ctypes.CDLL(None, use_errno=True)


class MountAttributes(ctypes.Structure):
    """struct mount_attr of linux/mount.h."""

    _fields_ = (("set", ctypes.c_uint64), ("clear", ctypes.c_uint64), ("propagation", ctypes.c_uint64),
                ("userns_fd", ctypes.c_uint64))  # fmt: skip


def check(result: int, what: str) -> None:
    """Raise OSError after a call of the C library that failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2)."""
    words = [None if word is None else word.encode() for word in (source, target, kind, options)]
    check(libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), f"mount {target}")


def become_nobody() -> None:
    """A user namespace in which we are nobody, and so without rights outside it, whoever we were."""
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:  # root's rights would be root's inside, too
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        check(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "PR_SET_DUMPABLE")  # else /proc/self is root's
        uid = gid = NOBODY
    check(libc.unshare(CLONE_NEWUSER), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {gid} 1")


def make_root(folder: str, file_bytes: int) -> None:
    """A root with nothing in it but what Python needs, read-only, and /work, a copy of folder's files in memory."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in dict.fromkeys((*SYSTEM, *DEVICES, os.path.realpath(sys.base_prefix))):
        bind(path, folder + path)
    for name in ("work", "tmp"):
        Path(folder, name).mkdir()
        mount("tmpfs", f"{folder}/{name}", "tmpfs", MS_NOSUID | MS_NODEV, f"size={4 * file_bytes},mode=777")
    for name, data in files.items():
        Path(folder, "work", name).write_bytes(data)


def bind(path: str, target: str) -> None:
    """Make a file or folder appear at target, read-only with all below it; a link stays a link."""
    if os.path.islink(path):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(os.readlink(path), target)
        return
    if not os.path.exists(path) or os.path.exists(target):
        return
    if os.path.isdir(path):
        Path(target).mkdir(parents=True)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    mount(path, target, None, MS_BIND | MS_REC)
    devices = 0 if path.startswith("/dev/") else MOUNT_ATTR_NODEV
    attributes = MountAttributes(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | devices, 0, 0, 0)
    check(
        libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, target.encode(), AT_RECURSIVE, ctypes.byref(attributes),
                     ctypes.c_size_t(ctypes.sizeof(attributes))),
        f"mount_setattr {target}",
    )  # fmt: skip


def limit(seconds: int, memory_bytes: int, file_bytes: int, processes: int) -> None:
    """What the program may use. The process limit counts this user's processes in the namespace alone."""
    for name, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(name)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(name, (most, most))


def main() -> None:
    """See the module."""
    mode, folder, seconds, memory_bytes, file_bytes, processes, program = sys.argv[1:]
    python = os.path.realpath(sys.executable)  # while links can be followed
    is_isolated = mode == "isolated"
    if sys.platform == "linux":
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if is_isolated:
        try:
            is_root = os.getuid() == 0
            if not is_root:
                become_nobody()
            check(libc.unshare(NAMESPACES), "unshare")
            child = os.fork()  # the first process of the new process namespace: when it ends, all of them do
            if child == 0:
                libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                make_root(folder, int(file_bytes))
                if is_root:  # who could read more of the file system, such as a Python in a folder of root's
                    become_nobody()
                check(libc.chroot(folder.encode()), "chroot")
                os.chdir("/work")
                libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
                run(int(seconds), int(memory_bytes), int(file_bytes), int(processes), python, program)
        except (OSError, AttributeError) as error:
            print(f"not isolated: {error}", file=sys.stderr)
            os._exit(NOT_ISOLATED)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    os.chdir(folder)
    run(int(seconds), int(memory_bytes), int(file_bytes), 4096, python, program)


def run(seconds: int, memory_bytes: int, file_bytes: int, processes: int, python: str, program: str) -> None:
    """Become the program, with nothing of our environment."""
    limit(seconds, memory_bytes, file_bytes, processes)
    os.execve(python, [python, "-I", "-S", program], {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/work"})


if __name__ == "__main__":
    main()
