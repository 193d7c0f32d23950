"""Train the small digit classifier of the README and write it as float ONNX with its data.

Needs ``torch`` and ``scikit-learn`` (not needed to use qcc):

    pip install torch scikit-learn onnx
    python tools/train_digits.py examples/digits

It writes ``digits.onnx`` (opset 17, dynamic batch, BatchNormalization unfolded, a residual block),
``calib.npz`` (200 training images) and ``test.npz`` (the held-out images ``x`` and labels ``y``).
The split and the seeds are fixed, so the files come out alike up to torch's own rounding.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import nn

CALIBRATION_IMAGES = 200
HELD_OUT = 500
EPOCHS = 60


class DigitNet(nn.Module):
    """Three convolutions, one residual block, global average pooling, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32)
        self.conv3, self.bn3 = nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x / 16.0)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = torch.relu(self.bn3(self.conv3(x)) + x)
        return self.fc(x.mean((2, 3)))


def train(x: torch.Tensor, y: torch.Tensor) -> DigitNet:
    torch.manual_seed(0)
    net = DigitNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
        schedule.step()
    return net.eval()


def to_onnx(net: DigitNet) -> onnx.ModelProto:
    """The network as ONNX, node by node, with the names a torch export would give."""
    weights = {k: v.detach().numpy() for k, v in net.state_dict().items() if v.ndim}
    weights["scale"] = np.float32(16.0)
    constants = [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()]
    node = helper.make_node

    def block(index: int, source: str, stride: int) -> list[onnx.NodeProto]:
        conv, bn = f"conv{index}", f"bn{index}"
        inputs = [source, f"{conv}.weight", f"{conv}.bias"]
        window: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [stride] * 2}
        statistics = [f"{bn}.{p}" for p in ("weight", "bias", "running_mean", "running_var")]
        return [
            node("Conv", inputs, [conv], f"/{conv}/Conv", **window),
            node("BatchNormalization", [conv, *statistics], [bn], f"/{bn}/BatchNormalization"),
        ]

    nodes = [
        node("Div", ["x", "scale"], ["scaled"], "/Div"),
        *block(1, "scaled", 1),
        node("Relu", ["bn1"], ["relu1"], "/Relu"),
        *block(2, "relu1", 2),
        node("Relu", ["bn2"], ["relu2"], "/Relu_1"),
        *block(3, "relu2", 1),
        node("Add", ["bn3", "relu2"], ["sum"], "/Add"),
        node("Relu", ["sum"], ["relu3"], "/Relu_2"),
        node("GlobalAveragePool", ["relu3"], ["mean"], "/GlobalAveragePool"),
        node("Flatten", ["mean"], ["flat"], "/Flatten"),
        node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], "/fc/Gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        constants,
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], producer_name="train_digits")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def main(folder: Path) -> None:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = data.images[order].astype(np.float32)[:, None]
    labels = data.target[order].astype(np.int64)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    net = train(x[HELD_OUT:], y[HELD_OUT:])
    with torch.no_grad():
        correct = (net(x[:HELD_OUT]).argmax(1) == y[:HELD_OUT]).float().mean().item()
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(to_onnx(net), str(folder / "digits.onnx"))
    calibration = images[HELD_OUT : HELD_OUT + CALIBRATION_IMAGES]
    np.savez_compressed(folder / "calib.npz", x=calibration)
    np.savez_compressed(folder / "test.npz", x=images[:HELD_OUT], y=labels[:HELD_OUT])
    print(f"held-out accuracy {100 * correct:.2f} % of {HELD_OUT}; written to {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/digits"))
