"""Sizes of values as torch.export writes them: numbers, or expressions of what is free (see `master.values`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from rightrank.models.emit.pt2.fields import Fields, Number
from rightrank.models.master.values import RANK, Expression


class Dimensions:
    """The sizes of one program, whose inputs have free ones by these names, each with a usual number."""

    def __init__(self, symbols: Mapping[str, int], unknown: Collection[str]) -> None:
        self._symbols, self._unknown = symbols, unknown

    def size(self, size: Expression | Number, ranks: Number = 0, fields: Fields | None = None) -> str:
        """A size's JSON. One that depends on a layer's rank is a field where `ranks` are all that it may have."""
        fields = fields or Fields()
        if (number := _number(size, ranks)) is not None:
            return f'{{"as_int":{fields.mark(number)}}}'
        assert not isinstance(size, np.ndarray)
        hint = _hint(size, self._symbols)
        said = "null" if hint is None else f'{{"as_int":{hint}}}'
        return f'{{"as_expr":{{"expr_str":"{self._text(size, ranks, fields)}","hint":{said}}}}}'

    def number(self, kind: str, value: Expression) -> str:
        """The JSON of what arithmetic on sizes makes: an int, a float or a bool."""
        if isinstance(value, (int, float)):
            return f'{{"as_{kind}":{str(value).lower()}}}'
        hint = _hint(value, self._symbols) if kind == "int" else None
        said = "" if kind == "bool" else ',"hint":null' if hint is None else f',"hint":{{"as_int":{hint}}}'
        return f'{{"as_expr":{{"expr_str":"{self._text(value, 0, Fields())}"{said}}}}}'

    def _text(self, size: Expression, ranks: Number, fields: Fields) -> str:
        if (number := _number(size, ranks)) is not None:
            return f"Integer({fields.mark(number)})"
        if isinstance(size, str):
            sign = "" if size in self._unknown or size not in self._symbols else "positive=True, "
            return f"Symbol('{size}', {sign}integer=True)"
        assert isinstance(size, tuple)
        name, *given = size
        if name == "Mul":
            given = _gathered(given, ranks)
        return f"{name}({', '.join(self._text(each, ranks, fields) for each in given)})"


def strides(shape: Sequence[Expression | Number]) -> list[Expression | Number]:
    """Those of numbers that lie in order."""
    found: list[Expression | Number] = []
    last: Expression | Number = 1
    for size in reversed(shape):
        found.append(last)
        last = _times(last, max(size, 1) if isinstance(size, int) else size)
    return found[::-1]


def _times(one: Expression | Number, other: Expression | Number) -> Expression | Number:
    if isinstance(one, (int, np.ndarray)) and isinstance(other, (int, np.ndarray)):
        return one * other
    assert not isinstance(one, np.ndarray) and not isinstance(other, np.ndarray)
    factors: list[Expression] = []
    for each in (one, other):
        factors += each[1:] if isinstance(each, tuple) and each[0] == "Mul" else [each]
    whole = 1
    for each in factors:
        whole *= each if isinstance(each, int) else 1
    factors = [*([whole] if whole != 1 else []), *(each for each in factors if not isinstance(each, int))]
    return factors[0] if len(factors) == 1 else ("Mul", *factors)


def _number(size: Expression | Number, ranks: Number) -> Number | None:
    """A size of which nothing is free, at all ranks."""
    if isinstance(size, (int, np.ndarray)):
        return size
    if isinstance(size, str):
        return ranks if size == RANK else None
    name, *given = size
    several = [_number(each, ranks) for each in given]
    if name not in ("Mul", "Add") or any(each is None for each in several):
        return None
    found: Number = 1 if name == "Mul" else 0
    for each in several:
        assert each is not None
        found = found * each if name == "Mul" else found + each
    return found


def _gathered(given: Sequence[Expression], ranks: Number) -> list[Expression]:
    """The factors of a product with those that are numbers as one."""
    numbers = [each for each in given if _number(each, ranks) is not None]
    others = [each for each in given if _number(each, ranks) is None]
    if not numbers:
        return others
    return [numbers[0] if len(numbers) == 1 else ("Mul", *numbers), *others]


def _hint(size: Expression, usual: Mapping[str, int]) -> int | None:
    """What a size is where what is free is as usual; None where that is not known."""
    if isinstance(size, (int, str)):
        return usual.get(size) if isinstance(size, str) else size
    name, *given = size
    several = [_hint(each, usual) for each in given]
    found = 1 if name == "Mul" else 0
    if name not in ("Mul", "Add"):
        return None
    for each in several:
        if each is None:
            return None
        found = found * each if name == "Mul" else found + each
    return found
