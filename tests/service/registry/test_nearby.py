from __future__ import annotations

from rightrank.service.registry.nearby import Nearby


def test_what_was_used_longest_ago_goes_first() -> None:
    nearby = Nearby(10)
    nearby.put("a", b"12345")
    nearby.put("b", b"12345")
    nearby.get("a")
    nearby.put("c", b"1")
    assert (nearby.get("a"), nearby.get("b"), nearby.get("c")) == (b"12345", None, b"1")


def test_a_value_above_the_limit_pushes_nothing_out() -> None:
    nearby = Nearby(10)
    nearby.put("a", b"12345")
    nearby.put("b", b"12345678901")
    assert (nearby.get("a"), nearby.get("b")) == (b"12345", None)


def test_putting_a_value_twice_counts_it_once() -> None:
    nearby = Nearby(10)
    for _ in range(3):
        nearby.put("a", b"12345")
    nearby.put("b", b"12345")
    assert nearby.get("a") == b"12345"
