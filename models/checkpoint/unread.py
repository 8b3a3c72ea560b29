"""Why an operator is not run, and what to do instead. Each advice is followed in a test."""

from __future__ import annotations

from rightrank.models.program.operators import ALLOWED

DECOMPOSE = "Export it with torch.export.export(…).run_decompositions({}), which spells it in operators that are run."
OTHERWISE = "Write it with other functions of torch, or leave it out of the model: what comes last, do on its outputs."
NUMBERS = (
    "Numbers of 16 to 64 bits and truths are. Complex ones may come in between: "
    "make them with torch.complex or torch.view_as_complex, and keep buffers as torch.view_as_real gives them."
)
_CHANCE = (
    "Call model.eval() before torch.export.export. What forward draws in eval mode too, leave out there "
    "(`if self.training:`), take as an input, or draw once and keep as a buffer."
)
_SIZE = (
    "Keep the size: choose with torch.where, weigh with the mask (x * mask), or take a fixed number with torch.topk; "
    "and keep a number that is computed as a tensor, without .item()."
)
_BRANCH = "Compute both sides and choose between them: torch.where(condition, a, b)."
_LOOP = "Write the loop out in Python with a fixed number of rounds, which torch.export unrolls."
_RENORM = (
    "Do it once, before torch.export.export: e.weight.data.renorm_(e.norm_type, 0, e.max_norm); e.max_norm = None."
)
# By the decompositions, which call kernels that look at no argument.
AS_EXPORTED = (
    "Upload the program as torch.export.export gives it, without .run_decompositions(): "
    "there it calls functions that are read."
)
_FLOATS = "Upload the network in floating point, before it was quantised."


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# By the name without its overload. Lists by name, since a stranger's word is never looked up in torch.
_DRAWS = _words(
    """
    rand rand_like randn randn_like randint randint_like randperm normal normal_functional bernoulli multinomial
    poisson binomial uniform exponential geometric log_normal cauchy random fractional_max_pool2d fractional_max_pool3d
    rrelu_with_noise rrelu_with_noise_functional _standard_gamma _sample_dirichlet
    """
)
_SIZED_BY_DATA = _words(
    """
    nonzero nonzero_numpy argwhere masked_select unique_dim unique_consecutive unique_dim_consecutive _unique _unique2
    bincount repeat_interleave combinations item _local_scalar_dense where equal allclose is_nonzero
    """
)
_UNCHECKED = _words(
    "_fft_r2c _fft_c2c _fft_c2r _pdist_forward _euclidean_dist _trilinear _embedding_bag _embedding_bag_forward_only"
)
_LOOPS = _words("while_loop scan map map_impl associative_scan")


def explain(op: str) -> tuple[str, str]:
    """Why `op` ("aten.rand.default", "higher_order.cond"), which is not allowed, is not run; and what to do."""
    namespace, name, *_ = (*op.split("."), "")
    bare = name.rstrip("_")
    if namespace == "aten" and bare in _DRAWS:
        return "which draws random numbers: a file gives the same answer to the same input", _CHANCE
    if namespace == "aten" and bare in _SIZED_BY_DATA:
        return "whose result depends in size, or as a number, on the input's values", _SIZE
    if namespace == "aten" and bare == "embedding_renorm":
        return "which changes the embedding's weight as it runs", _RENORM
    if namespace == "aten" and name in _UNCHECKED:
        return "a kernel that only decompositions call", AS_EXPORTED
    if namespace == "aten" and name != bare and f"aten.{bare}.{op.rpartition('.')[2]}" in ALLOWED:
        return "which works in place, and is not read so", DECOMPOSE
    if op.startswith("torch._functorch.predispatch."):
        return "which torch.vmap leaves behind", DECOMPOSE
    if namespace == "higher_order":
        return "which takes graphs and chooses between them as it runs", _LOOP if bare in _LOOPS else _BRANCH
    if "quantized" in namespace:
        return "which is of a quantised network", _FLOATS
    return "which is not on the list of operators that are run", OTHERWISE


def argument(kind: str) -> str:
    """What to do about an argument of a kind that is not read."""
    if kind == "as_complex":
        return "Write a complex number as torch.complex(a, b) of two tensors."
    return "Control flow, custom objects and nested graphs are not: pass tensors and plain numbers."
