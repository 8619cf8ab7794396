"""Training: it learns, it repeats itself to the bit, it uses every image, and it stops when it must."""

import copy
import math

import pytest
import torch

import vae_utils
from vae_utils import evaluate, fit, kl_divergence, log_importance_weights, mlp_vae


@pytest.fixture
def images():
    return torch.rand(10, 784, generator=torch.Generator().manual_seed(0))


def small_model(seed=0):
    torch.manual_seed(seed)
    return mlp_vae(2, (16,))


def spy(model):
    """Record every batch that the encoder sees."""
    batches = []
    model.encoder.register_forward_pre_hook(lambda module, inputs: batches.append(inputs[0].clone()))
    return batches


def test_fit_overfits_eight_images():
    torch.manual_seed(0)
    model = mlp_vae(2, (64, 64))
    images = (torch.rand(8, 784) < 0.3).float()
    history = fit(model, images, epochs=400, batch_size=8, learning_rate=3e-3, progress=False)
    assert history[0]["elbo"] < -500  # the start: log 2 for each of the 784 pixels
    assert history[-1]["elbo"] > -30  # eight images learnt by heart; telling them apart costs log 8 and more
    assert ((model.reconstruct(images) > 0.5) == (images > 0.5)).float().mean() > 0.99


def test_the_same_seed_gives_the_same_history_and_weights(images):
    runs = []
    for seed in (1, 1, 2):
        model = small_model()
        torch.manual_seed(len(runs))  # what others drew before must not matter
        history = fit(
            model, images, epochs=3, batch_size=4, binarized=True, valid_images=images, seed=seed, progress=False
        )
        runs.append((history, torch.cat([p.flatten() for p in model.parameters()])))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0] and not torch.equal(runs[0][1], runs[2][1])


def test_history_has_a_row_an_epoch_and_held_out_figures_when_asked(images):
    model = small_model()
    history = fit(model, images[:7], epochs=3, batch_size=4, valid_images=images[7:], seed=5, progress=False)
    keys = ["epoch", "elbo", "log_likelihood", "kl", "valid_elbo", "valid_log_likelihood", "valid_kl"]
    assert [row["epoch"] for row in history] == [1, 2, 3] and list(history[0]) == keys
    for key, value in evaluate(model, images[7:], seed=5).items():
        assert history[-1][f"valid_{key}"] == value
    assert list(fit(model, images, epochs=1, progress=False)[0]) == keys[:4]


def test_every_image_is_seen_once_an_epoch_in_a_new_order(images):
    model = small_model()
    batches = spy(model)
    fit(model, images, epochs=2, batch_size=4, progress=False)
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    first, second = torch.cat(batches[:3]), torch.cat(batches[3:])
    assert not torch.equal(first, second)
    for seen in (first, second):
        assert torch.equal(seen[seen[:, 0].argsort()], images[images[:, 0].argsort()])


def test_history_weighs_by_images_not_by_batches(images):
    """Nothing is learnt at a rate of 0, so the KL, which has no noise, is the mean over all ten images."""
    model = small_model()
    row = fit(model, images, epochs=1, batch_size=4, learning_rate=0.0, progress=False)[0]
    assert row["kl"] == pytest.approx(kl_divergence(*model.encode(images)).mean().item(), rel=1e-5)
    assert row["elbo"] == pytest.approx(row["log_likelihood"] - row["kl"])


def test_binarized_draws_anew_in_every_batch(images):
    model = small_model()
    batches = spy(model)
    before = images.clone()
    fit(model, images[:1], epochs=400, batch_size=1, learning_rate=0.0, binarized=True, progress=False)
    seen = torch.cat(batches)
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(images, before)
    # Each pixel's mean over 400 draws is its grey level, to five standard errors of the coin that it is.
    assert ((seen.mean(0) - images[0]).abs() < 5 * 0.5 / math.sqrt(400)).all()


def test_beta_presses_the_kl_down(images):
    final = {}
    for beta in (0.0, 100.0):
        model = small_model()
        final[beta] = fit(model, images, epochs=60, batch_size=10, learning_rate=1e-2, beta=beta, progress=False)[-1]
    assert final[100.0]["kl"] < 0.1 < 1 < final[0.0]["kl"]
    assert final[0.0]["log_likelihood"] > final[100.0]["log_likelihood"]
    assert final[100.0]["elbo"] == pytest.approx(final[100.0]["log_likelihood"] - final[100.0]["kl"])  # beta = 1 here


def test_the_learning_rate_climbs_and_then_falls_to_zero(images, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda self, *a, **k: (rates.append(self.param_groups[0]["lr"]), step(self, *a, **k))[1],
    )
    fit(small_model(), images, epochs=50, batch_size=5, learning_rate=1e-3, progress=False)  # 100 steps
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[:2] == pytest.approx([1e-3 / 3, 2e-3 / 3], rel=0.01)  # 2 of the steps climb, and one more
    assert 1 <= top <= 5 and max(rates) == pytest.approx(1e-3, rel=0.01) and rates[-1] < 1e-6


def test_a_loss_that_is_not_finite_stops_it_and_spares_the_weights(images):
    model = small_model()
    with torch.no_grad():
        model.decoder.logits.bias[3] = float("nan")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FloatingPointError, match=r"nan in epoch 1, batch 1 of 3.*learning_rate"):
        fit(model, images, epochs=2, batch_size=4, progress=False)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True, rtol=0, atol=0)


