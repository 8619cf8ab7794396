"""What may be said about two models? Every comparison of the notebook, over four seeds, all else equal.

    python benchmarks/claims.py [--seeds 0 1 2 3] [--only changes beta dims large] [--json FILE]

Each line is one comparison: the difference of one figure between two models of the same seed, for every seed. "yes"
says that all seeds agree on its sign. Binarised test images, nats per image unless stated. `changes` trains the 2-D
network of section 4 with and without a sigma and a price, `beta` with other weights of the KL and with the mean over
pixels, `dims` a small network with 2 to 20 latent dimensions, and `large` the larger one with either prior, whose codes
are then classified.
"""

import argparse
import json
import math
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from common import ROOT, binarized_once, ink_logits, machine, write_json
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

import vae_utils as vae

EXPERIMENTS = ("changes", "beta", "dims", "large")
BETAS = (0.0, 0.25, 1.0, 4.0, 12.0, 40.0)
DIMS = (2, 5, 10, 20)
SHORT_IMAGES = 20_000  # for `beta` and `dims`; the larger models have all of them
SHORT = {"epochs": 4, "batch_size": 256, "learning_rate": 3e-3, "binarized": True, "progress": False}
LARGE = {"epochs": 3, "batch_size": 128, "learning_rate": 4e-3, "binarized": True, "progress": False}


def mean_over_pixels(model, x, *, generator=None):
    """The mistake of section 7: the reconstruction term is a mean, the KL still a sum."""
    bound = vae.elbo(model, x, generator=generator)
    return bound._replace(value=bound.log_likelihood / x.shape[1] - bound.kl)


class SampledNormal(vae.StandardNormal):
    """N(0, I) once more; since it is a subclass, its KL is sampled, as that of a learned prior is."""


def figures(model, images) -> dict[str, float]:
    return {**vae.evaluate(model, images), "spread": vae.encode_dataset(model, images).mu.std(0).mean().item()}


def map_model(mnist, seed: int):
    """A new 2-D model whose logits begin at the log-odds of each pixel's mean ink."""
    torch.manual_seed(seed)
    model = vae.mlp_vae()
    model.decoder[-1].bias.data.copy_(ink_logits(mnist.train_images))
    return model


