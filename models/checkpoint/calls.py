"""The calls of an exported program: untrusted JSON in, `Node`s out."""

from __future__ import annotations

import functools
import re
from typing import Any

import torch

from rightrank.models.checkpoint import unread
from rightrank.models.checkpoint.fields import choice, integer, mapping, only, sequence, text, truth
from rightrank.models.checkpoint.limits import NODES
from rightrank.models.errors import MalformedCheckpoint, UnsafeCheckpoint, UnsupportedCheckpoint
from rightrank.models.program.dtypes import BY_SCHEMA
from rightrank.models.program.graph import TEXT, Argument, Constant, Node, Ref
from rightrank.models.program.operators import ALLOWED, SYMBOLIC, VANISHING

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}\Z")
_MEMORY_FORMATS = {1: "contiguous_format", 2: "channels_last", 3: "channels_last_3d", 4: "preserve_format"}
_FLOATS = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}
_HINT = "Save the model again with torch.export.save."


class Calls:
    """Reads calls one after the other and knows what has been defined so far: a name's first use has to
    come after its definition, and a name is defined once."""

    def __init__(self) -> None:
        # Each value's kind: a tensor, or a number that depends on the batch size.
        self.kinds: dict[str, str] = {}

    def define(self, value: Any, kind: str) -> str:
        name = identifier(value)
        if name in self.kinds:
            raise MalformedCheckpoint(f"The program defines {name} twice.", _HINT)
        self.kinds[name] = kind
        return name

    def tensor(self, data: Any) -> Ref:
        """A reference to a tensor that is already defined."""
        return self._known(mapping(data, "a tensor").get("name"), ("tensor",))

    def nodes(self, data: Any) -> tuple[Node, ...]:
        calls = sequence(data, "the list of calls")
        if len(calls) > NODES:
            raise UnsafeCheckpoint(f"The program makes {len(calls)} calls; at most {NODES} are read.")
        return tuple(self._node(f"call_{index}", mapping(call, "a call")) for index, call in enumerate(calls))

    def _node(self, name: str, data: dict[str, Any]) -> Node:
        op = operator_name(text(data.get("target"), "the operator of a call"))
        given = [self._argument_of(op, item) for item in sequence(data.get("inputs"), f"the arguments of {op}")]
        args, kwargs = _arrange(op, given, self.kinds)
        outputs, listed = self._outputs(op, sequence(data.get("outputs"), f"the outputs of {op}"))
        if (len(outputs) if not listed else None) != results(op) or (outputs and not any(outputs)):
            raise MalformedCheckpoint(f"The program takes another number of results from {op} than it has.", _HINT)
        return Node(name, op, args, kwargs, outputs, listed)

    def _argument_of(self, op: str, data: Any) -> tuple[str, Argument]:
        data = mapping(data, "an argument")
        name = text(data.get("name"), "the name of an argument")
        if op in VANISHING and name == "assert_msg":
            # It may say anything ("u0 >= 0 on node 'ge'"), so it is left behind; the call itself goes later.
            text(only(data.get("arg"), "as_string"), "a message")
            return name, ""
        return name, self.argument(data.get("arg"))

    def argument(self, data: Any) -> Argument:
        """One argument. Kinds that carry graphs, objects or operators are refused by name."""
        kind, value = choice(data, "argument")
        if kind not in _READERS:
            raise UnsupportedCheckpoint(
                f"The program passes an argument of kind {kind[:40]!r}, which is not read.", unread.argument(kind)
            )
        return _READERS[kind](self, value)  # type: ignore[no-any-return]

    def _known(self, name: Any, kinds: tuple[str, ...]) -> Ref:
        name = identifier(name)
        if self.kinds.get(name) not in kinds:
            raise MalformedCheckpoint(f"The program reads {name} before it is defined.", _HINT)
        return Ref(name)

    def number(self, data: Any) -> Argument:
        """A SymIntArgument and its like: a literal, or the name of a number."""
        kind, value = choice(data, "number")
        if kind == "as_name":
            return self._known(value, ("number",))
        if kind in ("as_int", "as_float", "as_bool"):
            return _READERS[kind](self, value)  # type: ignore[no-any-return]
        raise MalformedCheckpoint(f"The program has a number of kind {kind[:40]!r}.", _HINT)

    def optional(self, data: Any) -> Argument:
        kind, value = choice(data, "optional tensor")
        if kind == "as_none":
            return None
        if kind == "as_tensor":
            return self.tensor(value)
        raise MalformedCheckpoint(f"The program has an optional tensor of kind {kind[:40]!r}.", _HINT)

    def _outputs(self, op: str, data: list[Any]) -> tuple[tuple[str, ...], bool]:
        names: list[str] = []
        for item in data:
            kind, value = choice(item, "output")
            if kind == "as_tensors" and len(data) == 1:
                items = sequence(value, "a list of outputs")
                return tuple(self.define(mapping(i, "an output").get("name"), "tensor") for i in items), True
            if kind == "as_tensor":
                names.append(self.define(mapping(value, "an output").get("name"), "tensor"))
            elif kind in ("as_sym_int", "as_sym_bool", "as_sym_float"):
                names.append(self.define(mapping(value, "an output").get("as_name"), "number"))
            elif kind == "as_none":
                names.append("")
            else:
                raise UnsupportedCheckpoint(f"{op} returns a value of kind {kind[:40]!r}, which is not read.")
        return tuple(names), False


