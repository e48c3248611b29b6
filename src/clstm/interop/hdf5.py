"""A reader of the part of HDF5 that Keras writes: groups, arrays in one piece, attributes that are text.

It is here because the HDF5 library itself can crash on a damaged file. Every byte is taken through `_Bytes.view`,
which knows where the file ends; nothing is allocated that the file does not hold, and what many attributes point to is
not read without end. What is not in this part is refused by name.

The format: https://docs.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html (HDF5 File Format Specification 3.0).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = 2**64 - 1  # an address of nothing

# Types of messages in an object header.
DATASPACE, LINK_INFO, DATATYPE, LINK, LAYOUT, FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, ATTRIBUTE_INFO = (
    1, 2, 3, 6, 8, 11, 12, 16, 17, 21
)  # fmt: skip
EXTERNAL_FILES = 7
INTEGER, FLOAT, STRING, VARIABLE = 0, 1, 3, 9  # classes of types
IEEE = {2: (5, 10), 4: (8, 23), 8: (11, 52)}  # bits of exponent and fraction, by bytes
AGAIN = 16  # times the file's size: what may be read of its global heaps


class _Bytes:
    """The file, or a part of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def view(self, offset: int, size: int) -> memoryview:
        """`size` bytes at `offset`, all of which must be there; not a copy."""
        if offset < 0 or size < 0 or offset + size > len(self.data):
            raise ValueError(f"HDF5: {size} bytes at {offset} lie outside of its {len(self.data)}")
        return memoryview(self.data)[offset : offset + size]

    def take(self, offset: int, size: int) -> bytes:
        """A copy of the same."""
        return bytes(self.view(offset, size))

    def text(self, offset: int) -> str:
        """The text at `offset`, up to a zero."""
        end = self.data.find(b"\0", offset)
        return self.take(offset, (len(self.data) if end < 0 else end) - offset).decode()

    def unpack(self, layout: str, offset: int) -> tuple[Any, ...]:
        """Numbers at `offset`, little-endian, packed."""
        return struct.unpack("<" + layout, self.take(offset, struct.calcsize("<" + layout)))

    def expect(self, signature: bytes, offset: int) -> None:
        """Raise ValueError where another kind of block stands at `offset`."""
        if (found := self.take(offset, len(signature))) != signature:
            raise ValueError(f"HDF5: {found!r} stands where {signature!r} is expected")


