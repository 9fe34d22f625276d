"""The system calls that a program may not make: a seccomp filter (Linux, `seccomp(2)`), no privileges needed.

A refused call fails with "operation not permitted" and the program goes on without what it asked for. The kernel
applies the filter whatever language or library makes the call.
"""

from __future__ import annotations

import ctypes
import errno
import os

from fedloom.suites.sandbox.kernel import CALLS, Numbers, machine_position, process_control

PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
KILL, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
# Instructions of the classic Berkeley packet filter: load a word, return, and jumps.
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# Where struct seccomp_data has its fields, in bytes; of an argument the lower 32 bits.
NUMBER, ARCHITECTURE, ARGUMENTS, ARGUMENT_SIZE = 0, 4, 16, 8
# AUDIT_ARCH_ numbers of kernel.MACHINES.
ARCHITECTURES = (0xC000003E, 0xC00000B7)
# System calls of x86_64's second, 32-bit set have this bit.
X32 = 0x40000000

CLONE_THREAD = 0x10000
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

NETWORK: dict[str, Numbers] = {"socket": (41, 198), "socketpair": (53, 199)}
PROCESSES: dict[str, Numbers] = {
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
}
# Memory that outlives the program or counts for nobody.
SHARED_MEMORY: dict[str, Numbers] = {
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
}
# Ways to new rights, and to do any of the above past this filter.
KERNEL: dict[str, Numbers] = {
    **CALLS,
    "setns": (308, 268),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
}
# Changes to files, where no namespace keeps a program from them.
FILES: dict[str, Numbers] = {
    "creat": (85, None),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "truncate": (76, 45),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
CLONE, CLONE3, OPENAT2 = (56, 220), (435, 435), (437, 437)
OPEN, OPENAT = (2, None), (257, 56)
KILL_PROCESS, KILL_THREAD, LIMITS_OF = (62, 129), (234, 131), (302, 261)
# What puts words into a terminal, as if the user had typed them.
CONTROL, TIOCSTI, TIOCLINUX = (16, 29), 0x5412, 0x541C
# Whom the kernel tells by a signal that a file can be read.
FILE_CONTROL, F_SETOWN, F_SETOWN_EX = (72, 25), 8, 15


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("value", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def restrict(writing: bool) -> None:
    """Apply the filter to this process, for good; it must have set "no new privileges".

    Args:
        writing: whether files may be changed, as where a namespace offers a scratch folder only.

    Raises:
        OSError: where the kernel or the machine has no such filter.
    """
    instructions = rules(machine_position(), os.getpid(), writing)
    array = (_Instruction * len(instructions))(*(_Instruction(*one) for one in instructions))
    process_control(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, _Program(len(instructions), array))


def rules(machine: int, process: int, writing: bool) -> list[tuple[int, int, int, int]]:
    """The filter as instructions (code, jump if true, jump if false, value).

    Args:
        machine: position in kernel.MACHINES.
        process: the only process that may be sent signals, and see its limits: the program's own.
        writing: see `restrict`.

    Returns:
        What the kernel checks every call by.
    """
    refused, unknown = (RETURN, 0, 0, ERRNO | errno.EPERM), (RETURN, 0, 0, ERRNO | errno.ENOSYS)
    allowed, killed = (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, KILL)
    lines = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, ARCHITECTURES[machine]), killed]
    lines += [(LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, X32), killed]

    def call(numbers: Numbers, *then: tuple[int, int, int, int]) -> None:
        number = numbers[machine]
        if number is not None:
            lines.extend([(EQUAL, 0, len(then), number), *then])

    def argument(index: int) -> tuple[int, int, int, int]:
        return (LOAD, 0, 0, ARGUMENTS + ARGUMENT_SIZE * index)

    for table in (NETWORK, PROCESSES, SHARED_MEMORY, KERNEL):
        for numbers in table.values():
            call(numbers, refused)
    # Threads may be started, processes may not. clone3 hides its flags; where it is unknown, libraries use clone.
    call(CLONE, argument(0), (ANY_BIT, 1, 0, CLONE_THREAD), refused, allowed)
    call(CLONE3, unknown)
    for numbers in (KILL_PROCESS, KILL_THREAD):
        call(numbers, argument(0), (EQUAL, 1, 0, process), refused, allowed)
    call(LIMITS_OF, argument(0), (EQUAL, 1, 0, 0), refused, allowed)
    call(FILE_CONTROL, argument(1), (EQUAL, 1, 0, F_SETOWN), (EQUAL, 0, 1, F_SETOWN_EX), refused, allowed)
    call(CONTROL, argument(1), (EQUAL, 1, 0, TIOCSTI), (EQUAL, 0, 1, TIOCLINUX), refused, allowed)
    if not writing:
        for numbers in FILES.values():
            call(numbers, refused)
        call(OPEN, argument(1), (ANY_BIT, 0, 1, WRITING), refused, allowed)
        call(OPENAT, argument(2), (ANY_BIT, 0, 1, WRITING), refused, allowed)
        call(OPENAT2, unknown)
    return [*lines, allowed]
