"""Text that is deflated to a number of bits which is known before, as a sum over its parts.

What a file says of a layer is one of a few *templates*: constant bytes, and between them fields of a fixed number of
bytes, for numbers that depend on the plan. Every file begins with the same *dictionary*, the shapes of the templates'
lines, and templates refer to that alone. Where in the text a template stands depends on the plan, and so do the
distances back to the dictionary; but the code for distances is that for which each of them, with its extra bits, takes
fifteen bits, and in a text with fields every literal takes nine. So a template always takes the same number of bits.
The dictionary is repeated before it is further back than references reach; what is further has none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit.torchscript.deflate import END, LAST, Bits, Code, opening, pack

# Constant bytes, or how many a field has.
Template: TypeAlias = tuple[bytes | int, ...]
Quote: TypeAlias = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Part:
    """One of several templates, or nothing (None). `layer` is what decides which, if anything: the first where it is
    whole, else the second. The dictionary may stand before it, as `quote` makes it say nothing there."""

    templates: tuple[Template | None, ...]
    layer: int | None = None
    quote: Quote | None = None


WINDOW, MOST = 1 << 15, 258
# From one dictionary to the last byte before the next.
CHUNK = 30_000
# Shorter matches take no less than their bytes do.
SHORTEST = 4


def _bases(extras: Sequence[int], first: int) -> list[int]:
    found = [first]
    for extra in extras[:-1]:
        found.append(found[-1] + (1 << extra))
    return found


# Of each symbol for a length, or a distance, the extra bits and the least that it stands for (RFC 1951, 3.2.5).
LENGTH_EXTRA = [0] * 8 + [extra for extra in range(1, 6) for _ in range(4)]
LENGTH_BASE = _bases(LENGTH_EXTRA, 3)
DISTANCE_EXTRA = [0] * 4 + [extra for extra in range(1, 14) for _ in range(2)]
DISTANCE_BASE = _bases(DISTANCE_EXTRA, 1)
# The code by which every distance takes fifteen bits.
FAR = 15
DISTANCES = Code.of([FAR - extra for extra in DISTANCE_EXTRA])


def _flat() -> Code:
    """A code by which every literal takes nine bits."""
    lengths = [9] * 256 + [6] * 30
    lengths[264] = lengths[265] = 5
    return Code.of(lengths)


FLAT = _flat()


@dataclass(frozen=True)
class Parsed:
    """A template as literals and matches. `literals` are the places of those bytes; `matches` (k, 3) the place of each,
    its length and where in the dictionary it is; `order` sorts both, literals first, by place; `size` in bytes."""

    literals: NDArray[np.int64]
    matches: NDArray[np.int64]
    raw: bytes
    fields: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        return len(self.raw)

    def filled(self, fields: Sequence[bytes]) -> bytes:
        """Its bytes with these fields."""
        if not fields:
            return self.raw
        found, done = [], 0
        for (place, count), field in zip(self.fields, fields, strict=True):
            if len(field) != count:
                raise ValueError(f"a field of {count} bytes is given {len(field)}")
            found += [self.raw[done:place], field]
            done = place + count
        return b"".join([*found, self.raw[done:]])


def parse(template: Template, dictionary: bytes) -> Parsed:
    """The longest matches, from the first byte on."""
    literals: list[int] = []
    matches: list[tuple[int, int, int]] = []
    fields: list[tuple[int, int]] = []
    place = 0
    for piece in template:
        if isinstance(piece, int):
            fields.append((place, piece))
            literals += range(place, place + piece)
            place += piece
            continue
        at = 0
        while at < len(piece):
            length, where = _longest(piece, at, dictionary)
            if length >= SHORTEST:
                matches.append((place + at, length, where))
                at += length
            else:
                literals.append(place + at)
                at += 1
        place += len(piece)
    raw = b"".join(bytes(piece) if isinstance(piece, int) else piece for piece in template)
    return Parsed(
        np.array(literals, dtype=np.int64), np.array(matches, dtype=np.int64).reshape(-1, 3), raw, tuple(fields)
    )


def _longest(piece: bytes, at: int, dictionary: bytes) -> tuple[int, int]:
    """How many bytes from `at` on are in the dictionary, and where."""
    length, where = 0, -1
    low, high = SHORTEST, min(MOST, len(piece) - at)
    while low <= high:
        middle = (low + high + 1) // 2 if length else low
        found = dictionary.find(piece[at : at + middle])
        if found < 0:
            high = middle - 1
        else:
            length, where, low = middle, found, middle + 1
    return length, where


class Text:
    """A text of parts; `flat` ones have fields. The dictionary is within, before the first part that has a `quote`."""

    def __init__(self, parts: Sequence[Part], flat: bool) -> None:
        self._flat, self.layers = flat, [part.layer for part in parts]
        self._dictionary = _dictionary(parts)
        # Before which parts the dictionary stands, and what it is there; which parts it is within reach of.
        self._openings: dict[int, Parsed] = {}
        quoted: dict[bytes, Parsed] = {}
        near: list[bool] = []
        length = WINDOW
        for number, part in enumerate(parts):
            longest = max((_size(each) for each in part.templates if each is not None), default=0)
            if part.quote is not None and length + longest > CHUNK - CHUNK // 4:
                said = part.quote(self._dictionary)
                quoted.setdefault(said, _against_itself(said))
                self._openings[number] = quoted[said]
                length = len(said)
            length += longest
            near.append(length <= WINDOW - MOST)
        known: dict[tuple[Template, bool], Parsed] = {}

        def parsed(each: Template, within: bool) -> Parsed:
            if (each, within) not in known:
                known[each, within] = parse(each, self._dictionary if within else b"")
            return known[each, within]

        self._parts = [
            [None if each is None else parsed(each, within) for each in part.templates]
            for part, within in zip(parts, near, strict=True)
        ]

    @cached_property
    def _code(self) -> Code:
        if self._flat:
            return FLAT
        counts = Counter({END: 1})
        for each in [*self._openings.values(), *(each for part in self._parts for each in part if each is not None)]:
            counts.update(each.raw[place] for place in each.literals.tolist())
            counts.update(_LENGTH_SYMBOL[length] for length in each.matches[:, 1].tolist())
        return Code.best([counts[symbol] for symbol in range(286)])

    @cached_property
    def _head(self) -> Bits:
        return opening(self._code, DISTANCES)

    @cached_property
    def bits(self) -> list[list[int]]:
        """Of each part's templates, how many they take."""
        return [[0 if each is None else self._bits(each) for each in part] for part in self._parts]

    @cached_property
    def overhead(self) -> int:
        """The bits of what every text has: the code, the dictionary, the end."""
        return self._head.count + sum(map(self._bits, self._openings.values())) + int(self._code.lengths[END]) + 3

    @staticmethod
    def size(bits: NDArray[np.int64] | int) -> NDArray[np.int64] | int:
        """The bytes of a text whose parts and overhead have so many bits."""
        return (bits + 7) // 8 + len(ALIGNED_LAST)

    def deflated(self, chosen: Sequence[tuple[int, Sequence[bytes]]]) -> tuple[bytes, bytes]:
        """The text, and what it is deflated to, of a template and its fields for each part."""
        raw: list[bytes] = []
        literals, matches, froms = [], [], []
        at = dictionary = 0
        for number, (which, fields) in enumerate(chosen):
            if (opening_ := self._openings.get(number)) is not None:
                raw.append(opening_.raw)
                literals.append(opening_.literals + at)
                matches.append(opening_.matches + (at, 0, 0))
                froms.append(np.full(len(opening_.matches), at))
                dictionary = at + opening_.raw.index(self._dictionary)
                at += opening_.size
            if (each := self._parts[number][which]) is None:
                continue
            raw.append(each.filled(fields))
            literals.append(each.literals + at)
            matches.append(each.matches + (at, 0, 0))
            froms.append(np.full(len(each.matches), dictionary))
            at += each.size
        text = b"".join(raw)
        symbols = np.frombuffer(text, dtype=np.uint8)
        code, place = self._code, np.concatenate(literals)
        found = np.concatenate(matches)
        distances = found[:, 0] - np.concatenate(froms) - found[:, 2]
        length_words, length_bits = self._lengths
        words = np.concatenate(
            [code.words[symbols[place]], length_words[found[:, 1]], _DISTANCE_WORDS[distances]]
        ).astype(np.uint32)  # a length's code, of 15 bits at most, and 5 behind it
        counts = np.concatenate(
            [
                code.lengths[symbols[place]],
                length_bits[found[:, 1]],
                np.full(len(found), FAR, dtype=np.uint8),
            ]
        )
        # A match's distance follows its length.
        order = np.argsort(np.concatenate([2 * place, 2 * found[:, 0], 2 * found[:, 0] + 1]), kind="stable")
        total = self._head.count + int(counts.sum())
        end = code.word(END)
        stream = np.zeros((total + end.count + 3 + 7) // 8, dtype=np.uint8)
        head = np.frombuffer(self._head.whole(), dtype=np.uint8)
        stream[: head.size] = head
        pack(stream, self._head.count, words[order], counts[order])
        pack(stream, total, np.array([end.value], dtype=np.uint16), np.array([end.count], dtype=np.uint8))
        return text, stream.tobytes() + ALIGNED_LAST

    @cached_property
    def _lengths(self) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        return _length_words(self._code)

    def _bits(self, each: Parsed) -> int:
        symbols = np.frombuffer(each.raw, dtype=np.uint8)[each.literals]
        _, lengths = self._lengths
        return int(self._code.lengths[symbols].sum(dtype=np.int64)) + int(
            lengths[each.matches[:, 1]].sum(dtype=np.int64) + FAR * len(each.matches)
        )


# After a block and three bits of zero, the rest of an empty stored block, and the last one.
ALIGNED_LAST = b"\x00\x00\xff\xff" + LAST


def _size(template: Template) -> int:
    """Its bytes."""
    return sum(piece if isinstance(piece, int) else len(piece) for piece in template)


def _against_itself(said: bytes) -> Parsed:
    """A dictionary in its quotes: matches in what comes before."""
    literals: list[int] = []
    matches: list[tuple[int, int, int]] = []
    at = 0
    while at < len(said):
        length, where = _longest(said, at, said[:at])
        if length >= SHORTEST:
            matches.append((at, length, where))
            at += length
        else:
            literals.append(at)
            at += 1
    return Parsed(np.array(literals, dtype=np.int64), np.array(matches, dtype=np.int64).reshape(-1, 3), said, ())


def _dictionary(parts: Sequence[Part]) -> bytes:
    """The lines of templates that occur more than once but for their numbers, each as it is the first time."""
    seen: dict[bytes, tuple[bytes, int]] = {}
    for part in parts:
        for template in part.templates:
            for piece in template or ():
                for run in _runs(piece) if isinstance(piece, bytes) else ():
                    first, count = seen.get(shape := _shape(run), (run, 0))
                    seen[shape] = first, count + 1
    found = b""
    for run, count in seen.values():
        if count > 1 and run not in found and len(found) + len(run) <= CHUNK // 8:
            found += run
    return found


def _runs(piece: bytes) -> list[bytes]:
    """Lines, of bytes that are text everywhere."""
    found: list[bytes] = []
    for line in piece.splitlines(keepends=True):
        found += [run for run in _ascii(line) if len(run) >= SHORTEST]
    return found


def _ascii(line: bytes) -> list[bytes]:
    runs, start = [], 0
    for at, byte in enumerate(line):
        if byte >= 0x80:
            runs.append(line[start:at])
            start = at + 1
    return [*runs, line[start:]]


def _shape(run: bytes) -> bytes:
    """A run with its names' numbers left out."""
    found, before = bytearray(), 0
    for byte in run:
        digit = 0x30 <= byte <= 0x39
        if not (digit and (0x61 <= before <= 0x7A or before == 0)):
            found.append(byte)
            before = byte
        else:
            before = before if before else 0
    return bytes(found)


_LENGTH_SYMBOL = {
    length: 257 + max(i for i, base in enumerate([*LENGTH_BASE, MOST]) if base <= length)
    for length in range(3, MOST + 1)
}


def _length_words(code: Code) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """For every length the bits that say it, and how many they are."""
    words, counts = np.zeros(MOST + 1, dtype=np.uint32), np.zeros(MOST + 1, dtype=np.uint8)
    bases, extras = [*LENGTH_BASE, MOST], [*LENGTH_EXTRA, 0]
    for length in range(3, MOST + 1):
        index = _LENGTH_SYMBOL[length] - 257
        bits = (
            code.word(257 + index) + Bits(length - bases[index], extras[index]) if code.lengths[257 + index] else Bits()
        )
        words[length], counts[length] = bits.value, bits.count
    return words, counts


def _distance_words() -> NDArray[np.uint16]:
    words = np.zeros(WINDOW + 1, dtype=np.uint16)
    for symbol, (base, extra) in enumerate(zip(DISTANCE_BASE, DISTANCE_EXTRA, strict=True)):
        some = np.arange(1 << extra, dtype=np.uint32)
        word = DISTANCES.word(symbol)
        words[base : base + (1 << extra)] = word.value | some << word.count
    return words


_DISTANCE_WORDS = _distance_words()
