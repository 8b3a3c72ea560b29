from __future__ import annotations

import torch
from torch import nn

from rightrank.models import architectures
from rightrank.models.architectures.vit import SelfAttention


def test_vit_b_16_has_as_many_parameters_as_torchvisions() -> None:
    assert sum(p.numel() for p in architectures.build("vit").parameters()) == 86_567_656


def test_vit_has_torchvisions_keys_and_shapes() -> None:
    state = architectures.build("vit", depth=2).state_dict()
    block = "encoder.layers.encoder_layer_{}."
    shapes = {
        "ln_1.weight": (768,),
        "ln_1.bias": (768,),
        "self_attention.in_proj_weight": (2304, 768),
        "self_attention.in_proj_bias": (2304,),
        "self_attention.out_proj.weight": (768, 768),
        "self_attention.out_proj.bias": (768,),
        "ln_2.weight": (768,),
        "ln_2.bias": (768,),
        "mlp.0.weight": (3072, 768),
        "mlp.0.bias": (3072,),
        "mlp.3.weight": (768, 3072),
        "mlp.3.bias": (768,),
    }
    expected = {
        "class_token": (1, 1, 768),
        "conv_proj.weight": (768, 3, 16, 16),
        "conv_proj.bias": (768,),
        "encoder.pos_embedding": (1, 197, 768),
        **{block.format(i) + key: shape for i in range(2) for key, shape in shapes.items()},
        "encoder.ln.weight": (768,),
        "encoder.ln.bias": (768,),
        "heads.head.weight": (1000, 768),
        "heads.head.bias": (1000,),
    }
    assert {key: tuple(value.shape) for key, value in state.items()} == expected


def test_the_attention_computes_what_torchs_own_does_from_the_same_state() -> None:
    torch.manual_seed(0)
    ours = SelfAttention(dim=12, heads=3)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])
