"""The one error a user's mistake ends in: a single clear line, and a hint where there is one."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

MAX_SHOWN = 20
DISK_ERRORS = {errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EPERM}


class UserError(ValueError):
    """A mistake in a recipe, a file or a command, told in one line.

    Args:
        message: what is wrong, with the recipe key and the value.
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message} ({hint})")
        self.message = message
        self.hint = hint


class Diverged(UserError):
    """Training that ended in losses that are no numbers: a result of the settings, which a comparison records."""


class ProcessLost(RuntimeError):
    """A process of a distributed run is gone, and the run has ended with it; told in one line.

    Args:
        message: which, and how it went.
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def disk_error(error: OSError) -> UserError | None:
    """What a full or forbidden disk is told as.

    Args:
        error: from writing or reading a file.

    Returns:
        One line, or None where the error is of another kind.
    """
    if error.errno not in DISK_ERRORS:
        return None
    return UserError(f"{error.filename or 'disk'}: {error.strerror}", hint="a run can go on with --resume")


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name closest to a misspelt one, if any is close.

    Args:
        name: what the user wrote.
        allowed: the valid names.

    Returns:
        The best match, or None.
    """
    found = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)
    return found[0] if found else None


def unknown_name(key: str, value: object, allowed: Iterable[str]) -> UserError:
    """The error for a value that is none of a known set of names.

    Args:
        key: the recipe key, dotted.
        value: what was written there.
        allowed: the valid names.

    Returns:
        An error naming key, value, what is allowed and the nearest name.
    """
    names = list(allowed)
    shown = ", ".join(names[:MAX_SHOWN]) + (f", ... ({len(names)} in all)" if len(names) > MAX_SHOWN else "")
    close = nearest(str(value), names)
    return UserError(f"{key}: {value!r} is not one of: {shown}", hint=f"did you mean {close!r}?" if close else None)
