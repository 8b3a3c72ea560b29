"""Architectures of transformers and timm through the whole way: exported, decomposed, written as ONNX, run.

    python -m benchmarks.architectures [--quick] [--only BERT,ViT] [--results FOLDER]

Small configurations with random weights. Each is exported by `rightrank.export`, decomposed, and written whole and at a
half of its parameters, in float32 and in int8. Every file goes through onnx's checker and runs in onnxruntime on
samples that the export has not seen. Whole in float32 it is held against the module itself, all others against the
TorchScript file of as many parameters in float32. OpenVINO, where it is installed, is held to onnxruntime. What is
refused says why. The rows are kept in docs/results/architectures.csv; --quick takes one that needs no package of
others, and a temporary folder.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

import rightrank
from benchmarks import vision
from benchmarks.bar import bar
from benchmarks.results import Table, machine, place
from rightrank.models.emit import formats
from rightrank.models.errors import RightRankError

# A module, one example of its inputs, and other inputs.
Made: TypeAlias = tuple[nn.Module, Any, Any]
WIDTH: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 100,
}
VIT = {key: value for key, value in WIDTH.items() if key != "vocab_size"}
BUDGETS = (1.0, 0.5)
PRECISIONS = ("float32", "int8")


@dataclass(frozen=True)
class Row:
    """`error`: the largest difference, as a share of the largest output, and `openvino`: that of OpenVINO's from
    onnxruntime's (NaN: not installed); `refused`: what is said instead."""

    architecture: str
    package: str
    budget: float
    precision: str
    params: int
    bytes: int
    error: float
    openvino: float
    refused: str


def text(name: str, config: str, masked: bool = True, **given: Any) -> Callable[[], Made]:
    """A network of transformers for ids and, of encoders, a mask."""

    def make() -> Made:
        import transformers

        network = getattr(transformers, name)(getattr(transformers, config)(**given, use_cache=False))

        def inputs(rows: int, length: int, padded: int) -> dict[str, Tensor]:
            ids = torch.randint(2, 100, (rows, length))
            mask = (torch.arange(length) < length - padded).long().expand(rows, -1).contiguous()
            return {"input_ids": ids, **({"attention_mask": mask} if masked else {})}

        return network, inputs(2, 12, 0), inputs(3, 9, 2 if masked else 0)

    return make


def image(name: str, config: str, side: int, **given: Any) -> Callable[[], Made]:
    """A network of transformers for images."""

    def make() -> Made:
        import transformers

        network = getattr(transformers, name)(getattr(transformers, config)(**given))
        return network, {"pixel_values": torch.randn(2, 3, side, side)}, {"pixel_values": torch.randn(3, 3, side, side)}

    return make


def timm(name: str, side: int = 64, **given: Any) -> Callable[[], Made]:
    def make() -> Made:
        import timm as library

        network = library.create_model(name, num_classes=10, **given)
        return network, torch.randn(2, 3, side, side), torch.randn(3, 3, side, side)

    return make


def plain() -> Made:
    layers = (nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))
    return nn.Sequential(*layers), torch.randn(2, 3, 8, 8), torch.randn(3, 3, 8, 8)


GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100}
STAGES = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
QUICK: Mapping[str, tuple[str, Callable[[], Made]]] = {"plain": ("torch", plain)}
ALL: Mapping[str, tuple[str, Callable[[], Made]]] = {
    name: (package, make)
    for package, several in {
        "transformers": {
            "BERT": text("BertForSequenceClassification", "BertConfig", **WIDTH),
            "DistilBERT": text(
                "DistilBertForSequenceClassification",
                "DistilBertConfig",
                dim=64,
                n_layers=2,
                n_heads=4,
                hidden_dim=128,
                vocab_size=100,
            ),
            "RoBERTa": text("RobertaModel", "RobertaConfig", **WIDTH),
            "ELECTRA": text("ElectraModel", "ElectraConfig", **WIDTH, embedding_size=32),
            "ALBERT": text("AlbertModel", "AlbertConfig", **WIDTH, embedding_size=32),
            "DeBERTa v2": text("DebertaV2Model", "DebertaV2Config", **WIDTH),
            "GPT-2": text("GPT2LMHeadModel", "GPT2Config", masked=False, **GPT2),
            "Llama": text("LlamaForCausalLM", "LlamaConfig", masked=False, **WIDTH, num_key_value_heads=2),
            "Qwen2": text("Qwen2ForCausalLM", "Qwen2Config", masked=False, **WIDTH, num_key_value_heads=2),
            "GPT-NeoX": text("GPTNeoXForCausalLM", "GPTNeoXConfig", masked=False, **WIDTH),
            "BLOOM": text(
                "BloomForCausalLM", "BloomConfig", masked=False, hidden_size=64, n_layer=2, n_head=4, vocab_size=100
            ),
            "ViT": image("ViTForImageClassification", "ViTConfig", 32, **VIT, image_size=32, patch_size=8),
            "DINOv2": image(
                "Dinov2Model",
                "Dinov2Config",
                28,
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=28,
                patch_size=14,
            ),
            "Swin": image(
                "SwinForImageClassification",
                "SwinConfig",
                64,
                image_size=64,
                embed_dim=24,
                depths=[2, 2],
                num_heads=[2, 4],
                window_size=4,
            ),
            "ConvNeXt": image("ConvNextForImageClassification", "ConvNextConfig", 64, **STAGES, image_size=64),
            "RegNet": image(
                "RegNetForImageClassification",
                "RegNetConfig",
                64,
                hidden_sizes=[16, 24, 32, 48],
                depths=[1, 1, 1, 1],
                groups_width=8,
            ),
            "SegFormer": image(
                "SegformerForSemanticSegmentation",
                "SegformerConfig",
                64,
                **STAGES,
                num_attention_heads=[1, 2, 2, 4],
                decoder_hidden_size=32,
            ),
        },
        "timm": {
            "resnet10t": timm("resnet10t"),
            "mobilenetv3_small_050": timm("mobilenetv3_small_050"),
            "tf_efficientnet_lite0": timm("tf_efficientnet_lite0"),
            "regnety_002": timm("regnety_002"),
            "convnext_atto": timm("convnext_atto"),
            "ghostnet_050": timm("ghostnet_050"),
            "vit_tiny_patch16_224": timm("vit_tiny_patch16_224", img_size=64, depth=2),
            "edgenext_xx_small": timm("edgenext_xx_small"),
        },
    }.items()
    for name, make in several.items()
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="one small network; writes no file")
    parser.add_argument("--only", help="some of them, separated by commas")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the table goes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    vision.declare()
    known = QUICK if given.quick else ALL
    chosen = given.only.split(",") if given.only else list(known)
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"there is no {unknown[0]!r}; there are {', '.join(known)}")
    with place(given.quick, given.results) as folder, bar(len(chosen), "architectures") as advance:
        table = Table(folder / "architectures.csv", Row)
        for name in chosen:
            package, make = known[name]
            if not table.has(architecture=name):
                for row in rows(name, package, make):
                    table.add(row)
            advance(name)
        (folder / "architectures.md").write_text(page := report(table.rows))
    print(page)


