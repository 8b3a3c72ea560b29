"""Lines of the module's class that are alike in every file: its functions for levels, its lists of tensors, and a
dictionary (see `text`) where it says nothing."""

from __future__ import annotations

from rightrank.models.emit.encoding.packing import PACKINGS
from rightrank.models.emit.torchscript.fold import FOLDED
from rightrank.models.program.dtypes import DTYPES

# The type of rows of coded levels.
CODED = "uint8"


def unpacking(packing: int) -> str:
    """A function of the module: the `m` levels of each row of `b`, as numbers."""
    single, (count, most) = DTYPES[FOLDED].script, PACKINGS[packing]
    levels = "b"
    if count > 1:
        powers = f"torch.pow({2 * most + 1}, torch.arange({count}, dtype={DTYPES[CODED].script}))"
        digits = f'torch.div(torch.unsqueeze(b, -1), {powers}, rounding_mode="floor")'
        levels = f"torch.slice(torch.flatten(torch.remainder({digits}, {2 * most + 1}), 1), 1, 0, m)"
    head = f"  def l{packing}(self: __torch__.Variant,\n    b: Tensor,\n    m: int) -> Tensor:\n"
    return f"{head}    return torch.sub(torch.to({levels}, {single}), {most})\n"


# Functions of the module: rows `b` of levels, times scales `s`, as a tensor of sizes `z`. The scales are one for each
# row, or each is for neighbouring levels of every row, and the rows come to lie along the second axis.
_SCALING = """\
  def r(self: __torch__.Variant,
    b: Tensor,
    s: Tensor,
    z: List[int]) -> Tensor:
    return torch.reshape(torch.mul(b, torch.unsqueeze(s, 1)), z)
  def c(self: __torch__.Variant,
    b: Tensor,
    s: Tensor,
    z: List[int]) -> Tensor:
    b = torch.reshape(b, [torch.size(b, 0), {outputs}, -1])
    return torch.reshape(torch.contiguous(torch.permute(torch.mul(b, torch.unsqueeze(s, 1)), [1, 0, 2])), z)
"""


def scaling(alike: bool) -> str:
    """Those functions; with `alike` there may be one scale for all."""
    return _SCALING.format(outputs="z[0]" if alike else "torch.size(s, 0)")


def listed(name: str) -> str:
    return f'"{name}", '


def declared(name: str) -> str:
    return f"  {name} : Tensor\n"


# A dictionary where it says nothing: among the names of tensors, between declarations, in the function, and among the
# attributes of the pickle.


def in_list(dictionary: bytes) -> bytes:
    return b'"""' + dictionary + b'\n""", '


def in_class(dictionary: bytes) -> bytes:
    return b"  __buffers__ = [" + in_list(dictionary) + b"]\n"


def in_function(dictionary: bytes) -> bytes:
    return b'    z = """' + dictionary + b'\n"""\n'
