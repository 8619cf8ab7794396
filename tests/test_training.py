"""Training: it learns, it repeats itself to the bit, it uses every image, and it stops when it must."""

import copy
import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from vae_utils import elbo, evaluate, fit, mlp_vae, train_step, warmup_cosine

IMAGES = torch.rand(10, 784, generator=torch.Generator().manual_seed(0))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small_model(seed=0):
    torch.manual_seed(seed)
    return mlp_vae(2, (16,))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def bound_by_hand(model, x, draws, *, beta=1.0, num_samples=1):
    """What is climbed, log likelihood and KL of each image, by torch.distributions."""
    mu, logvar = model.encoder(x)
    q, prior = Normal(mu, torch.exp(logvar / 2)), Normal(0.0, 1.0)
    z = mu + q.stddev * torch.randn(num_samples, *mu.shape, generator=draws, dtype=mu.dtype)
    log_likelihood = Bernoulli(logits=model.decoder(z), validate_args=False).log_prob(x).sum(-1)  # (K, B)
    kl = kl_divergence(q, prior).sum(-1)
    log_weights = log_likelihood + (prior.log_prob(z) - q.log_prob(z)).sum(-1)
    value = log_weights.exp().mean(0).log() if num_samples > 1 else log_likelihood[0] - beta * kl
    return value, log_likelihood.mean(0), kl


@pytest.mark.parametrize("objective", [{}, {"beta": 3.0}, {"num_samples": 2}], ids=["elbo", "beta", "samples"])
def test_a_train_step_is_forward_backward_and_one_step_of_the_optimizer(objective):
    model, x = small_model().double(), IMAGES.double()
    expected = copy.deepcopy(model)
    optimizer, by_hand = (torch.optim.SGD(m.parameters(), lr=1e-3, momentum=0.9) for m in (model, expected))
    for seed in range(3):  # the gradients of one step must not be in the next
        bound = train_step(model, x, optimizer, **objective, generator=generator(seed))
        terms = bound_by_hand(expected, x, generator(seed), **objective)
        by_hand.zero_grad()
        (-terms[0].mean()).backward()
        by_hand.step()
        torch.testing.assert_close(tuple(bound), tuple(term.detach() for term in terms))
        assert not any(term.requires_grad for term in bound)
    torch.testing.assert_close(weights(model), weights(expected))


@pytest.mark.parametrize(("bias", "loss"), [(math.nan, "nan"), (3e38, "inf")])  # 784 times 3e38 is infinite in float32
def test_a_loss_that_is_not_finite_leaves_weights_and_optimizer_as_they_were(bias, loss):
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    train_step(model, IMAGES, optimizer)  # so that the optimizer has a memory
    model.decoder.logits.bias.data.fill_(bias)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    with pytest.raises(FloatingPointError, match=f"loss is {loss}"):
        train_step(model, IMAGES, optimizer)
    after = model.state_dict(), optimizer.state_dict()
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)


def fit_by_hand(model, images, *, epochs, batch_size=128, learning_rate=2e-3, binarized=False, seed=0, **objective):
    """`fit` with AdamW written out ([5], algorithm 2). Returns log likelihood and KL of each epoch."""
    draws, steps, step, rows = generator(seed), epochs * math.ceil(len(images) / batch_size), 0, []
    memory = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()]
    for _ in range(epochs):
        sums = torch.zeros(2, dtype=torch.float64)
        for chosen in torch.randperm(len(images), generator=draws).split(batch_size):
            x = torch.bernoulli(images[chosen], generator=draws) if binarized else images[chosen]
            value, *terms = bound_by_hand(model, x, draws, **objective)
            sums += torch.stack(terms).detach().sum(1)
            rate = learning_rate * min(1, (step + 1) / (0.02 * steps + 1)) * math.cos(math.pi * step / (2 * steps)) ** 2
            step += 1
            gradients = torch.autograd.grad(-value.mean(), list(model.parameters()))
            for (p, m, v), g in zip(memory, gradients, strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.99).add_(0.01 * g**2)
                p.data -= rate * (m / (1 - 0.9**step) / ((v / (1 - 0.99**step)).sqrt() + 1e-8) + 0.01 * p.data)
        rows.append((sums / len(images)).tolist())
    return rows


@pytest.mark.parametrize("settings", [
    {},
    {"batch_size": 40, "learning_rate": 1e-3, "binarized": True, "seed": 7, "beta": 3.0},
    {"batch_size": 50, "num_samples": 5},
], ids=["as documented", "binarized", "samples"])  # fmt: skip
def test_fit_is_adamw_written_by_hand(settings):
    """Weights and history after 20 epochs in double precision; their last batch is smaller than the others."""
    model, images = small_model().double(), torch.rand(130, 784, generator=generator(), dtype=torch.float64)
    expected, before = copy.deepcopy((model, images))
    history = fit(model, images, epochs=20, progress=False, **settings)
    rows = fit_by_hand(expected, images, epochs=20, **settings)
    torch.testing.assert_close(weights(model), weights(expected), rtol=1e-6, atol=1e-9)
    for row, (log_likelihood, kl) in zip(history, rows, strict=True):
        assert (row["log_likelihood"], row["kl"]) == pytest.approx((log_likelihood, kl), rel=1e-5)
        assert row["elbo"] == row["log_likelihood"] - row["kl"]  # with beta = 1
    assert torch.equal(images, before)