class _File(_Bytes):
    """All bytes of a file, and where the objects of its global heaps stand."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._heaps: dict[int, dict[int, tuple[int, int]]] = {}
        self._left = AGAIN * len(data)

    def global_object(self, address: int, index: int, most: int) -> bytes:
        """At most `most` bytes of an object in the global heap at `address`."""
        if address not in self._heaps:
            self._heaps[address] = dict(self._objects(address))
        if index not in self._heaps[address]:
            raise ValueError("HDF5: a text is not where an attribute points to")
        position, size = self._heaps[address][index]
        self._spend(min(most, size))
        return self.take(position, min(most, size))

    def _objects(self, address: int) -> Iterator[tuple[int, tuple[int, int]]]:
        """Index, position and size of each object."""
        self.expect(b"GCOL", address)
        (size,) = self.unpack("Q", address + 8)
        self._spend(size)
        position, end = address + 16, address + size
        while position + 16 <= end:
            index, _, _, size = self.unpack("HHIQ", position)
            if index == 0:
                return
            yield index, (position + 16, size)
            position += 16 + -(-size // 8) * 8

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError(f"HDF5: attributes hold more than {AGAIN} times the file")


class _Type(NamedTuple):
    kind: int
    size: int
    dtype: np.dtype[Any] | None  # of numbers that numpy has


class Dataset:
    """An array of numbers."""

    def __init__(self, file: _File, messages: list[tuple[int, bytes]]) -> None:
        self._file, self._messages = file, dict(messages)

    def read(self) -> np.ndarray:
        """The values, in the file's byte order; a read-only view of the file's bytes."""
        if self._messages.keys() & {FILTERS, EXTERNAL_FILES}:
            raise NotImplementedError("HDF5: arrays that are compressed, or in other files, are not supported")
        kind = _read_type(self._messages[DATATYPE])
        shape = _read_shape(self._messages[DATASPACE])
        if kind.dtype is None:
            raise NotImplementedError("HDF5: only arrays of integers and IEEE floating-point numbers are supported")
        return np.frombuffer(self._content(math.prod(shape) * kind.size), kind.dtype).reshape(shape)

    def _content(self, size: int) -> memoryview | bytes:
        layout = _Bytes(self._messages[LAYOUT])
        version, where = layout.unpack("BB", 0)
        if version not in (3, 4) or where > 1:
            raise NotImplementedError("HDF5: only arrays in one piece are supported")
        if where == 0:
            return layout.view(4, size)
        (address,) = layout.unpack("Q", 2)
        return self._file.view(address, size) if size else b""


class Group:
    """Groups and datasets by name, and attributes that are text."""

    def __init__(self, file: _File, messages: list[tuple[int, bytes]]) -> None:
        self._file = file
        self._addresses = dict(_read_links(file, messages))
        self.attributes: dict[str, str | list[str]] = dict(_read_attributes(file, messages))

    def __contains__(self, name: str) -> bool:
        return name in self._addresses

    def __iter__(self) -> Iterator[str]:
        return iter(self._addresses)

    def __getitem__(self, path: str) -> Any:
        """The group or dataset at a path of names with "/" between them."""
        name, _, rest = path.partition("/")
        if name not in self._addresses:
            raise ValueError(f"HDF5: there is no {name!r:.60} in a group of {', '.join(self._addresses):.80}")
        found = _open(self._file, self._addresses[name])
        if not rest:
            return found
        if isinstance(found, Dataset):
            raise ValueError(f"HDF5: {name!r:.60} is an array, but a group is expected")
        return found[rest]

    def group(self, name: str) -> Group:
        """The group of that name."""
        found = self[name]
        if not isinstance(found, Group):
            raise ValueError(f"HDF5: {name!r:.60} is an array, but a group is expected")
        return found


def open_hdf5(data: bytes) -> Group:
    """Return the root group of a file.

    Raises
    ------
    ValueError
        If the file is damaged or no HDF5.
    NotImplementedError
        If it uses a part of the format that is not here.
    """
    file = _File(data)
    file.expect(SIGNATURE, 0)
    (version,) = file.unpack("B", 8)
    if version in (0, 1):
        sizes, base, root = file.unpack("BB", 13), 24 + 4 * version, 64 + 4 * version
    elif version in (2, 3):
        sizes, base, root = file.unpack("BB", 9), 12, 36
    else:
        raise NotImplementedError(f"HDF5: version {version} of the superblock is not supported")
    if sizes != (8, 8) or file.unpack("Q", base) != (0,):
        raise NotImplementedError("HDF5: addresses of other than 8 bytes, or from another base, are not supported")
    found = _open(file, *file.unpack("Q", root))
    if not isinstance(found, Group):
        raise ValueError("HDF5: the root is no group")
    return found


# ---- object headers ----


def _open(file: _File, address: int) -> Group | Dataset:
    messages = list(_read_messages(file, address))
    return (Dataset if any(kind == LAYOUT for kind, _ in messages) else Group)(file, messages)


def _read_messages(file: _File, address: int) -> Iterator[tuple[int, bytes]]:
    """Type and content of the messages in an object header, those of its continuations too."""
    newer = file.take(address, 4) == b"OHDR"
    if newer:
        version, flags = file.unpack("BB", address + 4)
        start = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(file.take(start, width), "little")
        blocks, header = [(start + width, size)], 6 if flags & 4 else 4
    else:
        version, _, _, _, size = file.unpack("BBHII", address)
        blocks, header = [(address + 16, size)], 8
    if version != 1 + newer:
        raise NotImplementedError(f"HDF5: version {version} of an object header is not supported")
    seen = set()
    while blocks:
        position, size = blocks.pop(0)
        if position in seen:
            raise ValueError("HDF5: an object header goes around in circles")
        seen.add(position)
        end = position + size
        file.take(position, size)
        while position + header <= end:
            kind, length, flags = file.unpack("BHB" if newer else "HHB", position)
            content = file.take(position + header, length)
            position += header + length
            if flags & 2 and kind in (DATATYPE, DATASPACE, ATTRIBUTE):
                raise NotImplementedError("HDF5: types that objects share are not supported")
            if kind == CONTINUATION:
                next_position, next_size = _Bytes(content).unpack("QQ", 0)
                # In the newer version, a signature before and a checksum after the messages.
                blocks.append((next_position + 4, next_size - 8) if newer else (next_position, next_size))
            else:
                yield kind, content


# ---- groups ----


def _read_links(file: _File, messages: list[tuple[int, bytes]]) -> Iterator[tuple[str, int]]:
    """Names and addresses of a group's members. Links to paths and other files are left out."""
    for kind, content in messages:
        message = _Bytes(content)
        if kind == SYMBOL_TABLE:
            tree, heap = message.unpack("QQ", 0)
            file.expect(b"HEAP", heap)
            size, _, names = file.unpack("QQQ", heap + 8)
            yield from _read_symbols(file, tree, _Bytes(file.take(names, size)), set())
        elif kind == LINK:
            yield from _read_link(message)
        elif kind == LINK_INFO:
            (flags,) = message.unpack("B", 1)
            if message.unpack("Q", 10 if flags & 1 else 2) != (UNDEFINED,):
                raise NotImplementedError("HDF5: groups with an index of the newer kind are not supported")


