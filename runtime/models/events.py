"""Owns the cutting of bytes into the events of an event stream, however the bytes were split on their way."""

from collections.abc import Iterator

_BOM = b"\xef\xbb\xbf"
_FIELDS = (b"data", b"event", b"id", b"retry")


class EventLines:
    """Cuts bytes into the data of events, by the rules of `text/event-stream`.

    Lines end with LF or CRLF. A comment, or a field other than data, says nothing here; a line that is neither is no event
    stream at all.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._first = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the data of each event that ends within these bytes.

        Raises:
            ValueError: a line that has no place in an event stream.
        """
        searched = len(self._rest)
        self._rest += data
        start = 0
        while (end := self._rest.find(b"\n", max(start, searched))) >= 0:
            line = bytes(self._rest[start:end])
            start = end + 1
            if (event := self._take(line)) is not None:
                yield event
        del self._rest[:start]

    def close(self) -> bytes | None:
        """The data of an event that the end of the stream cut off, as far as it came; None where there is none.

        Raises:
            ValueError: the last line has no place in an event stream.
        """
        rest = bytes(self._rest)
        self._rest.clear()
        # The name of a field may itself be cut off.
        if rest and not any(name.startswith(rest) for name in _FIELDS):
            self._take(rest)
        return self._take(b"")

    def _take(self, line: bytes) -> bytes | None:
        if self._first:
            self._first, line = False, line.removeprefix(_BOM)
        line = line.removesuffix(b"\r")
        if not line:
            data, self._data = self._data, []
            return b"\n".join(data) if data else None
        name, _, value = line.partition(b":")
        if name and name not in _FIELDS:
            raise ValueError(f"no line of an event stream: {line[:60].decode(errors='replace')!r}")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        return None
