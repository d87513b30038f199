"""How deeply a JSON text is nested, told while it arrives and without parsing it."""

import numpy as np

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class Nesting:
    """Depth of brackets outside strings over the chunks of one text; linear in its length whatever it holds."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_string = False
        self._rest = b""

    def deepest(self, chunk: bytes) -> int:
        """Greatest depth within the next chunk."""
        # Without escape pairs every quote starts or ends a string.
        text = (self._rest + chunk).replace(b"\\\\", b"").replace(b'\\"', b"")
        self._rest = b"\\" if text.endswith(b"\\") else b""
        parts = text.split(b'"')
        outside = b"".join(parts[1::2] if self._is_in_string else parts[::2])
        self._is_in_string ^= len(parts) % 2 == 0
        brackets = np.frombuffer(outside.translate(None, _NO_BRACKETS), dtype=np.uint8)
        if len(brackets) == 0:
            return self._depth
        # One bit tells 0x5B and 0x7B, which open, from 0x5D and 0x7D.
        depths = self._depth + np.cumsum(np.where((brackets & 0x04) == 0, 1, -1))
        self._depth = int(depths[-1])
        return int(depths.max())
