"""Networks that a bare state dict can name: `build("resnet50", num_classes=10)`.

Key names and shapes are torchvision's where torchvision has the model, so that its published weights load.
"""

from __future__ import annotations

from torch import nn

from rightrank.models.architectures import mlp, mobilenet_v2, registry, resnet, vgg, vit

__all__ = ["NAMES", "build", "input_shape"]

_ARCHITECTURES = {
    "vgg15": vgg.VGG15,
    "resnet34_32": resnet.RESNET34_32,
    "mlp": mlp.PERCEPTRON,
    "resnet18": resnet.RESNET18,
    "resnet50": resnet.RESNET50,
    "mobilenet_v2": mobilenet_v2.MOBILENET_V2,
    "vit": vit.VIT,
}

NAMES = tuple(_ARCHITECTURES)


def build(name: str, /, **arguments: object) -> nn.Module:
    """The architecture `name` with fresh weights, on the CPU, in eval mode.

    Raises UnsupportedCheckpoint for an unknown name, MalformedCheckpoint for an argument that is unknown,
    of the wrong type or out of bounds, and for a module with too many weights.
    """
    found = registry.resolve(name, _ARCHITECTURES)
    return registry.make(found, registry.checked(found, arguments))


def input_shape(name: str, /, **arguments: object) -> tuple[int, ...]:
    """One input's shape without its batch, (channels, height, width) or (features,); raises as `build`."""
    found = registry.resolve(name, _ARCHITECTURES)
    return found.shape(registry.checked(found, arguments))
