"""Calls into the Linux kernel that Python 3.11 has no function for; knows the standard library only."""

from __future__ import annotations

import ctypes
import os
import signal

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

# Names and numbers of <linux/prctl.h> and <linux/capability.h>.
PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION_3 = 0x20080522

# Kinds of machines that the sandbox knows the system calls of.
MACHINES = ("x86_64", "aarch64")
# The numbers of a system call on these machines; None where one lacks it.
Numbers = tuple[int | None, int | None]
# The calls that the sandbox makes itself.
CALLS: dict[str, tuple[int, int]] = {
    "capset": (126, 91),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "pivot_root": (155, 41),
    "umount2": (166, 39),
    "unshare": (272, 97),
}


def machine_position() -> int:
    """The position of this machine's kind in MACHINES.

    Raises:
        OSError: for any other machine.
    """
    machine = os.uname().machine
    if machine not in MACHINES:
        raise OSError(f"machines of kind {machine!r} are not known, only {' and '.join(MACHINES)}")
    return MACHINES.index(machine)


def system_call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make one system call.

    Args:
        name: one of CALLS.
        arguments: numbers, or bytes and buffers that the kernel is given the address of.

    Returns:
        What the call returns, not negative.

    Raises:
        OSError: where it fails, with the name of the call.
    """
    values = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    number = CALLS[name][machine_position()]
    return _checked(name, int(_LIBC.syscall(ctypes.c_long(number), *values)))


def process_control(option: int, *arguments: int | ctypes.Structure) -> int:
    """`prctl(2)` of this process.

    Args:
        option: PR_...
        arguments: numbers, or a structure that the kernel is given the address of.

    Returns:
        What the call returns, not negative.

    Raises:
        OSError: where it fails.
    """
    values = [ctypes.c_ulong(value) if isinstance(value, int) else ctypes.byref(value) for value in arguments]
    values += [ctypes.c_ulong(0)] * (4 - len(values))
    return _checked("prctl", int(_LIBC.prctl(ctypes.c_int(option), *values)))


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it is gone."""
    process_control(PR_SET_PDEATHSIG, signal.SIGKILL)


def drop_privileges() -> None:
    """Give up all capabilities, and every way to get any: programs that are started gain none either."""
    for capability in range(64):
        try:
            process_control(PR_CAPBSET_DROP, capability)
        except OSError:
            # Beyond the last capability that this kernel knows, or never held.
            break
    process_control(PR_SET_NO_NEW_PRIVS, 1)
    header = CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4)
    system_call("capset", header, bytes(24))