def test_an_infinite_loss_stops_it_too(images):
    model = small_model()
    with torch.no_grad():
        model.decoder.logits.bias.fill_(3e38)  # finite, and so is the price of each pixel, but not their sum
    with pytest.raises(FloatingPointError, match="inf in epoch 1, batch 1"):
        fit(model, images, epochs=1, progress=False)


def test_a_fault_in_a_later_batch_is_named_by_its_epoch_and_batch(images):
    model = small_model()
    seen = []

    def poison(module, inputs, output):
        seen.append(1)
        return output * (math.inf if len(seen) == 5 else 1)

    model.decoder.register_forward_hook(poison)
    with pytest.raises(FloatingPointError, match="epoch 2, batch 2 of 3"):
        fit(model, images, epochs=2, batch_size=4, progress=False)
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("setting", "words"), [({"epochs": 0}, "epochs"), ({"epochs": 1, "batch_size": 0}, "batch_size")]
)
def test_settings_out_of_range_are_refused(images, setting, words):
    with pytest.raises(ValueError, match=f"{words}.*0"):
        fit(small_model(), images, **setting, progress=False)


def test_images_out_of_range_are_refused_before_training(images):
    with pytest.raises(ValueError, match="from 0 to 1"):
        fit(small_model(), images * 255, epochs=1, progress=False)


def test_progress_shows_the_running_elbo(images, capsys):
    history = fit(small_model(), images, epochs=2, batch_size=4)
    shown = capsys.readouterr().err
    assert "6/6" in shown and "batch/s" in shown and f"epoch 2/2, ELBO {history[-1]['elbo']:.2f}" in shown
    fit(small_model(), images, epochs=1, progress=False)
    assert not capsys.readouterr().err


def test_the_optimiser_is_told_what_the_documentation_says(images, monkeypatch):
    told = {}
    make = torch.optim.AdamW.__init__
    monkeypatch.setattr(torch.optim.AdamW, "__init__", lambda self, *a, **k: (told.update(k), make(self, *a, **k))[1])
    fit(small_model(), images, epochs=1, learning_rate=1e-3, progress=False)
    assert told == {"lr": 1e-3, "betas": (0.9, 0.99), "fused": True}  # the CPU has the fused kernel


def test_the_bar_is_told_the_running_elbo_every_50_batches_and_at_the_end(monkeypatch):
    told = []
    monkeypatch.setattr(vae_utils.tqdm, "set_postfix_str", lambda self, text, **k: told.append((self.n, text[:11], k)))
    fit(small_model(), torch.zeros(110, 784), epochs=1, batch_size=1)
    assert told == [(n, "epoch 1/1, ", {"refresh": False}) for n in (50, 100, 110)]


def test_settings_that_are_not_given_are_those_of_the_documentation():
    images = torch.rand(130, 784, generator=torch.Generator().manual_seed(0))  # more than one batch of 128
    expected = {"batch_size": 128, "learning_rate": 2e-3, "beta": 1.0, "num_samples": 1, "seed": 0}
    expected |= {"binarized": False, "bfloat16": False, "valid_images": None, "checkpoint": None}
    silent = {"epochs": 2, "progress": False}
    assert fit(small_model(), images, **silent) == fit(small_model(), images, **expected, **silent)


def test_more_samples_train_on_the_importance_weighted_bound(images, monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *args: None)  # leaves the gradients of the batch
    model = small_model()
    fit(model, images, epochs=1, batch_size=10, num_samples=5, progress=False)
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    draws = torch.Generator().manual_seed(0)  # the seed of fit, which draws the order and then the noise
    batch = images[torch.randperm(10, generator=draws)]
    log_weights = log_importance_weights(model, batch, 5, generator=draws)
    (math.log(5) - torch.logsumexp(log_weights, dim=0)).mean().backward()
    torch.testing.assert_close(found, [p.grad for p in model.parameters()])


def test_history_of_more_samples_still_holds_the_elbo(images):
    model = small_model()
    row = fit(model, images, epochs=1, batch_size=4, learning_rate=0.0, num_samples=50, progress=False)[0]
    assert row["kl"] == pytest.approx(kl_divergence(*model.encode(images)).mean().item(), rel=1e-5)
    elbos = torch.tensor([evaluate(model, images, seed=seed)["elbo"] for seed in range(50)])
    assert abs(row["elbo"] - elbos.mean()) < 5 * 2**0.5 * elbos.std() / 50**0.5  # both are means of 50 draws an image
    assert row["elbo"] == pytest.approx(row["log_likelihood"] - row["kl"])


def test_bfloat16_rounds_the_layers_and_keeps_weights_and_bounds_in_float32(images):
    dtypes = []
    rows = {}
    for bfloat16 in (False, True):
        model = small_model()
        model.decoder.register_forward_hook(
            lambda module, inputs, output: dtypes.append((inputs[0].dtype, output.dtype))
        )
        rows[bfloat16] = fit(model, images, epochs=1, bfloat16=bfloat16, progress=False)[0]
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
    assert dtypes == [(torch.float32, torch.float32), (torch.float32, torch.bfloat16)]
    assert rows[True] != rows[False]
    assert rows[True]["elbo"] == pytest.approx(rows[False]["elbo"], rel=1e-2)  # 8 bits of precision a number


def test_beta_and_more_samples_exclude_each_other(images):
    with pytest.raises(ValueError, match="num_samples=2 it must be 1, not 4"):
        fit(small_model(), images, epochs=1, beta=4, num_samples=2)
