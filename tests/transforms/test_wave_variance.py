"""The wave variance: repaired it follows the squared gradient, published it runs away from it."""

import torch

from gradchain.optim_wrapper.layouts import WHOLE
from gradchain.transforms import PublishedWaveVariance, WaveVariance
from gradchain.types import Carry, Context


def variance(link, gradients):
    """The second moment after each gradient, for one element."""
    x = torch.zeros(1, dtype=torch.float64)
    state, found = link.init(x), []
    for t, g in enumerate(gradients, start=1):
        step = torch.tensor(float(t), dtype=torch.float64)
        flow = Carry(grad=x + g, param=x, update=x + g)
        out, state = link.update(flow, state, Context(step=step, lr=step, shared=None, layout=WHOLE))
        found.append(out.second_moment.item())
    return found


def test_three_steps_by_hand():
    found = variance(WaveVariance(wave_dt=1.0, wave_kappa=0.5, wave_damping=0.5), [1.0, 2.0, 2.0])
    second = 1 + 0.5 * (4 - 1)
    third = second + 0.5 * (second - 1) + 0.5 * (4 - second)
    torch.testing.assert_close(torch.tensor(found), torch.tensor([1.0, second, third]))


def test_it_relaxes_to_a_constant_squared_gradient():
    found = variance(WaveVariance(wave_dt=0.5, wave_kappa=0.5), [1.0] + [2.0] * 400)
    assert abs(found[-1] - 4.0) < 1e-6 and min(found) >= 0


def test_the_published_sign_drives_it_to_the_floor():
    found = variance(PublishedWaveVariance(), [1.0] + [2.0] * 500)
    assert 0.3 < found[100] < 0.5 and found[-1] == 1e-8
