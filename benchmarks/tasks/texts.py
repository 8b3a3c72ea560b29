"""Texts that are installed anyway: the docstrings and the source of Python's standard library and of packages."""

from __future__ import annotations

import ast
import importlib.util
import io
import keyword
import random
import re
import sysconfig
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
LIBRARIES = ("python", "numpy", "scipy", "sklearn", "matplotlib", "torch")
# A sentence that names a library would give it away.
NAMES = re.compile(r"numpy|scipy|scikit|sklearn|matplotlib|pyplot|torch|python|\bnp\.|\bplt\.", re.IGNORECASE)
WORD = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]")
SHORTEST, LONGEST = 5, 32
PADDING, UNKNOWN = 0, 1
# What a character of Python source is part of.
SPACE, KEYWORD, NAME, NUMBER, STRING, COMMENT, OPERATOR = range(7)
KINDS = {tokenize.NAME: NAME, tokenize.NUMBER: NUMBER, tokenize.STRING: STRING, tokenize.COMMENT: COMMENT}
# Characters are their own numbers.
CHARACTERS = 128


def files(library: str, test: bool) -> list[Path]:
    """Its source files in random order; every fifth is for testing, so that nothing is in both."""
    if library == "python":
        root = Path(sysconfig.get_path("stdlib"))
        found = [path for path in root.rglob("*.py") if not {"site-packages", "test", "tests"} & {*path.parts}]
    else:
        spec = importlib.util.find_spec(library)
        assert spec is not None and spec.origin is not None
        root = Path(spec.origin).parent
        found = [path for path in root.rglob("*.py") if "tests" not in path.parts]
    found.sort()
    random.Random(0).shuffle(found)
    return [path for number, path in enumerate(found) if (number % 5 == 0) == test]


def sources(library: str, test: bool) -> Iterator[str]:
    for path in files(library, test):
        text = path.read_bytes().decode("utf-8", "replace")
        if text.isascii():
            yield text


def sentences(library: str, count: int, test: bool) -> list[list[str]]:
    """The words of `count` different sentences of a library's documentation."""
    found: dict[str, list[str]] = {}
    for text in sources(library, test):
        for sentence in _sentences(text):
            words = WORD.findall(sentence.lower())
            if SHORTEST <= len(words) <= LONGEST and not NAMES.search(sentence):
                found.setdefault(sentence, words)
        if len(found) >= count:
            break
    return list(found.values())[:count]


def _sentences(text: str) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(text)
        except SyntaxError:
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                if ">>>" not in paragraph:
                    yield from re.split(r"(?<=[.:!?]) ", " ".join(paragraph.split()))


def vocabulary(texts: Sequence[Sequence[str]], size: int) -> dict[str, int]:
    """Numbers for the most frequent words; 0 and 1 are padding and all others."""
    counted = Counter(word for words in texts for word in words)
    return {word: number for number, (word, _) in enumerate(counted.most_common(size - 2), start=2)}


def numbered(words: Sequence[str], known: dict[str, int]) -> Integers:
    return np.array([known.get(word, UNKNOWN) for word in words], dtype=np.int64)


def tagged(count: int, test: bool) -> tuple[list[Integers], list[Integers]]:
    """So many lines of the standard library as numbers of characters, and what each is part of."""
    lines: dict[str, Integers] = {}
    for text in sources("python", test):
        kinds = _kinds(text)
        if kinds is None:
            continue
        for line, tags in zip(text.splitlines(), kinds, strict=True):
            if 16 <= len(line) <= 64 and line.isprintable():
                lines.setdefault(line, tags)
        if len(lines) >= count:
            break
    kept = list(lines.items())[:count]
    return [characters(line) for line, _ in kept], [tags for _, tags in kept]


def _kinds(text: str) -> list[Integers] | None:
    """For every line what its characters are part of, as the tokenizer says."""
    rows = text.splitlines()
    kinds = [np.full(len(row), SPACE, dtype=np.int64) for row in rows]
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            kind = KINDS.get(token.type, OPERATOR if token.type == tokenize.OP else SPACE)
            if kind == NAME and keyword.iskeyword(token.string):
                kind = KEYWORD
            (first, start), (last, end) = token.start, token.end
            for row in range(first, min(last, len(rows)) + 1):
                kinds[row - 1][start if row == first else 0 : end if row == last else None] = kind
    except (tokenize.TokenError, SyntaxError, IndexError):
        return None
    return kinds


def windows(count: int, length: int, test: bool) -> Integers:
    """So many stretches (count, length) of the standard library's source, as numbers of characters."""
    found: list[Integers] = []
    for text in sources("python", test):
        # Of each file no more than a few, so that there are many.
        for start in range(0, min(len(text), 40 * length) - length, length):
            found.append(characters(text[start : start + length]))
        if len(found) >= count:
            break
    return np.stack(found[:count])


def characters(text: str) -> Integers:
    return np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64)
