"""The DCGAN training loop in plain PyTorch, as in PyTorch's tutorials, for comparison.

Networks, losses, initialisation ranges and update order are those of tuner/gan; only the random
numbers differ.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class SamePad(nn.Module):
    """TensorFlow's SAME padding for a 5x5 stride-2 convolution on even sizes: 1 before, 2 after."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x, (1, 2, 1, 2))


class Crop(nn.Module):
    """TensorFlow's SAME cropping of a 5x5 stride-2 transposed convolution to twice its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 1:-2, 1:-2]


def make_generator(width: int, latent_dim: int, channels: int) -> nn.Module:
    def norm2d(n: int) -> nn.Module:
        return nn.BatchNorm2d(n, eps=1e-3, momentum=0.01)

    return nn.Sequential(
        nn.Linear(latent_dim, 64 * 4 * width, bias=False),
        nn.BatchNorm1d(64 * 4 * width, eps=1e-3, momentum=0.01),
        nn.LeakyReLU(0.3),
        nn.Unflatten(1, (4 * width, 8, 8)),
        nn.ConvTranspose2d(4 * width, 2 * width, 5, padding=2, bias=False),
        norm2d(2 * width),
        nn.LeakyReLU(0.3),
        nn.ConvTranspose2d(2 * width, width, 5, stride=2, bias=False),
        Crop(),
        norm2d(width),
        nn.LeakyReLU(0.3),
        nn.ConvTranspose2d(width, channels, 5, stride=2, bias=False),
        Crop(),
        nn.Tanh(),
    )


def make_discriminator(width: int, channels: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        SamePad(),
        nn.Conv2d(channels, width, 5, stride=2),
        nn.LeakyReLU(0.3),
        nn.Dropout(dropout),
        SamePad(),
        nn.Conv2d(width, 2 * width, 5, stride=2),
        nn.LeakyReLU(0.3),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(64 * 2 * width, 1),
    )


class Trainer:
    """Alternating non-saturating training with Adam, on images held on ``device``."""

    def __init__(
        self, images: Tensor, width: int, batch_size: int, device: str, mode: str | None = None
    ) -> None:
        """With a ``mode`` of torch.compile, compile the step: "reduce-overhead" for CUDA graphs."""
        self.images = images.to(device)  # uint8 (n, c, h, w)
        self.batch_size, self.device, self.latent_dim = batch_size, device, 100
        channels = images.shape[1]
        self.generator = make_generator(width, self.latent_dim, channels).to(device)
        self.discriminator = make_discriminator(width, channels, 0.3).to(device)
        for module in (*self.generator.modules(), *self.discriminator.modules()):
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        self.g_optimizer, self.d_optimizer = (
            torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999), eps=1e-7)
            for net in (self.generator, self.discriminator)
        )
        self.run_step = self.step
        if mode is not None:
            self.run_step = torch.compile(self.step, mode=mode, dynamic=False)

    def latents(self) -> Tensor:
        return torch.randn(self.batch_size, self.latent_dim, device=self.device)

    def step(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        real = batch.float() / 127.5 - 1.0
        fake = self.generator(self.latents()).detach()
        d_loss = functional.softplus(-self.discriminator(real)).mean()
        d_loss = d_loss + functional.softplus(self.discriminator(fake)).mean()
        self.d_optimizer.zero_grad()
        d_loss.backward()
        self.d_optimizer.step()

        g_loss = functional.softplus(-self.discriminator(self.generator(self.latents()))).mean()
        self.g_optimizer.zero_grad()
        g_loss.backward()
        self.g_optimizer.step()
        return d_loss.detach(), g_loss.detach()

    def epoch(self) -> tuple[float, float]:
        """Train one pass over the images; the mean losses of D and G."""
        d_total = g_total = torch.zeros((), device=self.device)
        order = torch.randperm(len(self.images), device=self.device)
        batches = order[: len(order) // self.batch_size * self.batch_size].split(self.batch_size)
        for indices in batches:
            d_loss, g_loss = self.run_step(self.images[indices])
            d_total, g_total = d_total + d_loss, g_total + g_loss
        return float(d_total) / len(batches), float(g_total) / len(batches)
