"""Zero channels out of a trained program, without changing what it computes (arXiv:1812.08119).

columns    the paper's criterion: which columns of a layer's matrix are zero
channels   what is known of the channels of a value, and which channels can only go together
flow       walks the graph once and finds both, for the operators it knows
operators  one rule per kind of operator
removal    which channels go, and the smaller graph and tensors
eliminate  all of it, checked on inputs before it is accepted
"""

from rightrank.models.simplify.zeros.eliminate import FEW, compare, eliminate, parts
from rightrank.models.simplify.zeros.report import LayerReport, Report

__all__ = ["FEW", "LayerReport", "Report", "compare", "eliminate", "parts"]
