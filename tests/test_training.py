"""Training: it learns, it repeats itself to the bit, it uses every image, it stops when it must, it keeps no memory."""

import copy
import gc
import math
from functools import partial

import pytest
import torch
from oracles import generator, small_model
from torch.distributions import Bernoulli, Normal, kl_divergence

from vae_utils import Bound, FlowPrior, elbo, evaluate, fit, iwae, mlp_vae

IMAGES = torch.rand(10, 784, generator=generator())


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def bound_by_hand(model, x, draws, num_samples):
    """log p(x|z), KL and log importance weights by torch.distributions: (K, B), (B,), (K, B)."""
    mu, raw = model.encoder(x).chunk(2, dim=-1)
    q, standard = Normal(mu, torch.exp(4 * torch.tanh(raw / 8) - 2)), Normal(0.0, 1.0)
    z = mu + q.stddev * torch.randn(num_samples, *mu.shape, generator=draws, dtype=mu.dtype)
    log_likelihood = Bernoulli(logits=model.decoder(z), validate_args=False).log_prob(x).sum(-1)
    learned = isinstance(model.prior, FlowPrior)
    log_prior = model.prior.log_prob(z) if learned else standard.log_prob(z).sum(-1)
    log_ratio = q.log_prob(z).sum(-1) - log_prior
    kl = log_ratio.mean(0) if num_samples > 1 else kl_divergence(q, standard).sum(-1)
    if learned and num_samples == 1:  # the estimate whose gradient flows through z alone
        kl = (Normal(mu.detach(), q.stddev.detach()).log_prob(z).sum(-1) - log_prior)[0]
    return log_likelihood, kl, log_likelihood - log_ratio


def fit_by_hand(model, images, value, *, epochs, batch_size=128, learning_rate=2e-3, binarized=False, seed=0, K=1):
    """`fit` with AdamW written out ([5], algorithm 2). Returns log likelihood and KL of each epoch."""
    draws, steps, step, rows = generator(seed), epochs * math.ceil(len(images) / batch_size), 0, []
    memory = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()]
    for _ in range(epochs):
        sums = torch.zeros(2, dtype=torch.float64)
        for chosen in torch.randperm(len(images), generator=draws).split(batch_size):
            x = torch.bernoulli(images[chosen], generator=draws) if binarized else images[chosen]
            log_likelihood, kl, log_weights = bound_by_hand(model, x, draws, K)
            sums += torch.stack([log_likelihood.mean(0).sum(), kl.sum()]).detach()
            rate = learning_rate * min(1, (step + 1) / (0.02 * steps + 1)) * math.cos(math.pi * step / (2 * steps)) ** 2
            step += 1
            loss = -value(log_likelihood, kl, log_weights).mean()
            for (p, m, v), g in zip(memory, torch.autograd.grad(loss, list(model.parameters())), strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.99).add_(0.01 * g**2)
                p.data -= rate * (m / (1 - 0.9**step) / ((v / (1 - 0.99**step)).sqrt() + 1e-8) + 0.01 * p.data)
        rows.append((sums / len(images)).tolist())
    return rows


def free_bits(model, x, *, generator):
    """An objective of a reader's own: a KL below 3 nats costs 3 nats."""
    bound = elbo(model, x, generator=generator)
    return Bound(bound.log_likelihood - bound.kl.clamp(min=3.0), bound.log_likelihood, bound.kl)


# What is maximised: by the module, by hand, and with which settings.
OBJECTIVES = {
    "elbo": (elbo, lambda log_likelihood, kl, log_weights: log_likelihood[0] - kl, {}),
    "beta": (partial(elbo, beta=3.0), lambda log_likelihood, kl, log_weights: log_likelihood[0] - 3 * kl,
             {"batch_size": 40, "learning_rate": 1e-3, "binarized": True, "seed": 7}),
    "samples": (partial(iwae, num_samples=5), lambda log_likelihood, kl, log_weights: log_weights.exp().mean(0).log(),
                {"batch_size": 50}),
    "own": (free_bits, lambda log_likelihood, kl, log_weights: log_likelihood[0] - kl.clamp(min=3.0), {}),
}  # fmt: skip


