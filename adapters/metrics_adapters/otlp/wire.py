"""What of a message is written by hand, as Protocol Buffers have it: fields that hold bytes.

A repeated field may stand anywhere in its message, so what never changes of a message is made once, and
joined with the rest as bytes. The official classes make everything else.
"""

from __future__ import annotations


def field(number: int, content: bytes) -> bytes:
    """Return a field that holds a message, a text, or packed numbers.

    Args:
        number: The field's number, 15 at most.
        content: What it holds.
    """
    size = len(content)
    if size < 0x80:
        return bytes((number << 3 | 2, size)) + content
    return bytes((number << 3 | 2,)) + _varint(size) + content


def attribute(number: int, name: str, value: str) -> bytes:
    """Return an attribute, in the field with that number; a lone surrogate becomes Python's escape."""
    value_bytes = field(1, value.encode(errors="backslashreplace"))
    return field(number, field(1, name.encode(errors="backslashreplace")) + field(2, value_bytes))


def _varint(number: int) -> bytes:
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
