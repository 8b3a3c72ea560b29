from __future__ import annotations

import pytest
import torch
from torch import nn

from rightrank.models import architectures


def test_mobilenet_v2_has_as_many_parameters_as_torchvisions() -> None:
    assert sum(p.numel() for p in architectures.build("mobilenet_v2").parameters()) == 3_504_872


def test_mobilenet_v2_has_torchvisions_keys_and_shapes() -> None:
    state = architectures.build("mobilenet_v2").state_dict()
    assert len(state) == 314
    expected = {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.0.1.running_mean": (32,),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.1.conv.2.weight": (16,),
        "features.2.conv.0.0.weight": (96, 16, 1, 1),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.2.conv.2.weight": (24, 96, 1, 1),
        "features.2.conv.3.bias": (24,),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "features.18.0.weight": (1280, 320, 1, 1),
        "features.18.1.weight": (1280,),
        "classifier.1.weight": (1000, 1280),
    }
    assert {key: tuple(state[key].shape) for key in expected} == expected


@pytest.mark.parametrize(("width", "count"), [(0.5, 1_968_680), (1.4, 6_108_776)])
def test_other_widths_have_the_published_parameter_counts(width: float, count: int) -> None:
    assert sum(p.numel() for p in architectures.build("mobilenet_v2", width=width).parameters()) == count


def test_mobilenet_v2_adds_ten_shortcuts() -> None:
    module = architectures.build("mobilenet_v2")
    program = torch.export.export(module, (torch.zeros(2, 3, 224, 224),))
    added = [node for node in program.graph.nodes if node.target == torch.ops.aten.add.Tensor]
    assert len(added) == 10


def test_mobilenet_v2_halves_the_image_five_times() -> None:
    module = architectures.build("mobilenet_v2", width=0.1)
    strides = [part.stride[0] for part in module.modules() if isinstance(part, nn.Conv2d)]
    assert strides.count(2) == 5
