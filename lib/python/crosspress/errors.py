"""errors.py - a status that is an error, as an exception

SPDX-License-Identifier: Apache-2.0
"""


class Error(RuntimeError):
    """What a call of the library ended with: `status` (a number), `name` ("XP_ERR_TIMEOUT"), `text` (who, what, how)."""

    def __init__(self, status, name, text):
        super().__init__(f'{text} ({name})' if text else name)
        self.status, self.name, self.text = status, name, text


class CallerError(Error, ValueError):
    """The call was wrong: an argument, the moment, or something this build cannot do."""


class MachineError(Error, OSError):
    """No memory, or a system call or a library below failed."""

    def __init__(self, status, name, text):
        Error.__init__(self, status, name, text)


class GroupError(Error):
    """A rank is late, gone, or asks for something else; the text names it."""


class CorruptError(Error):
    """Bytes from outside are not what they claim to be."""


class InternalError(Error):
    """A defect of the library."""


def kind(status):
    """The class for a status: grouped by whom to ask, as the header's numbers are."""
    for low, cls in ((-10, CallerError), (-20, MachineError), (-30, GroupError), (-40, CorruptError)):
        if status > low:
            return cls
    return InternalError
