"""Values out of parsed JSON, by the type they have to have."""

from __future__ import annotations

from typing import Any

from rightrank.models.errors import MalformedCheckpoint

_HINT = "Save the model again with torch.export.save."


def mapping(data: Any, what: str) -> dict[str, Any]:
    return _typed(data, dict, what)  # type: ignore[no-any-return]


def sequence(data: Any, what: str) -> list[Any]:
    return _typed(data, list, what)  # type: ignore[no-any-return]


def text(data: Any, what: str) -> str:
    return _typed(data, str, what)  # type: ignore[no-any-return]


def integer(data: Any, what: str) -> int:
    return _typed(data, int, what)  # type: ignore[no-any-return]


def truth(data: Any, what: str) -> bool:
    return _typed(data, bool, what)  # type: ignore[no-any-return]


def only(data: Any, key: str) -> Any:
    """The value of an object whose single key is `key`."""
    if not isinstance(data, dict) or list(data) != [key]:
        raise MalformedCheckpoint(f"The checkpoint has something else where {key} is expected.", _HINT)
    return data[key]


def choice(data: Any, what: str) -> tuple[str, Any]:
    """The key and value of an object with a single key: how torch writes a union."""
    if not isinstance(data, dict) or len(data) != 1:
        raise MalformedCheckpoint(f"The checkpoint's {what} is not a union with one member.", _HINT)
    ((key, value),) = data.items()
    return key, value


def _typed(data: Any, kind: type, what: str) -> Any:
    if type(data) is not kind:
        raise MalformedCheckpoint(f"The checkpoint has no valid value for {what}.", _HINT)
    return data
