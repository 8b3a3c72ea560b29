"""Which of a checkpoint's tensors are a network's: frameworks put names before its own, and tensors beside them.

A place is where all of the network's names stand: some keys into the file's dictionaries, and what every name there
begins with. One place is taken; two that differ are asked about, since one is as likely a running average, a teacher
or another model. A name that the network has and the place has not is a refusal, and so is one in the place that the
network's own modules would have, such as that of one more block: the architecture is then another.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rightrank.models.errors import MalformedCheckpoint, UnsupportedCheckpoint
from rightrank.models.program.dtypes import DTYPES

Keys = tuple[str, ...]
# The tensors of each dictionary in a file, by the keys that lead to it: none for the file's own.
States = Mapping[Keys, Mapping[str, Tensor]]

# What is counted beside a module's weights and changes nothing of what it computes.
_COUNTERS = ("num_batches_tracked", "total_ops", "total_params")
_AVERAGES = ("ema", "average", "swa")
_SHOWN = 60


@dataclass(frozen=True)
class Place:
    """Where a network's names stand: in the dictionary behind `keys`, each behind `prefix`."""

    keys: Keys
    prefix: str

    def __str__(self) -> str:
        inside = f"in {self._keys}" if self.keys else ""
        behind = f"behind {_short(self.prefix)}" if self.prefix else ""
        return " ".join(filter(None, (inside, behind))) or "without a prefix"

    @property
    def _keys(self) -> str:
        return "".join(f"[{_short(key)}]" for key in self.keys)

    def only(self, others: Iterable[Place]) -> str:
        """The line that keeps this place and none of the others."""
        state = f'torch.load("checkpoint.pt"){self._keys}'
        depth, tests = len(self.keys), []
        inside = [other.keys[depth] for other in others if other.keys[:depth] == self.keys and len(other.keys) > depth]
        beside = [other.prefix for other in others if other.keys == self.keys and other.prefix and other != self]
        if self.prefix:
            tests.append(f"k.startswith({_short(self.prefix)})")
        elif beside:
            tests.append(f"not k.startswith(({''.join(f'{_short(prefix)}, ' for prefix in beside)}))")
        if inside:
            tests.append(f"k not in ({''.join(f'{_short(key)}, ' for key in inside)})")
        if tests:
            state = f"{{k: v for k, v in {state}.items() if {' and '.join(tests)}}}"
        return f'torch.save({state}, "weights.pt")'

    @property
    def averaged(self) -> bool:
        """Whether these are, by their names, averages over the training."""
        return any(word in name.lower() for word in _AVERAGES for name in (*self.keys, self.prefix))


def load_into(module: nn.Module, states: States) -> list[str]:
    """Fill the module with its weights and give it their type of numbers, the widest where they have several.

    Returns what there is to know, each in a sentence: what was left out, and which type was taken. Raises
    MalformedCheckpoint where the weights are not the module's, or are there twice; UnsupportedCheckpoint for a type
    that is not read.
    """
    wanted = module.state_dict()
    place = _place(states, wanted)
    _check_rest(place, states[place.keys], wanted)
    found = {name: tensor for name in wanted if (tensor := states[place.keys].get(place.prefix + name)) is not None}
    notes = list(_notes(place, states, wanted))
    dtype, mixed = _dtype(found, wanted, {name for name, _ in module.named_parameters()})
    module.to(dtype)
    module.load_state_dict(found, strict=False)
    if mixed:
        notes.append(f"The weights are {mixed}: the network is read in {_name(dtype)}, which holds all of them.")
    return notes


def _place(states: States, wanted: Mapping[str, Tensor]) -> Place:
    """Where the network's names stand with its shapes. Raises MalformedCheckpoint."""
    needed = {name: tensor for name, tensor in wanted.items() if not _counts(name)}
    counts = Counter(place for place, _ in _standing(states, needed))
    fitting = {place: n for place in counts if (n := _fitting(place, states, needed))}
    whole = [place for place, count in fitting.items() if count == len(needed)]
    if not whole:
        best = max(counts, key=lambda each: (counts[each], fitting.get(each, 0)), default=Place((), ""))
        raise _misfit(best, states, needed, wanted)
    place = min(whole, key=lambda each: (len(each.keys), each.prefix.count("."), each.keys, each.prefix))
    used = {place.prefix + name for name in wanted}
    rivals = [
        each
        for each, count in fitting.items()
        if each != place and 2 * count >= len(needed) and _differs(each, place, states, needed, used)
    ]
    if rivals:
        raise _twice([place, *rivals])
    return place


def _standing(states: States, needed: Mapping[str, Tensor]) -> Iterator[tuple[Place, str]]:
    """Every place where one of the network's names stands, with that name."""
    depth = max((name.count(".") for name in needed), default=0)
    for keys, state in states.items():
        for name in state:
            parts = name.rsplit(".", depth + 1)
            for start in range(len(parts)):
                own = ".".join(parts[start:])
                if own in needed:
                    yield Place(keys, name[: len(name) - len(own)]), own


def _fitting(place: Place, states: States, needed: Mapping[str, Tensor]) -> int:
    """How many of the network's names stand there with its shapes."""
    state = states[place.keys]
    return sum(
        (there := state.get(place.prefix + name)) is not None and there.shape == tensor.shape
        for name, tensor in needed.items()
    )


