"""Candidates as their files have them: with the numbers that are left of each tensor once it has been written.

Where an encoding keeps less than every bit, what is nearest before that need not be nearest after it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rightrank.models.emit.encoding import encoding_of
from rightrank.models.emit.encoding.encoding import Encoding
from rightrank.models.emit.format import Output
from rightrank.models.emit.vectors import numbers
from rightrank.models.master.template import TensorSpec
from rightrank.models.master.variant import Variant
from rightrank.models.program.dtypes import DTYPES
from rightrank.models.program.execute import evaluate, resolve, store
from rightrank.models.program.graph import Ref
from rightrank.models.program.program import Program


def as_written(each: Variant, output: Output) -> Program:
    """A variant as a program, its tensors as a file of this kind has them. Raises PrecisionError for numbers that the
    encoding has none for."""
    encoding = encoding_of(output.encoding)
    if encoding.exact:
        return each.program()
    factors = {
        weight: {side: read_back(factor, encoding) for side, factor in sides.items()}
        for weight, sides in each.factors.items()
    }
    whole = {name: read_back(tensor, encoding) for name, tensor in each.whole.items() if name not in factors}
    return each.with_(whole, factors).program()


def beside_levels(each: Variant) -> Program:
    """A variant as a program whose weights are levels already: its vectors as a file of coded levels has them."""
    rounded = {name: each.whole[name] for name in each.template.vectors}
    made = {name: torch.from_numpy(numbers(x.detach().cpu().reshape(-1).numpy())) for name, x in rounded.items()}
    return each.with_({name: value.reshape(rounded[name].shape) for name, value in made.items()}).program()


def read_back(tensor: Tensor, encoding: Encoding) -> Tensor:
    """What a program makes of the parts that stand for a tensor."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    spec = TensorSpec(dtype, tuple(tensor.shape))
    parts = encoding.parts(spec)
    if parts == {"": spec}:
        return tensor
    integers = np.dtype(f"u{DTYPES[dtype].width}")
    encoded = encoding.encode(tensor.detach().cpu().contiguous().numpy().view(integers), dtype)
    values = {part: torch.from_numpy(array.copy()) for part, array in encoded.items()}
    for node in encoding.decode("made again", spec, {part: Ref(part) for part in parts}):
        arguments = [evaluate(argument, values, tensor.device) for argument in node.args]
        store(node, resolve(node.op)(*arguments), values)
    return values["made again"]
