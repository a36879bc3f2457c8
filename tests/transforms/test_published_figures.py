"""Figures of the papers' and torch's own programs on closed-form inputs, recorded once: single links and whole rules."""

import pytest
import torch

from gradchain import chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.layouts import WHOLE
from gradchain.types import Carry, Context

K = torch.arange(24, dtype=torch.float64).reshape(4, 6)

# theta = cos(1 + k), g = 0.1 sin(1 + 3 (k + 1)), u = 0.1 sin(2 + k): the first and ninth element and the sum of squares
LINKS = [
    (t.Cautious(), "u", 0.0, 0.0, 0.321120734854),
    (t.Grams(), "u", -0.090929742683, 0.054402111089, 0.118428023136),
    (t.Centralize(), "g", -0.069651981570, 0.033570418225, 0.119711067170),
    (t.LaplacianSmoothing(sigma=1.0), "g", -0.033368803554, 0.005431648708, 0.006314236588),
    (t.AGC(clipping=0.01), "10 g", -0.010201255203, 0.004684750723, 0.001146664125),
    (t.AGR(), "g", -0.071963153867, 0.026614284737, 0.107551768055),
    (t.OrthogonalGradient(), "g", -0.072539268476, 0.021618111388, 0.120278563856),
    (t.SpeedLimit(speed_limit=0.2), "u", 0.045689873559, -0.027335671516, 0.029900776590),
    (t.ComponentSpeedLimit(speed_limit=0.05), "u", 0.043813106249, -0.036813385169, 0.032509594344),
]


@pytest.mark.parametrize(("link", "flows", "first", "ninth", "squares"), LINKS, ids=lambda x: getattr(x, "label", ""))
def test_one_application_of_a_link(link, flows, first, ninth, squares):
    param, grad, u = torch.cos(1 + K), 0.1 * torch.sin(1 + 3 * (K + 1)), 0.1 * torch.sin(2 + K)
    one = torch.tensor(1.0, dtype=torch.float64)
    flow = Carry(grad=grad, param=param, update={"g": grad, "10 g": 10 * grad, "u": u}[flows], gate=one)
    out = link.update(flow, link.init(param), Context(step=one, lr=one, shared=None, layout=WHOLE))[0].update
    found = (*out.flatten()[[0, 8]].tolist(), out.square().sum().item())
    assert found == pytest.approx((first, ninth, squares), abs=2e-12)


def test_the_term_of_cautious_weight_decay():
    param, u, one = torch.cos(1 + K), 0.1 * torch.sin(2 + K), torch.tensor(1.0, dtype=torch.float64)
    link, flow = t.CautiousWeightDecay(weight_decay=0.1), Carry(grad=u, param=param, update=u)
    term = link.update(flow, link.init(param), Context(step=one, lr=one, shared=None, layout=WHOLE))[0].update - u
    found = (*term.flatten()[[0, 8]].tolist(), term.square().sum().item())
    assert found == pytest.approx((0.054030230587, -0.091113026188, 0.110118811519), abs=2e-12)


def run(recipe, shift=0.0, before=None):
    """theta_0 = cos(1 + k), g_t = 0.1 sin(1 + t (k + 1)), 12 steps."""
    param = torch.nn.Parameter(torch.cos(1 + K) + shift)
    optimizer = recipe.optimizer([param])
    if before is not None:
        before(optimizer, param)
    for step in range(1, 13):
        param.grad = 0.1 * torch.sin(1 + step * (K + 1))
        optimizer.step()
    return (*param.detach().flatten()[[0, 8]].tolist(), param.detach().square().sum().item())


BETAS, DECAY = (0.9, 0.999), {"lr": 0.05, "weight_decay": 0.1}
RULES = [
    ("adamw", presets.adamw(**DECAY), 0.456406765960, -0.757052402859, 8.376643467478),
    ("adam", presets.adam(**DECAY), 0.230889003120, -0.440055024869, 2.822939079939),
    ("adamw amsgrad", presets.adamw(**DECAY, amsgrad=True), 0.456406765960, -0.757052402859, 8.376686154721),
    ("rmsprop", presets.rmsprop(**DECAY, centered=True, momentum=0.9), 0.440625280333, -0.639014487067, 14.415946965460),
    ("adagrad", presets.adagrad(**DECAY, lr_decay=0.1), 0.439778229481, -0.753799690805, 7.872821424671),
    ("sgd nesterov", presets.sgd(**DECAY, momentum=0.9, nesterov=True), 0.392091863401, -0.643693789208, 5.641989569989),
    ("sgd", presets.sgd(**DECAY, momentum=0.9, dampening=0.3), 0.427376583792, -0.719995875753, 7.049241079877),
    ("adafactor", presets.adafactor(**DECAY), 0.536944066265, -0.857537001052, 10.074375656958),
    ("lion", presets.lion(**DECAY), 0.510209357352, -0.956456002180, 10.482473513805),
    ("c_adamw", presets.c_adamw(**DECAY), 0.451142167159, -0.770667827245, 8.552836875007),
    ("grams", presets.grams(**DECAY), 0.451250621355, -0.805187068893, 8.877193134966),
    ("adopt", presets.adopt(**DECAY), 0.548135454545, -0.875038688814, 10.670341314474),
    ("nadam", presets.nadam(**DECAY, decoupled_weight_decay=True), 0.517513037674, -0.835684882199, 9.698044607961),
    ("muon", presets.muon(**DECAY, ns_precision="bfloat16"), 0.528537676669, -0.844983931287, 9.553462156018),
    ("came", presets.came(**DECAY), 0.643183129900, 0.682369768642, 220.596412448909),
    ("lamb", presets.lamb(**DECAY), 0.474964242595, -0.726136682144, 8.496062969823),
    ("stable_adamw", presets.stable_adamw(**DECAY), 0.456275920677, -0.757237070856, 8.371676719924),
    ("orthograd sgd", chain(t.OrthogonalGradient(), t.LearningRate(lr=0.05)), 0.542619909533, -0.914899660913, 11.470228768566),
]


@pytest.mark.parametrize(("recipe", "first", "ninth", "squares"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_twelve_steps_of_a_rule(recipe, first, ninth, squares):
    assert run(recipe) == pytest.approx((first, ninth, squares), abs=2e-11)


def test_twelve_steps_of_selective_projection_decay():
    def set_anchor(optimizer, param):
        param.grad = torch.zeros_like(param)
        optimizer.step()  # makes the state; zero gradients at a fresh start move nothing
        optimizer.state[param]["step"].zero_()
        optimizer.state[param]["spd/anchor"].sub_(0.05 * torch.sin(2 * (1 + K)))

    figures = run(presets.adam_spd(lr=0.05, spd_lambda=0.7), before=set_anchor)
    assert figures == pytest.approx((0.503322540414, -0.846315603072, 10.847652761419), abs=2e-11)


def test_torque_aware_momentum_after_twelve_gradients():
    param = torch.nn.Parameter(torch.cos(1 + K))
    optimizer = chain(t.TAM(), t.Momentum(momentum=0.9), t.LearningRate(lr=0.0)).optimizer([param])
    for step in range(1, 13):
        param.grad = 0.1 * torch.sin(1 + step * (K + 1))
        optimizer.step()
    m = optimizer.state[param]["momentum/buffer"]
    assert ((1 + optimizer.state[param]["tam/similarity"]) / 2).item() == pytest.approx(0.499139015613, abs=1e-11)
    found = (*m.flatten()[[0, 8]].tolist(), m.square().sum().item())
    assert found == pytest.approx((-0.028049011304, 0.019155828267, 0.150213206987), abs=1e-11)