def make_judge(mnist, seed: int):
    """A classifier of digits: 784-256-10, trained on the grey training images."""
    torch.manual_seed(seed)
    judge = vae.initialize(torch.nn.Sequential(torch.nn.Linear(784, 256), torch.nn.SiLU(), torch.nn.Linear(256, 10)))
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3)
    for _ in range(3):
        for rows in torch.randperm(len(mnist.train_images)).split(128):
            loss = F.cross_entropy(judge(mnist.train_images[rows]), mnist.train_labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return judge


def judged(judge, images) -> dict[str, float]:
    """The images that the judge is sure of, by a probability above 0.9, in per cent; and the nats that an image tells
    about its kind, the mean of KL(p(kind | image) || p(kind)), the logarithm of the inception score."""
    with torch.no_grad():
        log_p = judge(images).log_softmax(1)
    share = log_p.exp().mean(0)
    return {
        "sure": 100 * (log_p.max(1).values > math.log(0.9)).float().mean().item(),
        "told": (log_p.exp() * (log_p - share.log())).sum(1).mean().item(),
    }


def samples(model):
    return model.sample(10_000, torch.Generator().manual_seed(0)).detach()


def price_on_mu(model, x, *, generator=None):
    """No sigma, and half of mu squared as the price: z is mu itself."""
    mu, _ = model.encode(x)
    log_likelihood, price = model.log_likelihood(x, mu), 0.5 * mu.square().sum(1)
    return vae.Bound(log_likelihood - price, log_likelihood, price)


def no_price(model, x, *, generator=None):
    """An autoencoder: z is mu itself, and costs nothing."""
    bound = price_on_mu(model, x)
    return bound._replace(value=bound.log_likelihood)


def changes(mnist, test, seed: int) -> dict:
    judge, found = make_judge(mnist, seed), {}
    runs = {"neither": (no_price, 1), "sigma alone": (partial(vae.elbo, beta=0.0), 1), "both": (vae.elbo, 1)}
    runs |= {"price alone": (price_on_mu, 1), "price alone, 4 epochs": (price_on_mu, 4)}
    for name, (objective, epochs) in runs.items():
        model = map_model(mnist, seed)
        settings = {"epochs": epochs, "learning_rate": 3e-3, "binarized": True, "progress": False}
        vae.fit(model, mnist.train_images, seed=seed, objective=objective, **settings)
        q = vae.encode_dataset(model, test)
        sizes = {"spread": q.mu.std(0).mean().item(), "sigma": torch.exp(0.5 * q.logvar).median().item()}
        found[name] = sizes | judged(judge, samples(model))
    found["test images"] = judged(judge, mnist.test_images)
    return found


def beta(mnist, test, seed: int) -> dict:
    objectives = {f"beta {weight:g}": partial(vae.elbo, beta=weight) for weight in BETAS}
    judge, found = make_judge(mnist, seed), {}
    for name, objective in {**objectives, "mean over pixels": mean_over_pixels}.items():
        model = map_model(mnist, seed)
        vae.fit(model, mnist.train_images[:SHORT_IMAGES], seed=seed, objective=objective, **SHORT)
        found[name] = figures(model, test) | judged(judge, samples(model))
    return found


def dims(mnist, test, seed: int) -> dict:
    found = {}
    for latent_dim in DIMS:
        torch.manual_seed(seed)
        model = vae.mlp_vae(latent_dim, (400,))
        vae.fit(model, mnist.train_images[:SHORT_IMAGES], seed=seed, **SHORT)
        found[f"{latent_dim} numbers"] = figures(model, test)
    return found


def large(mnist, test, seed: int, bfloat16: bool) -> dict:
    train = vae.binarize(mnist.train_images, generator=torch.Generator().manual_seed(1))
    known = train[:10_000]
    labels = mnist.train_labels[: len(known)], mnist.test_labels
    found = {}
    learned = partial(vae.FlowPrior, couplings=4, hidden_dim=64)
    for name, make_prior in {"standard prior": SampledNormal, "learned prior": learned}.items():
        torch.manual_seed(seed)
        model = vae.conv_vae(32, channels=16, prior=make_prior(32))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            vae.fit(model, mnist.train_images, seed=seed, **LARGE)
        q_known, q_test = vae.encode_dataset(model, known), vae.encode_dataset(model, test)
        cost = -vae.estimate_log_likelihood(model, test[:1000], num_samples=64).mean().item()
        found[name] = {**vae.evaluate(model, test), "cost_of_1000": cost, "active": int(vae.active_units(q_test).sum())}
        found[f"codes, {name}"] = classify(q_known.mu, q_test.mu, *labels)
    pca = PCA(32, random_state=seed).fit(train[:SHORT_IMAGES].numpy())
    found["32 principal components"] = classify(pca.transform(known), pca.transform(test), *labels)
    found["784 pixels"] = classify(known, test, *labels)
    return found


def classify(known, unknown, labels, test_labels) -> dict[str, float]:
    """Right answers in per cent, of 15 nearest neighbours and of a linear classifier."""
    scores = {"neighbours": KNeighborsClassifier(15), "linear": LogisticRegression(max_iter=2000)}
    return {name: 100 * model.fit(known, labels).score(unknown, test_labels) for name, model in scores.items()}


# one figure and two models: the first one's figure less the second one's is shown
COMPARISONS = [
    ("spread", "both", "price alone"), ("spread", "price alone, 4 epochs", "price alone"),
    ("sigma", "both", "sigma alone"), ("spread", "sigma alone", "both"), ("spread", "neither", "both"),
    ("sure", "both", "neither"), ("sure", "both", "sigma alone"), ("sure", "both", "price alone"),
    ("told", "both", "neither"), ("told", "both", "sigma alone"), ("told", "both", "price alone"),
    ("told", "beta 1", "beta 0"), ("told", "beta 1", "beta 4"), ("told", "beta 4", "beta 12"),
    ("told", "beta 12", "beta 40"), ("sure", "beta 1", "beta 0"), ("sure", "beta 1", "beta 4"),
    ("kl", "mean over pixels", "beta 1"), ("elbo", "mean over pixels", "beta 1"),
    ("kl", "beta 0", "beta 0.25"), ("kl", "beta 0.25", "beta 1"), ("kl", "beta 1", "beta 4"),
    ("kl", "beta 4", "beta 12"), ("kl", "beta 12", "beta 40"), ("spread", "beta 0", "beta 1"),
    ("log_likelihood", "beta 0", "beta 1"), ("log_likelihood", "beta 0.25", "beta 1"),
    ("log_likelihood", "beta 1", "beta 4"), ("log_likelihood", "beta 4", "beta 12"),
    ("log_likelihood", "beta 12", "beta 40"), ("elbo", "beta 1", "beta 0"), ("elbo", "beta 1", "beta 0.25"),
    ("elbo", "beta 1", "beta 4"), ("elbo", "beta 1", "beta 40"),
    ("elbo", "5 numbers", "2 numbers"), ("elbo", "10 numbers", "5 numbers"), ("elbo", "20 numbers", "10 numbers"),
    ("elbo", "learned prior", "standard prior"), ("cost_of_1000", "learned prior", "standard prior"),
    ("active", "learned prior", "standard prior"),
    ("neighbours", "codes, standard prior", "32 principal components"),
    ("linear", "codes, standard prior", "32 principal components"),
    ("neighbours", "codes, learned prior", "32 principal components"),
    ("linear", "codes, learned prior", "32 principal components"),
    ("linear", "codes, learned prior", "codes, standard prior"),
    ("linear", "codes, standard prior", "784 pixels"), ("neighbours", "codes, standard prior", "784 pixels"),
]  # fmt: skip


def run(options) -> dict:
    """The figures of every model, for each seed; written after every seed, so that little is lost."""
    mnist, bfloat16 = vae.load_mnist(ROOT / "data"), vae.bfloat16_is_faster("cpu")
    mnist = mnist._replace(train_images=mnist.train_images[: options.train_images])
    experiments = {"changes": changes, "beta": beta, "dims": dims, "large": partial(large, bfloat16=bfloat16)}
    runs, test = {}, binarized_once(mnist.test_images)
    for seed in options.seeds:
        runs[seed] = {}
        for name in options.only:
            runs[seed] |= experiments[name](mnist, test, seed)
        print(f"seed {seed} done", flush=True)
        if options.json:
            report = {"split": "test", "short": SHORT, "large": LARGE, "bfloat16": bfloat16, **machine(), "runs": runs}
            write_json(options.json, report)
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    parser.add_argument("--train-images", type=int, default=60_000, help="train only on the first so many")
    parser.add_argument("--load", type=Path, help="compare the figures in this file of an earlier run")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    runs = json.loads(options.load.read_text(encoding="utf-8"))["runs"] if options.load else run(options)
    for figure, first, second in COMPARISONS:
        if all({first, second} <= found.keys() for found in runs.values()):
            gaps = [found[first][figure] - found[second][figure] for found in runs.values()]
            agree = len({gap > 0 for gap in gaps}) == 1
            shown = ", ".join(f"{gap:+.2f}" for gap in gaps)
            print(f"{figure:15} {first:22} - {second:24} {shown:36} {'yes' if agree else 'no: a seed reverses it'}")


if __name__ == "__main__":
    main()