def identifier(value: Any) -> str:
    name = text(value, "a name")
    if not _NAME.match(name):
        raise UnsafeCheckpoint(f"The program has a value called {name[:60]!r}, which is not a plain name.")
    return name


# Of arithmetic on sizes, what torch.export writes by another name.
_SPELLED = {"math.trunc": "torch.sym_int", "torch._sym_sqrt": "torch.sym_sqrt"}


def operator_name(target: str) -> str:
    """`torch.ops.aten.add.Tensor` → `aten.add.Tensor`, if such a call is allowed."""
    op = target.removeprefix("torch.ops.")
    if op.startswith("_operator."):
        op = op.removeprefix("_")
    op = _SPELLED.get(op, op)
    if op in ALLOWED and (op != target or op in SYMBOLIC):
        return op
    if not re.fullmatch(r"[\w.]{1,80}", op):
        raise UnsupportedCheckpoint("The program calls an operator without a plain name.", unread.OTHERWISE)
    why, advice = unread.explain(op)
    raise UnsupportedCheckpoint(f"The program calls {op}, {why}.", advice)


@functools.cache
def schema(op: str) -> Any:
    """The torch schema of an aten operator."""
    _, name, overload = op.split(".")
    return getattr(getattr(torch.ops.aten, name), overload)._schema


def results(op: str) -> int | None:
    """How many values a call returns; None for a list of tensors, which may have any length."""
    if not op.startswith("aten."):
        return 1
    returns = schema(op).returns
    return None if [str(r.real_type) for r in returns] == ["List[Tensor]"] else len(returns)


def _arrange(
    op: str, given: list[tuple[str, Argument]], kinds: dict[str, str]
) -> tuple[tuple[Argument, ...], tuple[tuple[str, Argument], ...]]:
    """The arguments as (positional, by keyword), each one known to the operator's schema and of its type."""
    if not op.startswith("aten."):
        for _, value in given:
            _check_number(op, value, kinds)
        return tuple(value for _, value in given), ()
    values = dict(given)
    if len(values) != len(given):
        raise MalformedCheckpoint(f"The program passes an argument of {op} twice.", _HINT)
    args: list[Argument] = []
    kwargs: list[tuple[str, Argument]] = []
    positional = True
    for parameter in schema(op).arguments:
        present = parameter.name in values
        positional = positional and present and not parameter.kwarg_only
        if present and parameter.alias_info is not None and isinstance(values[parameter.name], (int, float)):
            raise MalformedCheckpoint(f"The program calls {op} on a number.", _HINT)
        if not present:
            if not parameter.has_default_value():
                raise MalformedCheckpoint(f"The program calls {op} without {parameter.name}.", _HINT)
            continue
        value = values.pop(parameter.name)
        if not fits(str(parameter.real_type), value, kinds):
            raise MalformedCheckpoint(f"The program calls {op} with a wrong type for {parameter.name}.", _HINT)
        if positional:
            args.append(value)
        else:
            kwargs.append((parameter.name, value))
    if values:
        raise MalformedCheckpoint(f"The program passes {op} an argument that it does not have.", _HINT)
    return tuple(args), tuple(kwargs)


def _check_number(op: str, value: Argument, kinds: dict[str, str]) -> None:
    numeric = isinstance(value, (bool, int, float)) or (isinstance(value, Ref) and kinds.get(value.name) == "number")
    if not numeric:
        raise MalformedCheckpoint(f"The program calls {op} with something that is not a number.", _HINT)