@pytest.mark.parametrize("prior", [None, FlowPrior])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_fit_is_adamw_written_by_hand(name, prior):
    """Weights and history after 20 epochs in double precision; their last batch is smaller than the others."""
    objective, value, settings = OBJECTIVES[name]
    model = small_model(prior=prior and prior(2, couplings=3, hidden_dim=8)).double()
    images = 0.3 * torch.rand(130, 784, generator=generator(), dtype=torch.float64)  # as much ink as MNIST has
    expected, before = copy.deepcopy((model, images))
    history = fit(model, images, epochs=20, objective=objective, progress=False, **settings)
    rows = fit_by_hand(expected, images, value, epochs=20, K=5 if name == "samples" else 1, **settings)
    torch.testing.assert_close(weights(model), weights(expected), rtol=1e-6, atol=1e-9)
    for row, (log_likelihood, kl) in zip(history, rows, strict=True):
        assert (row["log_likelihood"], row["kl"]) == pytest.approx((log_likelihood, kl), rel=1e-5)
        assert row["elbo"] == row["log_likelihood"] - row["kl"]  # whatever the objective makes of them
    assert torch.equal(images, before)
    assert prior is None or model.prior.networks[0][0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("bfloat16", [False, True])
def test_eight_images_are_learnt_by_heart_also_in_an_autocast(bfloat16):
    """There the layers compute in bfloat16; weights, gradients and held-out figures stay in float32."""
    torch.manual_seed(0)
    model, dtypes = mlp_vae(2, (64, 64)), set()
    images = (torch.rand(8, 784) < 0.3).float()
    model.decoder.register_forward_hook(lambda module, _, output: dtypes.add((module.training, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        history = fit(model, images, epochs=400, learning_rate=3e-3, valid_images=images, progress=False)
    assert dtypes == {(True, torch.bfloat16 if bfloat16 else torch.float32), (False, torch.float32)}
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
    assert history[0]["elbo"] < -300  # at the start every pixel has a chance of 0.13
    assert history[-1]["elbo"] > -30  # telling eight images apart costs log 8 and more
    assert evaluate(model, images)["elbo"] == history[-1]["valid_elbo"] > -30
    keys = ["elbo", "log_likelihood", "kl"]
    assert list(history[0]) == ["epoch", *keys, *(f"valid_{key}" for key in keys)] and history[-1]["epoch"] == 400
    assert ((model.reconstruct(images) > 0.5) == (images > 0.5)).float().mean() > 0.99


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_leaves_weights_and_finished_rows_as_they_were(factor):
    model, before = small_model(), []

    def objective(model, x, *, generator):
        """The second of three batches of the second epoch has one bad image."""
        before.append(weights(model))
        bound = elbo(model, x, generator=generator)
        bad = torch.tensor([factor if len(before) == 5 else 1.0, 1, 1, 1])
        return bound._replace(value=bound.value * bad[: len(x)])

    with pytest.raises(FloatingPointError, match=f"loss is {factor}.* weights unchanged") as caught:
        fit(model, IMAGES, epochs=2, batch_size=4, objective=objective, progress=False)
    assert [row["epoch"] for row in caught.value.history] == [1] and len(before) == 5
    assert torch.equal(weights(model), before[-1]) and not torch.equal(before[-2], before[-1])


@pytest.mark.parametrize(("wrong", "found"), [
    (lambda bound: -bound.value.mean(), "Tensor"),
    (lambda bound: Bound(*(term.mean() for term in bound)), r"\(\)"),
    (lambda bound: bound._replace(value=bound.value.mean(0, keepdim=True)), r"\(1,\)"),
    (lambda bound: bound._replace(log_likelihood=bound.log_likelihood[:, None]), r"\(4, 1\)"),
    (lambda bound: bound._replace(kl=None), r"\(\)"),
], ids=["loss", "means", "mean", "column", "no KL"])  # fmt: skip
def test_an_objective_that_returns_anything_but_a_number_for_each_image_is_refused_at_once(wrong, found):
    model = small_model()
    before = weights(model)
    with pytest.raises(ValueError, match=rf"objective must return a Bound .*\(4,\), not .*{found}"):
        objective = lambda model, x, generator: wrong(elbo(model, x, generator=generator))  # noqa: E731
        fit(model, IMAGES, epochs=1, batch_size=4, objective=objective, progress=False)
    assert torch.equal(weights(model), before)


class Rows(list):
    """A callback that is empty, and so false, when `fit` first sees it."""

    def __call__(self, row):
        self.append(row["epoch"])


def test_a_callback_that_is_false_is_called_too():
    rows = Rows()
    fit(small_model(), IMAGES, epochs=2, callback=rows, progress=False)
    assert rows == [1, 2]


def test_the_callback_gets_each_row_in_evaluation_mode_and_changes_no_bit_of_the_result():
    model, alone, rows, inside, outside = small_model().eval(), small_model(), [], [], []

    def modes():
        return {module.training for module in model.modules()} | {torch.is_grad_enabled()}

    def callback(row):
        inside.append(modes())
        rows.append(dict(row))
        row.clear()  # its own copy
        torch.manual_seed(3)
        evaluate(model, model.sample(5))
        with torch.enable_grad():
            elbo(model, IMAGES).value.mean().backward()

    model.decoder[-1].register_forward_pre_hook(lambda *args: outside.append(modes()))
    settings = {"epochs": 3, "batch_size": 4, "binarized": True, "valid_images": IMAGES, "progress": False}
    history = fit(model, IMAGES, callback=callback, **settings)
    assert inside == [{False}] * 3 and outside[:3] == [{True}] * 3 and modes() == {True}
    assert history == rows == fit(alone, IMAGES, **settings) and torch.equal(weights(model), weights(alone))


def test_progress_counts_the_batches_on_stderr_unless_it_is_turned_off(tmp_path, capsys):
    settings = {"epochs": 2, "batch_size": 4, "checkpoint": tmp_path / "run"}
    with pytest.raises(ZeroDivisionError) as caught:  # after the epoch is saved
        fit(small_model(), IMAGES, callback=lambda row: 1 / 0, **settings)
    assert len(caught.value.history) == 1
    assert "0/6" in capsys.readouterr().err
    history = fit(small_model(), IMAGES, **settings)  # goes on with the second epoch
    shown = capsys.readouterr().err
    assert "3/6" in shown and "6/6" in shown and "0/6" not in shown and f"{history[-1]['elbo']:.2f}" in shown
    fit(small_model(), IMAGES, epochs=1, progress=False)
    assert not capsys.readouterr().err


def live_objects():
    """How many objects are alive, and how many bytes their tensors hold: what a leak makes grow, on every system."""
    gc.collect()
    objects = gc.get_objects()
    tensors = [item for item in objects if type(item) in (torch.Tensor, torch.nn.Parameter)]
    return len(objects), sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("epochs", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_training_for_many_epochs_keeps_nothing_but_its_history(tmp_path, epochs):
    counts, model = {}, small_model(prior=FlowPrior(2, couplings=2))
    settings = {"binarized": True, "valid_images": IMAGES[:8], "checkpoint": tmp_path / "run", "progress": False}

    def count(row):
        if row["epoch"] in (5, epochs):
            counts[row["epoch"]] = live_objects()

    fit(model, IMAGES, epochs=epochs, callback=count, **settings)
    (objects, tensors), (objects_later, tensors_later) = counts.values()
    # A row an epoch is a dictionary; other parts of the process, such as a browser's driver, make a few objects too.
    assert tensors_later <= tensors and objects_later - objects < 10 * epochs + 50
