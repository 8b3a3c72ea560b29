"""Text whose deflated size is a sum over its parts, whatever each of them is."""

from __future__ import annotations

import random
import zlib

import pytest

from rightrank.models.emit.torchscript.text import DISTANCES, FLAT, Part, Text


def quote(said: bytes) -> bytes:
    return b"<" + said + b">"


def code(count: int) -> list[Part]:
    parts = [Part(((b"begin\n",),))]
    for number in range(count):
        whole = f"    v0 = torch.conv2d(v0, self.w{number}, p[{2 * number}], [1, 1], [1, 1], [1, 1], 1)\n".encode()
        cut = f"    v0_ = torch.conv2d(v0, self.d{number}, None, [1, 1], [1, 0], [1, 1], 1)\n".encode()
        parts.append(Part(((whole,), (cut + whole.replace(b"self.w", b"self.e"),), None), number, quote))
    return [*parts, Part(((b"end",),))]


def pickled(count: int) -> list[Part]:
    parts = [Part(((b"\x80\x02(", 4),))]
    for number in range(count):
        name = b"X\x03\x00\x00\x00w%d" % number
        cut = (name + b"h\x02(h\x01J", 4, b"(M", 2, b"K\x10K\x03K\x01t(K0K\x03K\x01K\x01th\x03h\x04tR")
        whole = (name + b"h\x02(h\x01J", 4, b"(K K\x10K\x03K\x01t(K0K\x03K\x01K\x01th\x03h\x04tR")
        parts.append(Part((whole, cut), number, quote))
    return parts


@pytest.mark.parametrize("count", [0, 1, 3, 60, 1500])
@pytest.mark.parametrize("flat", [False, True])
def test_it_is_read_back_and_as_large_as_its_parts_said(count: int, flat: bool) -> None:
    draw = random.Random(count)
    parts = pickled(count) if flat else code(count)
    text = Text(parts, flat)
    for _ in range(3):
        chosen, wanted = [], 0
        for part, several in zip(parts, text.bits, strict=True):
            which = draw.randrange(len(part.templates))
            template = part.templates[which]
            fields = [draw.randbytes(piece) for piece in template or () if isinstance(piece, int)]
            chosen.append((which, fields))
            wanted += several[which]
        whole, deflated = text.deflated(chosen)
        assert zlib.decompressobj(-15).decompress(deflated) == whole
        assert len(deflated) == Text.size(text.overhead + wanted)


def test_what_is_alike_takes_little() -> None:
    text = Text(code(300), False)
    whole, deflated = text.deflated([(0, ()), *[(1, ())] * 300, (0, ())])
    assert len(deflated) < len(whole) / 4


def test_a_field_of_another_size_is_refused() -> None:
    text = Text(pickled(1), True)
    with pytest.raises(ValueError, match="a field of 4 bytes is given 3"):
        text.deflated([(0, [b"abc"]), (0, [b"1234"])])


def test_what_is_too_far_from_the_dictionary_does_without() -> None:
    """Where it can be repeated nowhere, as among the sizes that a vector is split into."""
    parts = [Part(part.templates, part.layer, quote if number == 1 else None) for number, part in enumerate(code(900))]
    text = Text(parts, False)
    chosen: list[tuple[int, tuple[bytes, ...]]] = [(0, ()), *[(1, ())] * 900, (0, ())]
    whole, deflated = text.deflated(chosen)
    assert len(whole) > 1 << 16 and zlib.decompressobj(-15).decompress(deflated) == whole
    taken = sum(several[which] for several, (which, _) in zip(text.bits, chosen, strict=True))
    assert len(deflated) == Text.size(text.overhead + taken)


def test_every_distance_and_every_literal_takes_the_same() -> None:
    extras = [0] * 4 + [extra for extra in range(1, 14) for _ in range(2)]
    assert {int(n) + extra for n, extra in zip(DISTANCES.lengths, extras, strict=True)} == {15}
    assert set(FLAT.lengths[:256].tolist()) == {9}
    for each in (DISTANCES, FLAT):
        assert (2.0 ** -each.lengths.astype(float)).sum() == 1


def test_a_length_that_hardly_occurs_is_read_back_with_all_its_bits() -> None:
    """Its code takes up to fifteen, and five more say which of its lengths it is."""
    draw = random.Random(0)
    often = bytes(draw.choices(b"abcdefghijkl", [2**power for power in range(12)], k=40_000))
    twice = bytes(draw.choices(b"mnopqrst", k=230)) + b"\n"
    parts = [Part(((often + b"\n",),)), Part(((twice,),), None, quote), Part(((twice,),), None, quote)]
    text = Text(parts, False)
    whole, deflated = text.deflated([(0, ())] * 3)
    assert zlib.decompressobj(-15).decompress(deflated) == whole
