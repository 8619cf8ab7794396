"""What `fit` is compared with: the loop that everyone writes, and pythae's trainer."""

import gzip
import logging
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from common import ROOT
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from vae_utils import elbo

HAS_PYTHAE = find_spec("pythae") is not None  # else the scripts leave it out


def usual_loader(size: int, batch_size: int) -> DataLoader:
    """The first `size` training images as most people load them: torchvision's dataset with ToTensor."""
    with tempfile.TemporaryDirectory() as folder:  # torchvision wants the files unpacked, and reads them at once
        raw = Path(folder) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for path in (ROOT / "data" / "MNIST" / "raw").glob("*.gz"):
            (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        mnist = datasets.MNIST(folder, train=True, transform=transforms.ToTensor())
    mnist.data, mnist.targets = mnist.data[:size], mnist.targets[:size]
    return DataLoader(mnist, batch_size=batch_size, shuffle=True)


def usual_epoch(model, loader: DataLoader, optimizer, *, binarized: bool) -> float:
    """An epoch of the loop that everyone writes, which also wants to know its mean loss."""
    device, total = next(model.parameters()).device, 0.0
    for x, _ in loader:
        x = x.view(len(x), -1).to(device)
        loss = -elbo(model, torch.bernoulli(x) if binarized else x).value.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


def pythae_trainer(model, images: Tensor, folder: str, *, binarized: bool, **settings):
    """pythae's trainer of pythae's VAE around the encoder and the decoder of ours, which it trains in place."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def forward(self, x):
            mu, logvar = self.model.encode(x.flatten(1))
            return ModelOutput(embedding=mu, log_covariance=logvar)

    class Decoder(BaseDecoder):
        def forward(self, z):
            return ModelOutput(reconstruction=torch.sigmoid(self.model.decode(z)).view(-1, 1, 28, 28))

    class BinarizingVAE(VAE):
        def forward(self, inputs, **settings):
            return super().forward({"data": torch.bernoulli(inputs["data"])}, **settings)

    logging.disable(logging.INFO)
    encoder, decoder = Encoder(), Decoder()
    encoder.model = decoder.model = model
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=model.latent_dim, reconstruction_loss="bce")
    vae = (BinarizingVAE if binarized else VAE)(config, encoder, decoder)
    settings = BaseTrainerConfig(output_dir=folder, no_cuda=images.device.type == "cpu", **settings)
    dataset = BaseDataset(images.cpu().view(-1, 1, 28, 28), torch.zeros(len(images)))
    return BaseTrainer(vae, dataset, training_config=settings)