def rows(name: str, package: str, make: Callable[[], Made]) -> list[Row]:
    """An architecture's, or one that says why there are none."""
    torch.manual_seed(0)
    network, example, others = make()
    network.eval()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            free = {1: (2, 500)} if isinstance(example, dict) and "input_ids" in example else None
            file = rightrank.export(network, example, folder / "model.pt2", free=free)
            master = rightrank.build(rightrank.read(file), folder / "master")
            return [
                row(name, package, master, folder, others, network, budget, precision)
                for budget in BUDGETS
                for precision in PRECISIONS
            ]
        except RightRankError as error:
            return [Row(name, package, 0.0, "", 0, 0, 0.0, 0.0, str(error)[:300].replace("\n", " "))]


def row(
    name: str, package: str, master: Any, folder: Path, others: Any, network: nn.Module, budget: float, precision: str
) -> Row:
    import onnx

    given = tuple(others.values()) if isinstance(others, Mapping) else (others,)
    plan = rightrank.plan(master, budget=budget, precision=precision, format="onnx")
    file = folder / "file.onnx"
    rightrank.write(master, plan, file)
    assert file.stat().st_size == plan.bytes
    onnx.checker.check_model(str(file), full_check=True)
    got = first(formats.format_of(plan.output).load(file)(*given))
    with torch.no_grad():
        if budget == 1 and precision == "float32":
            wanted = first(network(**others) if isinstance(others, Mapping) else network(others))
        else:
            same = rightrank.plan(master, max_params=plan.params)
            rightrank.write(master, same, folder / "file.pt")
            wanted = first(torch.jit.load(str(folder / "file.pt"))(*given))  # type: ignore[no-untyped-call]
    other = apart(in_openvino(file, given), got)
    return Row(name, package, budget, precision, plan.params, plan.bytes, apart(got, wanted), other, "")


def apart(got: Tensor | None, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest number; NaN where there is nothing."""
    return math.nan if got is None else float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-9))


def in_openvino(file: Path, inputs: tuple[Tensor, ...]) -> Tensor | None:
    """The first output by OpenVINO in single precision, without rounding of its own, if it is installed."""
    try:
        import openvino
    except ImportError:
        return None
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    compiled = openvino.Core().compile_model(str(file), "CPU", settings)
    found = compiled([each.numpy() for each in inputs])
    return torch.from_numpy(found[0].copy())


def first(output: Any) -> Tensor:
    """The logits of an object, or the first of several outputs."""
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    found: Tensor = output[0] if logits is None else logits
    return found


def report(found: list[Row]) -> str:
    """A line for each architecture."""
    lines = [
        "| | from | parameters | whole: float32, int8 | at a half: float32, int8 | OpenVINO: float32, int8 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(each.architecture for each in found):
        mine = [each for each in found if each.architecture == name]
        if mine[0].refused:
            lines.append(f"| {name} | {mine[0].package} | | refused: {mine[0].refused} | | |")
            continue
        errors = [", ".join(f"{each.error:.1e}" for each in mine if each.budget == budget) for budget in BUDGETS]
        by = [max(each.openvino for each in mine if each.precision == precision) for precision in PRECISIONS]
        others = ", ".join("not installed" if math.isnan(each) else f"{each:.1e}" for each in by)
        lines.append(f"| {name} | {mine[0].package} | {mine[0].params:,} | {errors[0]} | {errors[1]} | {others} |")
    return "\n".join([*lines, "", machine(), ""])


if __name__ == "__main__":
    main()
