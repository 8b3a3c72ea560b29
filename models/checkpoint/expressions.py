"""The symbolic sizes that torch.export writes, matched and never evaluated.

torch's own loader hands these strings to sympy, which evaluates them as Python. Here a string is
either a sentence of this grammar or the file is refused:

    expression := term (operator term)*        operator: + - * / // % ** == != < <= > >=
    term       := -term | number | name | true | false | "(" expression ")"
                | function "(" [argument ("," argument)*] ")"
    argument   := flag "=" (True | False) | 'name' | expression
    name       := s0, u17, zuf3 …: up to four small letters and digits
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d{1,20}(?:\.\d{1,40})?(?:e[+-]?\d{1,4})?)(?![A-Za-z0-9_])"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"
    r"|'(?P<quoted>[A-Za-z0-9_.+-]{1,64})'"
    r"|(?P<operator>\*\*|//|==|!=|<=|>=|[-+*/%<>])"
    r"|(?P<mark>[(),=]))"
)
_SYMBOL = re.compile(r"[a-z]{1,4}\d{1,12}\Z")
_FUNCTIONS = _words(
    """
    Symbol Integer Float Rational Add Mul Pow Mod PythonMod FloorDiv CleanDiv CeilDiv CeilToInt
    FloorToInt TruncToInt TruncToFloat RoundToInt ToFloat IntTrueDiv FloatTrueDiv PowByNatural
    FloatPow ModularIndexing Max Min Where Identity LShift RShift floor ceiling Abs
    OpaqueUnaryFn_sqrt Equality Unequality Eq Ne Lt Le Gt Ge StrictLessThan StrictGreaterThan
    LessThan GreaterThan And Or Not
    """
)
_FLAGS = _words("positive integer nonnegative real finite evaluate precision")
_LENGTH = 4096
_DEPTH = 64


def matches(text: str) -> bool:
    """Whether `text` is an expression of the grammar."""
    if not 0 < len(text) <= _LENGTH:
        return False
    tokens = _tokens(text)
    if tokens is None:
        return False
    try:
        return _Reader(tokens).expression(0) == len(tokens)
    except (_Mismatch, IndexError):
        return False


def is_symbol(text: str) -> bool:
    """Whether an expression of the grammar is one name alone, and so any number: s0, or Symbol('s0', positive=True)."""
    return re.fullmatch(r"Symbol\([^()]*\)", text) is not None or _SYMBOL.match(text) is not None


class _Mismatch(Exception):
    pass


def _tokens(text: str) -> list[tuple[str, str]] | None:
    found: list[tuple[str, str]] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None or token.lastgroup is None:
            return None
        found.append((token.lastgroup, token[token.lastgroup]))
        at = token.end()
    return found


class _Reader:
    """Recursive descent; each method takes the position of a token and returns the one after what it read."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self.depth = 0

    def expression(self, at: int) -> int:
        self.depth += 1
        if self.depth > _DEPTH:
            raise _Mismatch
        at = self.term(at)
        while at < len(self.tokens) and self.tokens[at][0] == "operator":
            at = self.term(at + 1)
        self.depth -= 1
        return at

    def term(self, at: int) -> int:
        while self.tokens[at] == ("operator", "-"):
            at += 1
        kind, text = self.tokens[at]
        if kind == "number" or (kind == "word" and (text in ("true", "false") or _SYMBOL.match(text))):
            return at + 1
        if (kind, text) == ("mark", "("):
            return self.mark(self.expression(at + 1), ")")
        if kind == "word" and text in _FUNCTIONS:
            return self.arguments(self.mark(at + 1, "("))
        raise _Mismatch

    def arguments(self, at: int) -> int:
        if self.tokens[at] == ("mark", ")"):
            return at + 1
        at = self.argument(at)
        while self.tokens[at] == ("mark", ","):
            at = self.argument(at + 1)
        return self.mark(at, ")")

    def argument(self, at: int) -> int:
        kind, text = self.tokens[at]
        if kind == "quoted":
            return at + 1
        if kind == "word" and text in _FLAGS and self.tokens[at + 1] == ("mark", "="):
            if self.tokens[at + 2][1] not in ("True", "False") and self.tokens[at + 2][0] != "number":
                raise _Mismatch
            return at + 3
        return self.expression(at)

    def mark(self, at: int, mark: str) -> int:
        if self.tokens[at] != ("mark", mark):
            raise _Mismatch
        return at + 1