def _differs(place: Place, other: Place, states: States, needed: Mapping[str, Tensor], used: Iterable[str]) -> bool:
    """Whether the place has a tensor that is none of `used`, the other's, and no copy of it either."""
    for name in needed:
        there, taken = states[place.keys].get(place.prefix + name), states[other.keys][other.prefix + name]
        if there is None or (place.keys == other.keys and place.prefix + name in used):
            continue
        if there.dtype != taken.dtype or not torch.equal(there, taken):
            return True
    return False


def _twice(places: list[Place]) -> MalformedCheckpoint:
    shown = places[:4]
    lines = "\n".join(f"    {each.only(places)}  # {each}" for each in shown)
    return MalformedCheckpoint(
        f"The checkpoint holds the network's weights more than once: {', and '.join(map(str, shown))}. They differ: "
        "one may be an average over the training, a teacher, or another network.",
        f"Keep those that you mean:\n{lines}",
    )


def _misfit(place: Place, states: States, needed: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Exception:
    """Names one name that is missing and one that is unexpected, and what else does not fit."""
    state = states.get(place.keys, {})
    missing = [name for name in needed if place.prefix + name not in state]
    own = {place.prefix + name for name in wanted}
    foreign = [name for name in state if name not in own]
    if not foreign:
        foreign = [name for keys, each in states.items() if keys != place.keys for name in each]
    said = []
    if missing:
        # Of the same shape, it is as likely as not the same weight by another name.
        alike = [name for name in foreign if name in state and state[name].shape == needed[missing[0]].shape]
        said.append(f"it has no {place.prefix}{missing[0]}{_more(missing)}")
        if foreign:
            said.append(f"it has {(alike or foreign)[0][:_SHOWN]}{_more(foreign)}, which the architecture has not")
    shapes = [
        f"{name} is {_shape(there)}, not {_shape(needed[name])}"
        for name in needed
        if (there := state.get(place.prefix + name)) is not None and there.shape != needed[name].shape
    ]
    if shapes:
        said.append(f"{shapes[0]}{_more(shapes)}")
    return MalformedCheckpoint(
        f"The weights do not fit the architecture: {'; '.join(said)}.",
        "Check the name and the arguments (num_classes, …) of the `architecture`.",
    )


def _check_rest(place: Place, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises MalformedCheckpoint for a name in the place that the network's own modules would have."""
    tops = {name.partition(".")[0] for name in wanted if "." in name}
    numbered = any(top.isdecimal() for top in tops)
    more = []
    for name, tensor in state.items():
        own = name.removeprefix(place.prefix)
        if not name.startswith(place.prefix) or own in wanted or _counts(own):
            continue
        top, dot, _ = own.partition(".")
        if (top in tops or numbered and top.isdecimal()) if dot else tensor.nelement() > 1:
            more.append(name)
    if more:
        raise MalformedCheckpoint(
            f"The checkpoint's network is more than the architecture: it has {more[0][:_SHOWN]}{_more(more)}.",
            "Check the name and the arguments (depth, …) of the `architecture`, or upload the network as a .pt2 file.",
        )


def _notes(place: Place, states: States, wanted: Mapping[str, Tensor]) -> Iterator[str]:
    if place.averaged:
        yield f"The weights were taken {place}, averages by their name, and there are no others in the file."
    used = {place.prefix + name for name in wanted}
    left = [name for name in states[place.keys] if name not in used and not _counts(name)]
    for keys, state in states.items():
        # A dictionary of plain numbers beside it, such as what a callback saw last, is nobody's weights.
        if keys != place.keys and any(tensor.nelement() > 1 for tensor in state.values()):
            left += ["".join(f"[{_short(key)}]" for key in keys)] if keys else state
    if left:
        shown = ", ".join(name[:_SHOWN] for name in left[:5])
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        yield f"Left out, since the architecture has no such weights: {shown}{more}."


def _dtype(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], parameters: Iterable[str]
) -> tuple[torch.dtype, str]:
    """The type that the network's numbers are to have, and all of the file's, in words, where there are several.

    The widest of the parameters; a buffer widens it where it would be rounded.
    """
    for name, tensor in found.items():
        known, floating = DTYPES.get(_name(tensor.dtype)), wanted[name].is_floating_point()
        if known is None or known.floating != floating:
            raise UnsupportedCheckpoint(
                f"The weight {name[:_SHOWN]} is {_name(tensor.dtype)} in the file, and {_name(wanted[name].dtype)} in "
                "the architecture.",
                "Weights of float16, bfloat16, float32 and float64 are read: save them before they are quantised.",
            )
    floats = {name: tensor for name, tensor in found.items() if wanted[name].is_floating_point()}
    own = {tensor.dtype for name, tensor in floats.items() if name in set(parameters)}
    dtype = functools.reduce(torch.promote_types, own or {torch.float32})
    for tensor in floats.values():
        if not torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) and not bool(torch.isnan(tensor).any()):
            dtype = torch.promote_types(dtype, tensor.dtype)
    names = sorted({_name(tensor.dtype) for tensor in floats.values()})
    return dtype, " and ".join(names) if len(names) > 1 else ""


def _counts(name: str) -> bool:
    return name.rpartition(".")[2] in _COUNTERS


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _short(text: str) -> str:
    return (
        f'"{text}"'
        if len(text) <= _SHOWN and text.isprintable() and not set(text) & set('"\\')
        else repr(text[:_SHOWN])
    )


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"
