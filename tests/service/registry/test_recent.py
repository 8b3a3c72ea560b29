from __future__ import annotations

from rightrank.service.registry.recent import Recent


def test_the_least_recently_used_is_dropped_first() -> None:
    recent: Recent[str, int] = Recent(2)
    made: list[str] = []

    def use(key: str) -> None:
        recent.get(key, lambda: made.append(key) or len(made))

    for key in ("a", "b", "a", "c", "a", "b"):
        use(key)
    assert made == ["a", "b", "c", "b"]


def test_what_cannot_be_made_is_tried_again() -> None:
    recent: Recent[str, int] = Recent(2)
    assert recent.get("a", lambda: None) is None
    assert recent.get("a", lambda: 1) == 1
