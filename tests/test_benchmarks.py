"""The trainings of benchmarks/likelihood_gpu.py, whose figures the README quotes, against `fit`, on a CPU."""

import copy
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from oracles import generator, small_model

from vae_utils import FlowPrior, elbo, fit, iwae

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import ladder
import likelihood
import likelihood_gpu

IMAGES = torch.rand(10, 784, generator=generator())


def assert_same_weights(model, other):
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("objective", [elbo, partial(iwae, num_samples=2)], ids=["elbo", "iwae"])
def test_a_phase_takes_the_steps_of_fit(objective):
    """Two epochs of batches of 4, 4 and 2: from the same seed the same weights, bit for bit."""
    model = small_model(prior=FlowPrior(2, couplings=2, hidden_dim=8))
    other = copy.deepcopy(model)
    settings = {"epochs": 2, "seed": 3, "batch_size": 4, "learning_rate": 1e-2, "objective": objective}
    history = fit(model, IMAGES, binarized=True, progress=False, **settings)
    sums = [totals.clone() for totals in likelihood_gpu.train_phase(other, IMAGES, **settings)]
    assert_same_weights(model, other)
    epochs = [[row["log_likelihood"], row["kl"]] for row in history]
    assert len(sums) == 6
    torch.testing.assert_close(torch.stack(sums[2::3]) / 10, torch.tensor(epochs))


def test_runs_side_by_side_are_those_of_likelihood():
    """Two models in turn, one of them with two phases; the first one is done earlier."""
    settings = {"batch_size": 6, "bfloat16": False}
    lengths = {"learned": [1], "standard": [2, 1]}
    runs = [likelihood_gpu.Run(name, epochs, IMAGES, seed=1, **settings) for name, epochs in lengths.items()]
    likelihood_gpu.train(runs)
    for run in runs:
        model = likelihood.make_model(run.name, IMAGES, seed=1)
        history = likelihood.train(model, IMAGES, run.name, run.epochs, seed=1, **settings)
        assert_same_weights(model, run.model)
        log_likelihood, kl = (run.totals / len(IMAGES)).tolist()
        assert log_likelihood - kl == pytest.approx(history[-1]["elbo"])


@pytest.mark.parametrize(("rung", "name"), [(ladder.SAMPLED, "standard"), (ladder.PRIOR, "learned")])
def test_the_last_rungs_of_the_ladder_take_the_steps_of_fit(rung, name):
    """Two epochs, from the same seed the same weights, bit for bit; below them the usual loop trains otherwise."""
    run = ladder.Run(rung, IMAGES, seed=1)
    for number in range(2):
        run.epoch(number, 2)
    model = likelihood.make_model(name, IMAGES, seed=1)
    likelihood.train(model, IMAGES, name, [2], seed=1, bfloat16=run.bfloat16)
    assert_same_weights(run.model, model)
