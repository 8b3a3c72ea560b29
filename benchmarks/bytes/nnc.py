"""MPEG's neural network coding of a network, by `nncodec`, in an environment of its own (`make build/nncodec`).

    build/nncodec/bin/python -m benchmarks.bytes.nnc FOLDER QP

FOLDER has the network's tensors in network.safetensors. It leaves them coded in coded.nnc and decoded again in
decoded.safetensors. QP is the quantisation parameter of the weights, a step twice as large for every four more; the
tensors of one dimension keep nncodec's own, which is fine. Its other options are its defaults: dependent (trellis)
quantisation, and coding parameters that are tried out.

It imports torchvision; where that lacks an operator of its own, declaring the operator is enough.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks import vision


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bytes.nnc", description="nncodec.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("qp", type=int)
    given = parser.parse_args()
    vision.declare()
    from nncodec.nn import decode, encode

    tensors = {name: each.numpy() for name, each in load_file(given.folder / "network.safetensors").items()}
    options = {"qp": given.qp, "verbose": False, "results": str(given.folder)}
    (given.folder / "coded.nnc").write_bytes(encode(tensors, options))
    found = decode(bytearray((given.folder / "coded.nnc").read_bytes()), options)
    decoded = {name: torch.from_numpy(each.copy()) for name, each in found.items()}
    save_file(decoded, given.folder / "decoded.safetensors")


if __name__ == "__main__":
    main()
