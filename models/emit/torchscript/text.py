"""Text that is deflated to a number of bits which is known before, as a sum over its parts.

What a file says of a layer is one of a few *templates*: constant bytes, and between them fields of a fixed number of
bytes, for numbers that depend on the plan. Every file begins with the same *dictionary*, the shapes of the templates'
lines, and templates refer to that alone. Where in the text a template stands depends on the plan, and so do the
distances back to the dictionary; but the code for distances is that for which each of them, with its extra bits, takes
fifteen bits, and in a text with fields every literal takes nine. So a template always takes the same number of bits.
The dictionary is repeated before it is further back than references reach; what is further has none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
ASCII, NUMBERS = re.compile(rb"[\x00-\x7f]+"), re.compile(rb"(?:(?<=[a-z\x00])|\A)[0-9]+")
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
    its length and where in the dictionary it is; `fields` where each begins, and its bytes; `size` in bytes."""

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


@dataclass(frozen=True)
class Laid:
    """A template as `words` of so many bits (`counts`), but for two kinds that depend on the plan: at `matches` the
    words for distances, which are `distances` and how far the template is behind the dictionary, and at `fields` the
    bytes of fields. Where it has the `dictionary` itself, it refers to no other."""

    parsed: Parsed
    size: int
    words: NDArray[np.uint32]
    counts: NDArray[np.uint8]
    matches: NDArray[np.int64]
    distances: NDArray[np.int64]
    fields: NDArray[np.int64]
    dictionary: int | None = None


def _joined(several: Sequence[Parsed]) -> Parsed:
    """Templates without fields, one after the other."""
    literals, matches, at = [], [], 0
    for each in several:
        literals.append(each.literals + at)
        matches.append(each.matches + (at, 0, 0))
        at += each.size
    return Parsed(np.concatenate(literals), np.concatenate(matches), b"".join(each.raw for each in several), ())


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
        laid: list[Laid] = []
        # How far behind the dictionary each part is, where it has matches.
        behind: list[int] = []
        fields_of: list[bytes] = []
        at = dictionary = 0
        for number, several in self._laid:
            which, fields = (0, ()) if number is None else chosen[number]
            if (each := several[which]) is None:
                continue
            if each.dictionary is not None:
                dictionary = at + each.dictionary
            raw.append(each.parsed.filled(fields))
            fields_of += fields
            laid.append(each)
            behind.append(0 if each.dictionary is not None else at - dictionary)
            at += each.size
        text = b"".join(raw)
        words, counts = np.concatenate([each.words for each in laid]), np.concatenate([each.counts for each in laid])
        starts = np.cumsum([0, *(each.words.size for each in laid[:-1])])
        matches = [each.distances.size for each in laid]
        distances = np.concatenate([each.distances for each in laid]) + np.repeat(behind, matches)
        words[np.concatenate([each.matches for each in laid]) + np.repeat(starts, matches)] = _DISTANCE_WORDS[distances]
        if fields_of:
            places = np.concatenate([each.fields for each in laid]) + np.repeat(
                starts, [each.fields.size for each in laid]
            )
            words[places] = self._code.words[np.frombuffer(b"".join(fields_of), dtype=np.uint8)]
        total = self._head.count + int(counts.sum(dtype=np.int64))
        end = self._code.word(END)
        stream = np.zeros((total + end.count + 3 + 7) // 8, dtype=np.uint8)
        head = np.frombuffer(self._head.whole(), dtype=np.uint8)
        stream[: head.size] = head
        pack(stream, self._head.count, words, counts)
        pack(stream, total, np.array([end.value], dtype=np.uint16), np.array([end.count], dtype=np.uint8))
        return text, stream.tobytes() + ALIGNED_LAST

    @cached_property
    def _laid(self) -> list[tuple[int | None, list[Laid | None]]]:
        """What follows each other, with the part's number where it depends on the plan: what is always the same is one
        after the other, as far as the same dictionary reaches."""
        found: list[tuple[int | None, list[Laid | None]]] = []
        run: list[Parsed] = []

        def end() -> None:
            if run:
                found.append((None, [self._lay(_joined(run))]))
                run.clear()

        for number, part in enumerate(self._parts):
            if (opening_ := self._openings.get(number)) is not None:
                end()
                laid = self._lay(opening_)
                found.append((None, [replace(laid, dictionary=opening_.raw.index(self._dictionary))]))
            if len(part) == 1 and part[0] is not None and not part[0].fields:
                run.append(part[0])
            else:
                end()
                found.append((number, [None if each is None else self._lay(each) for each in part]))
        end()
        return found

    def _lay(self, each: Parsed) -> Laid:
        """A template's words, in order."""
        symbols = np.frombuffer(each.raw, dtype=np.uint8)[each.literals]
        lengths = each.matches[:, 1]
        length_words, length_bits = self._lengths
        # A match's distance follows its length.
        order = np.argsort(
            np.concatenate([2 * each.literals, 2 * each.matches[:, 0], 2 * each.matches[:, 0] + 1]), kind="stable"
        )
        far = np.full(lengths.size, FAR, dtype=np.uint8)
        words = np.concatenate([self._code.words[symbols], length_words[lengths], np.zeros_like(far)])[order]
        counts = np.concatenate([self._code.lengths[symbols], length_bits[lengths], far])[order]
        where = np.argsort(order, kind="stable")
        literals = {place: at for at, place in enumerate(each.literals.tolist())}
        fields = [literals[place + byte] for place, count in each.fields for byte in range(count)]
        return Laid(
            each,
            each.size,
            words.astype(np.uint32),
            counts,
            where[symbols.size + lengths.size :],
            each.matches[:, 0] - each.matches[:, 2],
            where[np.array(fields, dtype=np.int64)],
        )

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
    return [run for line in piece.splitlines(keepends=True) for run in ASCII.findall(line) if len(run) >= SHORTEST]


def _shape(run: bytes) -> bytes:
    """A run with its names' numbers left out."""
    return NUMBERS.sub(b"", run)


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
