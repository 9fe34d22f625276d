"""A machine of its own for one program, made of Linux namespaces, without root's rights (`user_namespaces(7)`).

The program sees no other process and no network, and of the file system what Python needs, read-only, beside a scratch
folder that is gone with it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

from fedloom.suites.sandbox.kernel import die_with_parent, system_call

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 0x00020000, 0x04000000, 0x08000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWCGROUP = 0x20000000, 0x40000000, 0x02000000
ALL = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 0x1, 0x2, 0x4
AT_FDCWD, AT_RECURSIVE = -100, 0x8000

# Who the program is in its own namespace: nobody.
NOBODY = 65534
SCRATCH = "/tmp"
# What of the machine's file system is there, as far as it exists: shared libraries, and where they are.
SYSTEM = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")


def enter(folders: Sequence[str], scratch_bytes: int) -> None:
    """Go on as a process in namespaces of its own; the processes before it wait for it and end as it does.

    Args:
        folders: what the program may read beside SYSTEM, absolute paths.
        scratch_bytes: size of the scratch folder, which is in memory.

    Raises:
        OSError: where this machine does not allow it, with the call that failed.
    """
    user, group = os.getuid(), os.getgid()
    system_call("unshare", ALL)
    for name, line in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {user} 1"), ("gid_map", f"{NOBODY} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
    # The first process of the namespace takes every other with it when it ends; it can't be killed from within.
    _go_on_in_child()
    _furnish([*SYSTEM, *folders], scratch_bytes)
    _go_on_in_child()


def _go_on_in_child() -> None:
    """Fork: the child returns, this process waits for it and exits as it did (128 + the signal that killed it)."""
    child = os.fork()
    if child == 0:
        die_with_parent()
        return
    # Nothing is kept open that the child's end should close.
    os.closerange(0, 1024)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _furnish(paths: Sequence[str], scratch_bytes: int) -> None:
    """Replace the file system by an empty one in memory, with some folders of the old one."""
    sys.path[:] = [os.path.realpath(path) for path in sys.path]
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    os.mkdir("/tmp/old")
    system_call("pivot_root", b"/tmp", b"/tmp/old")
    os.chdir("/")
    os.mkdir(SCRATCH)
    _mount("tmpfs", SCRATCH, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=700,size={scratch_bytes}")
    # Afterwards, because Python itself may be in a folder below the scratch folder's place.
    for path in paths:
        _show(path)
    system_call("umount2", b"/old", MNT_DETACH)
    os.rmdir("/old")
    _set_attributes("/", MOUNT_ATTR_RDONLY, 0)
    os.chdir(SCRATCH)


def _show(path: str) -> None:
    """Make one path of the old file system readable at its place, symbolic links as such."""
    old = "/old" + path
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(old):
        os.symlink(os.readlink(old), path)
    elif os.path.exists(old) and not os.path.exists(path):
        if os.path.isdir(old):
            os.mkdir(path)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        _mount(old, path, "", MS_BIND | MS_REC)
        # A device file would not open on a mount without devices; there are none but the harmless ones named above.
        devices = 0 if path.startswith("/dev/") else MOUNT_ATTR_NODEV
        _set_attributes(path, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | devices, AT_RECURSIVE)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    system_call("mount", source.encode(), target.encode(), kind.encode(), flags, options.encode())


def _set_attributes(path: str, attributes: int, flags: int) -> None:
    """`mount_setattr(2)`, of Linux 5.12: a whole tree of mounts at once."""
    # struct mount_attr: to set, to clear, propagation, user namespace; 64 bits each.
    values = b"".join(number.to_bytes(8, sys.byteorder) for number in (attributes, 0, 0, 0))
    system_call("mount_setattr", AT_FDCWD, path.encode(), flags, ctypes.create_string_buffer(values, 32), 32)
