"""Recurrent calls: one of ONNX for each level, with gates in ONNX's order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rightrank.models.emit.onnx.nodes import Nodes
from rightrank.models.emit.onnx.rows.products import linear
from rightrank.models.emit.onnx.rows.shapes import parts
from rightrank.models.emit.onnx.values import Dim, Value

# By torch's name: ONNX's, and which of torch's gates stands at each of ONNX's places.
CELLS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "lstm": ("LSTM", (0, 3, 1, 2)),
    "gru": ("GRU", (1, 0, 2)),
    "rnn_tanh": ("RNN", (0,)),
    "rnn_relu": ("RNN", (0,)),
}


def _gates(to: Nodes, value: Value, order: Sequence[int]) -> Value:
    """With the rows of each gate in another order."""
    rows = value.shape[0]
    if len(order) == 1:
        return value
    if not isinstance(rows, int):
        raise to.refused("the number of gates has to be known")
    apart = parts(to, value, [rows // len(order)] * len(order), 0)
    return to.concat([apart[gate] for gate in order], 0)


def _cells(cell: str) -> Callable[..., Any]:
    op, order = CELLS[cell]

    def row(
        to: Nodes,
        input: Value,
        hx: Value | Sequence[Value],
        params: Sequence[Value],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Value, ...]:
        states = [hx] if isinstance(hx, Value) else list(hx)
        if input.rank == 2:
            begin: Any = [to.unsqueeze(each, 1) for each in states]
            found = row(
                to,
                to.unsqueeze(input, 0 if batch_first else 1),
                begin if cell == "lstm" else begin[0],
                params,
                has_biases,
                num_layers,
                dropout,
                train,
                bidirectional,
                batch_first,
            )
            return to.squeeze(found[0], 0 if batch_first else 1), *(to.squeeze(state, 1) for state in found[1:])
        each = 4 if has_biases else 2
        ways = 1 + bidirectional
        if len(params) != each * ways * num_layers:
            raise to.refused("an LSTM has no projection")
        value = to.swap(input, 0, 1) if batch_first else input
        last: list[list[Value]] = [[] for _ in states]
        for level in range(num_layers):
            of_ways = [params[each * (level * ways + way) : each * (level * ways + way + 1)] for way in range(ways)]
            width = of_ways[0][1].shape[1]
            length, batch = value.shape[:2]
            begin = [
                to.slice(state, 0, level * ways, (level + 1) * ways, size=ways) if num_layers > 1 else state
                for state in states
            ]
            weights = [
                to.concat([to.unsqueeze(_gates(to, way[place], order), 0) for way in of_ways], 0) for place in (0, 1)
            ]
            bias = None
            if has_biases:
                both = [to.concat([_gates(to, way[place], order) for place in (2, 3)], 0) for way in of_ways]
                bias = to.concat([to.unsqueeze(each_, 0) for each_ in both], 0)
            state_shape: tuple[Dim, ...] = (ways, batch, width)
            attributes: dict[str, Any] = {"hidden_size": width}
            if bidirectional:
                attributes["direction"] = "bidirectional"
            if cell == "gru":
                attributes["linear_before_reset"] = 1
            if cell == "rnn_relu":
                attributes["activations"] = ["Relu"] * ways
            results = [(value.dtype, (length, ways, batch, width)), *[(value.dtype, state_shape)] * len(states)]
            made, *ends = to.several(op, (value, *weights, bias, None, *begin), results, **attributes)
            for states_of, end in zip(last, ends, strict=True):
                states_of.append(end)
            value = _side_by_side(to, made)
        outputs = [to.concat(several, 0) for several in last]
        return to.swap(value, 0, 1) if batch_first else value, *outputs

    return row


def _side_by_side(to: Nodes, made: Value) -> Value:
    """What both ways make, (T, ways, N, H), as (T, N, ways·H)."""
    length, ways, batch, width = made.shape
    if ways == 1:
        return to.squeeze(made, 1)
    assert isinstance(ways, int) and isinstance(width, int)
    moved = to.swap(made, 1, 2)
    return to.reshape(moved, [0, 0, ways * width], (length, batch, ways * width))


def lstm_cell(
    to: Nodes,
    input: Value,
    hx: Sequence[Value],
    w_ih: Value,
    w_hh: Value,
    b_ih: Value | None = None,
    b_hh: Value | None = None,
) -> tuple[Value, Value]:
    hidden, cell = hx
    gates = to.add(linear(to, input, w_ih, b_ih), linear(to, hidden, w_hh, b_hh))
    entered, kept, new, shown = _apart(to, gates, 4)
    cell = to.add(to.mul(to.unary("Sigmoid", kept), cell), to.mul(to.unary("Sigmoid", entered), to.unary("Tanh", new)))
    return to.mul(to.unary("Sigmoid", shown), to.unary("Tanh", cell)), cell


def gru_cell(
    to: Nodes,
    input: Value,
    hx: Value,
    w_ih: Value,
    w_hh: Value,
    b_ih: Value | None = None,
    b_hh: Value | None = None,
) -> Value:
    of_input = _apart(to, linear(to, input, w_ih, b_ih), 3)
    of_state = _apart(to, linear(to, hx, w_hh, b_hh), 3)
    reset, update = (
        to.unary("Sigmoid", to.add(one, other)) for one, other in zip(of_input[:2], of_state[:2], strict=True)
    )
    new = to.unary("Tanh", to.add(of_input[2], to.mul(reset, of_state[2])))
    return to.add(new, to.mul(update, to.sub(hx, new)))


def _simple_cell(op: str) -> Callable[..., Any]:
    def row(
        to: Nodes,
        input: Value,
        hx: Value,
        w_ih: Value,
        w_hh: Value,
        b_ih: Value | None = None,
        b_hh: Value | None = None,
    ) -> Value:
        return to.unary(op, to.add(linear(to, input, w_ih, b_ih), linear(to, hx, w_hh, b_hh)))

    return row


def _apart(to: Nodes, value: Value, count: int) -> list[Value]:
    """Gates that lie side by side in the last dimension."""
    size = value.shape[-1]
    if not isinstance(size, int):
        raise to.refused("the number of gates has to be known")
    return parts(to, value, [size // count] * count, value.rank - 1)


ROWS: Mapping[str, Callable[..., Any]] = {
    **{f"aten.{cell}.input": _cells(cell) for cell in CELLS},
    "aten.lstm_cell.default": lstm_cell,
    "aten.gru_cell.default": gru_cell,
    "aten.rnn_tanh_cell.default": _simple_cell("Tanh"),
    "aten.rnn_relu_cell.default": _simple_cell("Relu"),
}