def _read_symbols(file: _File, address: int, names: _Bytes, seen: set[int]) -> Iterator[tuple[str, int]]:
    """The entries below a node of a group's tree."""
    if address in seen:
        raise ValueError("HDF5: a group's tree goes around in circles")
    seen.add(address)
    if file.take(address, 4) == b"TREE":
        kind, _, count = file.unpack("BBH", address + 4)
        if kind != 0:
            raise ValueError("HDF5: a group's tree holds something else")
        for i in range(count):
            (child,) = file.unpack("Q", address + 32 + 16 * i)
            yield from _read_symbols(file, child, names, seen)
        return
    file.expect(b"SNOD", address)
    (count,) = file.unpack("H", address + 6)
    for i in range(count):
        name, target, cached = file.unpack("QQI", address + 8 + 40 * i)
        if cached != 2:  # 2: a link to a path
            yield names.text(name), target


def _read_link(message: _Bytes) -> Iterator[tuple[str, int]]:
    version, flags = message.unpack("BB", 0)
    if version != 1:
        raise NotImplementedError(f"HDF5: version {version} of a link is not supported")
    position = 2
    kind = message.unpack("B", position)[0] if flags & 8 else 0
    position += bool(flags & 8) + (8 if flags & 4 else 0) + bool(flags & 16)
    width = 1 << (flags & 3)
    length = int.from_bytes(message.take(position, width), "little")
    name = message.take(position + width, length).decode()
    if kind == 0:
        yield name, *message.unpack("Q", position + width + length)


# ---- attributes ----


def _read_attributes(file: _File, messages: list[tuple[int, bytes]]) -> Iterator[tuple[str, str | list[str]]]:
    """Those that are text; others are left out."""
    for kind, content in messages:
        message = _Bytes(content)
        if kind == ATTRIBUTE_INFO:
            (flags,) = message.unpack("B", 1)
            if message.unpack("Q", 4 if flags & 1 else 2) != (UNDEFINED,):
                raise NotImplementedError("HDF5: attributes with an index of the newer kind are not supported")
        if kind != ATTRIBUTE:
            continue
        version, flags, *sizes = message.unpack("BBHHH", 0)
        if version not in (1, 2, 3) or (version > 1 and flags & 3):
            raise NotImplementedError(f"HDF5: version {version} of an attribute is not supported")
        position, parts = 9 if version == 3 else 8, []
        for size in sizes:
            parts.append(message.take(position, size))
            position += -(-size // 8) * 8 if version == 1 else size  # version 1 fills up to 8 bytes
        name, kind_of_values, shape = parts[0].split(b"\0")[0].decode(), _read_type(parts[1]), _read_shape(parts[2])
        values = _read_texts(file, kind_of_values, message.data[position:], math.prod(shape))
        if values is not None:
            yield name, values if shape else values[0]


def _read_texts(file: _File, kind: _Type, data: bytes, count: int) -> list[str] | None:
    values = _Bytes(data)
    if kind.kind == STRING and kind.size:
        return [values.take(i * kind.size, kind.size).split(b"\0")[0].decode() for i in range(count)]
    if kind.kind == VARIABLE:
        places = [values.unpack("IQI", 16 * i) for i in range(count)]
        return [file.global_object(address, i, length).decode() if length else "" for length, address, i in places]
    return None


# ---- types and shapes ----


def _read_type(content: bytes) -> _Type:
    message = _Bytes(content)
    kind, bits, _, _, size = message.unpack("BBBBI", 0)
    kind &= 15
    order = ">" if bits & 1 else "<"
    if kind == INTEGER and size in (1, 2, 4, 8):
        return _Type(kind, size, np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}"))
    if kind == FLOAT and message.unpack("BB", 13)[0] and size in IEEE:
        _, exponent, _, fraction = message.unpack("BBBB", 12)
        if (exponent, fraction) == IEEE[size]:
            return _Type(kind, size, np.dtype(f"{order}f{size}"))
    if kind == VARIABLE and bits & 15 != 1:  # 1: text
        raise NotImplementedError("HDF5: lists of varying length are not supported")
    return _Type(kind, size, None)


def _read_shape(content: bytes) -> tuple[int, ...]:
    message = _Bytes(content)
    version, rank = message.unpack("BB", 0)
    if version not in (1, 2):
        raise NotImplementedError(f"HDF5: version {version} of a shape is not supported")
    if version == 2 and message.unpack("B", 3) == (2,):
        return (0,)  # without any value
    return message.unpack(f"{rank}Q", 8 if version == 1 else 4)