def fits(kind: str, value: Argument, kinds: dict[str, str]) -> bool:
    """Whether a value can be passed where the schema says `kind` (as torch prints it: `Optional[List[int]]`)."""
    if kind.startswith("Optional["):
        return value is None or fits(kind[9:-1], value, kinds)
    if kind.startswith("List["):
        item = kind[5:-1]
        if not isinstance(value, tuple):
            return item in ("int", "float") and fits(item, value, kinds)
        return all(fits(item, element, kinds) for element in value)
    if kind == "Tensor":
        # `x * 2` is written as a call of mul.Tensor with a plain number.
        return _is_tensor(value, kinds) or fits("number", value, kinds)
    if kind in ("ScalarType", "Layout", "Device", "MemoryFormat"):
        return isinstance(value, Constant) and value.type == _CONSTANTS[kind]
    if kind == "str":
        return isinstance(value, str)
    if kind == "bool":
        return isinstance(value, bool) or _is_number(value, kinds)
    if kind == "int":
        return type(value) is int or _is_number(value, kinds)
    if kind in ("float", "number"):
        return isinstance(value, (bool, int, float)) or _is_number(value, kinds)
    return False


_CONSTANTS = {"ScalarType": "dtype", "Layout": "layout", "Device": "device", "MemoryFormat": "memory_format"}


def _is_tensor(value: Argument, kinds: dict[str, str]) -> bool:
    return isinstance(value, Ref) and kinds.get(value.name) == "tensor"


def _is_number(value: Argument, kinds: dict[str, str]) -> bool:
    return isinstance(value, Ref) and kinds.get(value.name) == "number"


def _none(calls: Calls, value: Any) -> None:
    return None


def _float(calls: Calls, value: Any) -> float:
    if isinstance(value, str) and value in _FLOATS:
        return _FLOATS[value]
    if type(value) in (int, float):
        return float(value)
    raise MalformedCheckpoint("The program has a number that is none.", _HINT)


def _string(calls: Calls, value: Any) -> str:
    string = text(value, "a string argument")
    if not TEXT.match(string):
        raise UnsafeCheckpoint("The program passes a string with characters that no operator takes.")
    return string


def _dtype(calls: Calls, value: Any) -> Constant:
    dtype = BY_SCHEMA.get(integer(value, "a number type"))
    if dtype is None:
        raise UnsupportedCheckpoint("The program uses a number type that is not read.", unread.NUMBERS)
    return Constant("dtype", dtype.name)


def _layout(calls: Calls, value: Any) -> Constant:
    if value != 7:
        raise UnsupportedCheckpoint("The program uses a sparse layout.", "Only dense tensors are read.")
    return Constant("layout", "strided")


def _memory_format(calls: Calls, value: Any) -> Constant:
    if integer(value, "a memory format") not in _MEMORY_FORMATS:
        raise MalformedCheckpoint("The program uses an unknown memory format.", _HINT)
    return Constant("memory_format", _MEMORY_FORMATS[value])


def _device(calls: Calls, value: Any) -> Constant:
    """Whatever device the publisher had: the program runs where the service runs it."""
    return Constant("device", "cpu")


def _list_of(read: Any) -> Any:
    return lambda calls, value: tuple(read(calls, item) for item in sequence(value, "a list argument"))


def _int(calls: Calls, value: Any) -> int:
    return integer(value, "an integer argument")


def _bool(calls: Calls, value: Any) -> bool:
    return truth(value, "a boolean argument")


_READERS: dict[str, Any] = {
    "as_none": _none,
    "as_tensor": Calls.tensor,
    "as_tensors": _list_of(Calls.tensor),
    "as_int": _int,
    "as_ints": _list_of(_int),
    "as_float": _float,
    "as_floats": _list_of(_float),
    "as_bool": _bool,
    "as_bools": _list_of(_bool),
    "as_string": _string,
    "as_scalar_type": _dtype,
    "as_layout": _layout,
    "as_memory_format": _memory_format,
    "as_device": _device,
    "as_sym_int": Calls.number,
    "as_sym_ints": _list_of(Calls.number),
    "as_sym_float": Calls.number,
    "as_sym_floats": _list_of(Calls.number),
    "as_sym_bool": Calls.number,
    "as_sym_bools": _list_of(Calls.number),
    "as_optional_tensor": Calls.optional,
    "as_optional_tensors": _list_of(Calls.optional),
}
