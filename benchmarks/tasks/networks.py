"""The networks: small, and wide enough to be cut."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """One layer of a transformer, normalised before its parts."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """(n, s, width); of `mask` (n, s) zeros are not looked at."""
        n, s, width = x.shape
        q, k, v = self.qkv(self.before(x)).reshape(n, s, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        seen = None if mask is None else mask[:, None, None, :] != 0
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=causal)
        x = x + self.out(y.transpose(1, 2).reshape(n, s, width))
        out: Tensor = x + self.down(functional.gelu(self.up(self.between(x))))
        return out


class Transformer(nn.Module):
    """Embeddings of `small` numbers for tokens and positions, made wider, and blocks."""

    def __init__(self, tokens: int, longest: int, width: int, depth: int, small: int, heads: int = 4) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(tokens, small), nn.Embedding(longest, small)
        self.wider = nn.Linear(small, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        x = self.wider(self.tokens(ids) + self.positions.weight[: ids.shape[1]])
        for block in self.blocks:
            x = block(x, mask, causal)
        out: Tensor = self.norm(x)
        return out


class TextClassifier(nn.Module):
    def __init__(self, tokens: int, longest: int, classes: int, width: int) -> None:
        super().__init__()
        self.body = Transformer(tokens, longest, width, depth=2, small=24)
        self.head = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, s) twice → (n, classes), of the mean over what the mask counts."""
        x = self.body(input_ids, attention_mask)
        here = attention_mask[..., None].to(x.dtype)
        out: Tensor = self.head((x * here).sum(1) / here.sum(1))
        return out


class Tagger(nn.Module):
    def __init__(self, tokens: int, tags: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, 32)
        self.first = nn.Conv1d(32, width, 5, padding=2)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 3, padding=step, dilation=step) for step in (1, 2, 4, 8))
        self.head = nn.Linear(width, tags)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(n, s) → (n, s, tags)."""
        x = torch.relu(self.first(self.embedding(input_ids).transpose(1, 2)))
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        out: Tensor = self.head(x.transpose(1, 2))
        return out


def convolutions(channels: int, width: int) -> nn.Sequential:
    """Two, of 3×3, each with its norm."""
    layers: list[nn.Module] = []
    for inputs in (channels, width):
        layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Down twice and up twice, with what was there before beside what comes back (arXiv:1505.04597). Up by pixels that
    are repeated, or by `transposed` convolutions, which make half as many channels."""

    def __init__(self, classes: int, width: int, transposed: bool = False) -> None:
        super().__init__()
        self.down = nn.ModuleList([convolutions(1, width), convolutions(width, 2 * width)])
        self.bottom = convolutions(2 * width, 4 * width)
        widths = [(4 * width, 2 * width), (2 * width, width)]
        self.wider = nn.ModuleList(
            nn.ConvTranspose2d(more, less, 2, stride=2) if transposed else nn.Upsample(scale_factor=2.0)
            for more, less in widths
        )
        self.up = nn.ModuleList(convolutions((less if transposed else more) + less, less) for more, less in widths)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 1, h, w) → (n, classes, h, w); h and w are multiples of 4."""
        x, before = images, []
        for layer in self.down:
            x = layer(x)
            before.append(x)
            x = functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for wider, layer in zip(self.wider, self.up, strict=True):
            x = layer(torch.cat([wider(x), before.pop()], 1))
        out: Tensor = self.head(x)
        return out


class MultiLabel(nn.Module):
    def __init__(self, labels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [convolutions(1, width), convolutions(width, 2 * width), convolutions(2 * width, 4 * width)]
        )
        self.head = nn.Linear(4 * width, labels)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 1, h, w) → (n, labels), of the largest over all places."""
        x = images
        for layer in self.layers[:-1]:
            x = functional.max_pool2d(layer(x), 2)
        out: Tensor = self.head(self.layers[-1](x).amax((2, 3)))
        return out


class Decoder(nn.Module):
    def __init__(self, tokens: int, longest: int, width: int) -> None:
        super().__init__()
        self.body = Transformer(tokens, longest, width, depth=2, small=64)
        self.head = nn.Linear(width, tokens)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(n, s) → (n, s, tokens), of what comes next."""
        out: Tensor = self.head(self.body(input_ids, causal=True))
        return out


def perceptron(inputs: int, width: int, outputs: int, dropped: float = 0.0) -> nn.Sequential:
    """With two hidden layers."""
    return nn.Sequential(
        *(nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropped)),
        *(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropped)),
        nn.Linear(width, outputs),
    )
