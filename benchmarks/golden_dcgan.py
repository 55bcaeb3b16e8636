"""Golden values of the DCGAN from an independent implementation: PyTorch, float64, NCHW.

    python benchmarks/golden_dcgan.py

rewrites tests/golden/dcgan.npz, with the same bytes every time for the same PyTorch (2.13.0 on a
CPU wrote the present file). Weights and inputs are not stored: tests/dcgan_weights.py computes
them.

Everything follows Keras' DCGAN tutorial at width 4: batch norm with epsilon 1e-3 and biased
variance, LeakyReLU 0.3, TensorFlow's SAME padding and cropping. A transposed convolution is
PyTorch's without padding (out[o] = sum over stride * i + t = o), then cropped: by 1 before and 2
after at stride 2, by 2 and 2 at stride 1. Images and gradients are stored in the layout of Keras
and tuner: NHWC, convolution kernels HWIO, transposed ones (5, 5, outputs, inputs).

Arrays: ``fake`` (train mode, the first 4 images), ``fake_recorded`` (the first 2, with the
statistics of another batch, which are stored as ``recorded/norm1.mean`` and so on),
``real_logits``, ``fake_logits``, ``d_loss`` (the same for both losses), ``g_loss/LOSS``, and
gradients ``d_grad/PARAMETER`` and ``g_grad/LOSS/PARAMETER``, each with its Euclidean norm as
``.../norm``.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "unit"))
rule = importlib.import_module("dcgan_weights")

Parameters = dict[str, Tensor]
Statistics = dict[str, tuple[Tensor, Tensor]]  # by layer: mean and biased variance


def transposed(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """Keras' Conv2DTranspose(padding="same") of x (n, c, h, w) with (5, 5, outputs, inputs)."""
    full = functional.conv_transpose2d(x, kernel.permute(3, 2, 0, 1), stride=stride)
    before, after = (1, 2) if stride == 2 else (2, 2)
    return full[:, :, before:-after, before:-after]


def convolved(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Keras' Conv2D(strides=2, padding="same") of x (n, c, h, w) with an HWIO kernel."""
    padded = functional.pad(x, (1, 2, 1, 2))
    return functional.conv2d(padded, kernel.permute(3, 2, 0, 1), bias, stride=2)


def generate(p: Parameters, z: Tensor, recorded: Statistics | None) -> tuple[Tensor, Statistics]:
    """Images (n, 3, 32, 32), and the batch's statistics, which are used unless ``recorded``."""
    statistics: Statistics = {}

    def normalised(layer: str, x: Tensor) -> Tensor:
        axes = [0, *range(2, x.ndim)]
        statistics[layer] = x.mean(axes), x.var(axes, correction=0)
        mean, variance = statistics[layer] if recorded is None else recorded[layer]
        shape = (1, -1) + (1,) * (x.ndim - 2)
        x = (x - mean.reshape(shape)) / torch.sqrt(variance.reshape(shape) + 1e-3)
        x = x * p[f"{layer}.scale"].reshape(shape) + p[f"{layer}.bias"].reshape(shape)
        return functional.leaky_relu(x, 0.3)

    x = normalised("norm1", z @ p["dense.kernel"])
    x = x.reshape(-1, 8, 8, 4 * rule.WIDTH).permute(0, 3, 1, 2)
    x = normalised("norm2", transposed(x, p["deconv1.kernel"], 1))
    x = normalised("norm3", transposed(x, p["deconv2.kernel"], 2))
    return torch.tanh(transposed(x, p["deconv3.kernel"], 2)), statistics


def discriminate(p: Parameters, x: Tensor) -> Tensor:
    """Logits (n,) of images (n, 3, 32, 32), without dropout."""
    for layer in ("conv1", "conv2"):
        x = functional.leaky_relu(convolved(x, p[f"{layer}.kernel"], p[f"{layer}.bias"]), 0.3)
    flat = x.permute(0, 2, 3, 1).reshape(len(x), -1)
    return (flat @ p["dense.kernel"] + p["dense.bias"])[:, 0]


def gradients(prefix: str, loss: Tensor, p: Parameters) -> dict[str, np.ndarray]:
    computed = torch.autograd.grad(loss, list(p.values()), retain_graph=True)
    out = {}
    for name, gradient in zip(p, computed, strict=True):
        array = gradient.numpy()
        out[f"{prefix}/{name}"] = rule.sample(array).astype(np.float32)
        out[f"{prefix}/{name}/norm"] = np.sqrt(np.square(array).sum())
    return out


def golden() -> dict[str, np.ndarray]:
    g, d = (
        {name: torch.from_numpy(array).requires_grad_() for name, array in arrays.items()}
        for arrays in rule.weights()
    )
    inputs = rule.inputs()
    z, other_z = torch.from_numpy(inputs.z), torch.from_numpy(inputs.other_z)
    _, recorded = generate(g, other_z, None)
    fake, _ = generate(g, z, None)
    real_logits = discriminate(d, torch.from_numpy(inputs.reals).permute(0, 3, 1, 2))
    fake_logits = discriminate(d, fake)
    log_real, log_fake = functional.logsigmoid(real_logits), functional.logsigmoid(-fake_logits)
    d_loss = -log_real.mean() - log_fake.mean()
    g_losses = {
        "minimax": log_fake.mean(),
        "non_saturating": -functional.logsigmoid(fake_logits).mean(),
    }

    def nhwc(images: Tensor) -> np.ndarray:
        array: np.ndarray = images.permute(0, 2, 3, 1).detach().numpy().astype(np.float32)
        return array

    out: dict[str, np.ndarray] = {
        "fake": nhwc(fake[:4]),
        "fake_recorded": nhwc(generate(g, z, recorded)[0][:2]),
        "real_logits": real_logits.detach().numpy(),
        "fake_logits": fake_logits.detach().numpy(),
        "d_loss": d_loss.detach().numpy(),
    }
    for layer, pair in recorded.items():
        for kind, values in zip(("mean", "variance"), pair, strict=True):
            out[f"recorded/{layer}.{kind}"] = values.detach().numpy().astype(np.float32)
    out |= gradients("d_grad", d_loss, d)
    for name, loss in g_losses.items():
        out[f"g_loss/{name}"] = loss.detach().numpy()
        out |= gradients(f"g_grad/{name}", loss, g)
    return out


if __name__ == "__main__":
    path = ROOT / "tests" / "golden" / "dcgan.npz"
    path.parent.mkdir(exist_ok=True)
    arrays: dict[str, Any] = golden()  # NumPy types a bool among the keywords
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size:,} bytes")
