"""handle.py - what communicators, plans and routings have in common: a handle of the library, and its end

SPDX-License-Identifier: Apache-2.0
"""


class Handle:
    """Owns a handle of the library until close(), the end of a with block, or its own end."""

    _handle = None
    _name = ''       # in texts: 'the comm is closed'

    def _destroy(self, handle):
        raise NotImplementedError

    @property
    def is_open(self):
        return self._handle is not None

    @property
    def handle(self):
        if self._handle is None:
            raise ValueError(f'crosspress: the {self._name} is closed')
        return self._handle

    def close(self):
        """Gives the handle back. May be called again."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._destroy(handle)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        if self.is_open:
            self.close()
