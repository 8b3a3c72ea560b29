"""A program's template: its layers, and what all of it costs."""

from __future__ import annotations

from rightrank.models.errors import MalformedCheckpoint, UnsupportedCheckpoint
from rightrank.models.factor.layers import find
from rightrank.models.master.template import Template, TensorSpec
from rightrank.models.program.program import Program


def survey(program: Program) -> Template:
    """The template of a program: its layers, shapes, parameter and MAC counts. Raises MalformedCheckpoint for one that
    does not run, UnsupportedCheckpoint where there is nothing to cut."""
    graph = program.graph
    try:
        shapes = program.shapes
    except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError) as error:
        reason = str(error).split("\n")[0][:300]
        raise MalformedCheckpoint(
            f"The program does not run on inputs of the shape that it declares: {reason}.",
            "Export it again with torch.export.export on an example input and check that it runs.",
        ) from error
    if not graph.inputs:
        raise UnsupportedCheckpoint("The program takes no tensor input.", "Export a model that takes one.")
    found = find(graph, shapes)
    if not program.parameters:
        raise UnsupportedCheckpoint(
            "The program uses no parameters, so there is nothing to cut.", "Export a model that has trained weights."
        )
    return Template(
        graph=graph,
        layers=found,
        tensors={
            name: TensorSpec(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            for name, tensor in program.tensors.items()
        },
        params=program.parameters,
        macs=sum(layer.macs for layer in found),
    )
