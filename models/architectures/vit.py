"""Vision transformer (arXiv:2010.11929), with torchvision's keys and shapes; the defaults are ViT-B/16."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

from rightrank.models.architectures.arguments import Integer, channels, classes, side
from rightrank.models.architectures.registry import Architecture

EPS = 1e-6


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention`'s keys, with its projections as plain linear calls.

    The library's module hides both projections inside one fused call in eval mode, where nothing could
    decompose them.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, tokens, dim) to the same."""
        batch, tokens, dim = x.shape
        projected = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        # (N, tokens, 3·dim) to three of (N, heads, tokens, dim / heads)
        query, key, value = (
            part.reshape(batch, tokens, self.heads, dim // self.heads).transpose(1, 2) for part in projected.chunk(3, 2)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        out: torch.Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class EncoderBlock(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim, eps=EPS)
        self.self_attention = SelfAttention(dim, heads)
        self.ln_2 = nn.LayerNorm(dim, eps=EPS)
        # The dropouts have probability zero; they are here because torchvision numbers them.
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_dim), nn.GELU(), nn.Dropout(0.0), nn.Linear(mlp_dim, dim), nn.Dropout(0.0)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attention(self.ln_1(x))
        out: torch.Tensor = x + self.mlp(self.ln_2(x))
        return out


class Encoder(nn.Module):
    def __init__(self, tokens: int, depth: int, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, tokens, dim).normal_(std=0.02))
        self.layers = nn.Sequential(
            OrderedDict((f"encoder_layer_{i}", EncoderBlock(dim, heads, mlp_dim)) for i in range(depth))
        )
        self.ln = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.ln(self.layers(x + self.pos_embedding))
        return out


class VisionTransformer(nn.Module):
    """Raises ValueError where the patches do not tile the image or the heads do not divide `dim`."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        patch_size: int,
        depth: int,
        heads: int,
        dim: int,
        mlp_dim: int,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patch_size {patch_size} does not divide image_size {image_size}")
        if dim % heads:
            raise ValueError(f"heads {heads} does not divide dim {dim}")
        self.conv_proj = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.encoder = Encoder((image_size // patch_size) ** 2 + 1, depth, dim, heads, mlp_dim)
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(dim, num_classes)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], 1)
        out: torch.Tensor = self.heads(self.encoder(tokens)[:, 0])
        return out


VIT = Architecture(
    build=VisionTransformer,
    shape=lambda given: (given["in_channels"], given["image_size"], given["image_size"]),
    arguments={
        "num_classes": classes(),
        "in_channels": channels(),
        "image_size": side(224),
        "patch_size": Integer(16, 1, 256),
        "depth": Integer(12, 1, 64),
        "heads": Integer(12, 1, 256),
        "dim": Integer(768, 1, 8192),
        "mlp_dim": Integer(3072, 1, 32768),
    },
)
