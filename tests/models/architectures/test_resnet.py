from __future__ import annotations

import pytest
import torch
from torch import nn

from rightrank.models import architectures


@pytest.mark.parametrize(("name", "count"), [("resnet18", 11_689_512), ("resnet50", 25_557_032)])
def test_a_resnet_has_as_many_parameters_as_torchvisions(name: str, count: int) -> None:
    assert sum(p.numel() for p in architectures.build(name).parameters()) == count


def test_resnet50_has_torchvisions_keys_and_shapes() -> None:
    state = architectures.build("resnet50").state_dict()
    assert len(state) == 320
    expected = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "bn1.num_batches_tracked": (),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.conv2.weight": (64, 64, 3, 3),
        "layer1.0.conv3.weight": (256, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.bias": (256,),
        "layer1.2.bn3.weight": (256,),
        "layer3.5.conv2.weight": (256, 256, 3, 3),
        "layer4.0.downsample.0.weight": (2048, 1024, 1, 1),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
        "fc.weight": (1000, 2048),
        "fc.bias": (1000,),
    }
    assert {key: tuple(state[key].shape) for key in expected} == expected
    assert "layer1.1.downsample.0.weight" not in state


def test_resnet18_has_torchvisions_keys_and_shapes() -> None:
    state = architectures.build("resnet18").state_dict()
    assert len(state) == 122
    assert state["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert state["layer4.1.conv2.weight"].shape == (512, 512, 3, 3)
    assert not any(key.startswith("layer1.0.downsample") for key in state)


def test_a_bottleneck_strides_in_its_3x3_convolution() -> None:
    module = architectures.build("resnet50", width=4)
    strides = [module.get_submodule(f"layer2.0.conv{i}") for i in (1, 2, 3)]
    assert [conv.stride for conv in strides if isinstance(conv, nn.Conv2d)] == [(1, 1), (2, 2), (1, 1)]


def test_resnet50_ends_in_seven_by_seven_maps_for_224_pixels() -> None:
    module = architectures.build("resnet50", width=2)
    seen: list[torch.Size] = []
    module.get_submodule("layer4").register_forward_hook(lambda _m, _i, output: seen.append(output.shape))
    module(torch.zeros(1, *architectures.input_shape("resnet50")))
    assert seen == [(1, 64, 7, 7)]


def test_resnet34_for_small_images_keeps_their_resolution_in_its_first_stage() -> None:
    module = architectures.build("resnet34_32", width=2)
    seen: list[torch.Size] = []
    module.get_submodule("layer1").register_forward_hook(lambda _m, _i, output: seen.append(output.shape))
    module(torch.zeros(1, *architectures.input_shape("resnet34_32")))
    assert seen == [(1, 2, 32, 32)]


def test_resnet34_has_thirty_four_layers_on_its_longest_path() -> None:
    module = architectures.build("resnet34_32", width=2)
    layers = [name for name, part in module.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len([name for name in layers if "downsample" not in name]) == 34