def test_the_learning_rate_climbs_for_a_fiftieth_of_the_steps_and_then_falls_to_zero():
    factors = [warmup_cosine(step, 1000) for step in range(1001)]
    assert factors[:20] == pytest.approx([(step + 1) / 21 for step in range(20)], rel=1e-3)
    assert factors[20:] == pytest.approx([math.cos(math.pi * step / 2000) ** 2 for step in range(20, 1001)])
    assert warmup_cosine(0, 1000, warmup=0.0) == 1


def test_fit_overfits_eight_images():
    torch.manual_seed(0)
    model = mlp_vae(2, (64, 64))
    images = (torch.rand(8, 784) < 0.3).float()
    history = fit(model, images, epochs=400, batch_size=8, learning_rate=3e-3, progress=False)
    assert history[0]["elbo"] < -500  # the start: log 2 for each of the 784 pixels
    assert history[-1]["elbo"] > -30  # eight images learnt by heart; telling them apart costs log 8 and more
    assert ((model.reconstruct(images) > 0.5) == (images > 0.5)).float().mean() > 0.99


def test_history_has_a_row_an_epoch_and_held_out_figures_when_asked():
    model = small_model()
    history = fit(model, IMAGES[:7], epochs=3, batch_size=4, valid_images=IMAGES[7:], seed=5, progress=False)
    keys = ["epoch", "elbo", "log_likelihood", "kl"]
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert list(history[0]) == keys + [f"valid_{key}" for key in keys[1:]]
    held_out = {f"valid_{key}": value for key, value in evaluate(model, IMAGES[7:], seed=5).items()}
    assert held_out.items() <= history[-1].items()
    assert list(fit(model, IMAGES, epochs=1, progress=False)[0]) == keys


def test_bfloat16_rounds_the_layers_and_keeps_weights_and_bounds_in_float32():
    dtypes, rows = [], []
    for bfloat16 in (False, True):
        model = small_model()
        model.decoder.register_forward_hook(
            lambda module, inputs, output: dtypes.append((inputs[0].dtype, output.dtype))
        )
        rows += fit(model, IMAGES, epochs=1, bfloat16=bfloat16, progress=False)
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
    assert dtypes == [(torch.float32, torch.float32), (torch.float32, torch.bfloat16)]
    assert rows[0] != rows[1] and rows[0]["elbo"] == pytest.approx(rows[1]["elbo"], rel=1e-2)  # 8 bits of precision


def test_a_fault_in_a_later_batch_keeps_the_finished_rows_and_the_weights_before_it():
    model, before = small_model(), []

    def poison(module, inputs, output):
        before.append(weights(model))
        return output * (math.inf if len(before) == 5 else 1)

    model.decoder.register_forward_hook(poison)
    with pytest.raises(FloatingPointError) as caught:
        fit(model, IMAGES, epochs=2, batch_size=4, progress=False)
    assert [row["epoch"] for row in caught.value.history] == [1] and len(before) == 5
    assert torch.equal(weights(model), before[-1]) and not torch.equal(before[-2], before[-1])


def test_the_callback_gets_each_row_in_evaluation_mode_and_training_goes_on_in_training_mode():
    model, rows, inside, outside = small_model().eval(), [], [], []

    def modes():
        return {module.training for module in model.modules()} | {torch.is_grad_enabled()}

    def callback(row):
        rows.append(dict(row))
        inside.append(modes())

    model.decoder.logits.register_forward_pre_hook(lambda *args: outside.append(modes()))
    history = fit(model, IMAGES, epochs=3, batch_size=5, callback=callback, progress=False)
    assert rows == history and inside == [{False}] * 3 and outside == [{True}] * 6 and modes() == {True}


def test_a_callback_changes_no_bit_of_the_result():
    model, alone = small_model(), small_model()

    def callback(row):
        torch.manual_seed(3)
        evaluate(model, model.sample(5))
        with torch.enable_grad():
            elbo(model, IMAGES).value.mean().backward()

    settings = {"epochs": 3, "batch_size": 4, "binarized": True, "valid_images": IMAGES, "progress": False}
    assert fit(model, IMAGES, callback=callback, **settings) == fit(alone, IMAGES, **settings)
    assert torch.equal(weights(model), weights(alone))


def test_progress_counts_the_batches_on_stderr_unless_it_is_turned_off(tmp_path, capsys):
    settings = {"epochs": 2, "batch_size": 4, "checkpoint": tmp_path / "run"}

    def stop(row):
        raise KeyboardInterrupt

    fit(small_model(), IMAGES, callback=stop, **settings)
    assert "0/6" in capsys.readouterr().err
    history = fit(small_model(), IMAGES, **settings)  # goes on with the second epoch
    shown = capsys.readouterr().err
    assert "3/6" in shown and "6/6" in shown and "0/6" not in shown and f"{history[-1]['elbo']:.2f}" in shown
    fit(small_model(), IMAGES, epochs=1, progress=False)
    assert not capsys.readouterr().err
