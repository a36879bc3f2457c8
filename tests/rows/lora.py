"""LoRA and LoKr pairs, HinaAdamW: a row in each of the tables."""

import numpy as np
from links import Flow
from reference import lora as reference

from gradchain import chain, presets
from gradchain import transforms as t

LR = t.LearningRate(lr=1e-2)
ADAM = (t.Moments(), t.Normalize())
FADING = {"weight_decay": 0.3, "wd_transition_steps": 4, "wd_decay_factor": 0.5, "wd_min_ratio": 0.1}
LOKR = {"lokr_damping": [0.0, 2.0], "lokr_ratio": [0.0, 1.0]}
ALORA = {"alora_ratio": [0.0, 21.0]}


def flow(update, grad=None, param=None):
    u = np.array(update, dtype=float)
    grad = u if grad is None else np.array(grad, dtype=float)
    return Flow(u, grad, np.ones_like(u) if param is None else np.array(param, dtype=float), u**2, 0.5)


TRANSFORMS = {  # as in table.py
    "ALLoRA": (link := t.ALLoRA(), chain(*ADAM, link, LR)),
    "ALoRA": (link := t.ALoRA(), chain(*ADAM, link, LR)),
    "AdapterWeightDecay": (link := t.AdapterWeightDecay(**FADING), chain(*ADAM, LR, link)),
    "AgreementMask": (link := t.AgreementMask(), chain(*ADAM, link, LR)),
    "LoKrScale": (link := t.LoKrScale(), chain(*ADAM, link, LR)),
    "LoRAPlus": (link := t.LoRAPlus(), chain(*ADAM, link, LR)),
    "OrthogonalComponent": (link := t.OrthogonalComponent(), chain(link, *ADAM, LR)),
    "PublishedALoRA": (link := t.PublishedALoRA(), chain(*ADAM, link, LR)),
    "PublishedLoKrScale": (link := t.PublishedLoKrScale(), chain(*ADAM, link, LR)),
    "SumAmplification": (link := t.SumAmplification(), chain(link, *ADAM, LR)),
}
PRESETS = {
    "hina_adamw": presets.hina_adamw(),
    "hina_adamw_language": presets.hina_adamw_language(use_adopt_stability=False, use_grams=False, use_orthogonal_grad=True),
    "hina_adamw_lokr": presets.hina_adamw_lokr(published=True),
    "hina_adamw_sd_lora": presets.hina_adamw_sd_lora(published=True, use_grams=False, use_orthogonal_grad=True),
}
RULES = [  # as in test_against_references.py; pairs have tests of their own, in transforms/test_pairs.py
    (t.ALLoRA(eta=3.0), reference.allora),
    (t.ALoRA(), reference.passed_on),
    (t.AdapterWeightDecay(**FADING), reference.decay_after),
    (t.AgreementMask(), reference.agreement_mask),
    (t.LoKrScale(), reference.passed_on),
    (t.LoRAPlus(), reference.passed_on),
    (t.OrthogonalComponent(), reference.orthogonal_component),
    (t.PublishedALoRA(), reference.passed_on),
    (t.PublishedLoKrScale(), reference.passed_on),
    (t.SumAmplification(), reference.sum_amplification),
]
BY_HAND = [  # as in test_by_hand.py
    # rows of length 0 and 3.75, eta = 2: 1 / sqrt(1/4) = 2 and 1 / sqrt(4) = 1/2; a vector has no rows
    (t.ALLoRA(), [flow([[1, 1], [1, 4]], param=[[0, 0], [2.25, 3]])], {"update": [[2, 2], [0.5, 2]]}),
    (t.ALLoRA(), [flow([1, 4], param=[0, 3])], {"update": [1, 4]}),
    (t.ALoRA(), [flow([[1, 2]])], {"update": [[1, 2]]}),  # nobody's partner
    # the step arrives at (3, -4); half of lr = 1/2 of that is taken off, in the first step and in any other
    (
        t.AdapterWeightDecay(weight_decay=0.5, wd_transition_steps=1),
        [flow([1, -4], param=[4, -8])] * 3,
        {"update": [1.75, -5]},
    ),
    (t.AgreementMask(), [flow([1, 2, 3, 4], grad=[1, -1, 0, 2])], {"update": [1, 0, 0, 4]}),
    (t.LoKrScale(), [flow([[1, 2]])], {"update": [[1, 2]]}),
    (t.LoRAPlus(), [flow([[1, 2]])], {"update": [[1, 2]]}),
    # beside (1, 1): (2, 0) -> (1, -1); along it nothing is left; a vector keeps all
    (t.OrthogonalComponent(), [flow([[2, 0]])], {"update": [[1, -1]]}),
    (t.OrthogonalComponent(), [flow([[3], [3]])], {"update": [[0], [0]]}),
    (t.OrthogonalComponent(), [flow([2, 0])], {"update": [2, 0]}),
    (t.PublishedALoRA(), [flow([[1, 2]])], {"update": [[1, 2]]}),
    (t.PublishedLoKrScale(), [flow([[1, 2]])], {"update": [[1, 2]]}),
    # sum 7 over length 5; sums that cancel add nothing
    (t.SumAmplification(), [flow([3, 4])], {"update": [3 * 2.4, 4 * 2.4]}),
    (t.SumAmplification(), [flow([3, -3])], {"update": [3, -3]}),
]
ALLOWED = {  # as in test_errors.py
    t.ALLoRA: {"eta": [1e-3, 100.0]},
    t.ALoRA: ALORA,
    t.AdapterWeightDecay: {
        "weight_decay": [0.0, 5.0],
        "wd_transition_steps": [1, 500],
        "wd_decay_factor": [1e-3, 1.0],
        "wd_min_ratio": [0.0, 1.0],
    },
    t.AgreementMask: {},
    t.LoKrScale: LOKR,
    t.LoRAPlus: {"loraplus_lr_ratio": [0.0, 20.0]},
    t.OrthogonalComponent: {},
    t.PublishedALoRA: ALORA,
    t.PublishedLoKrScale: LOKR,
    t.SumAmplification: {},
}
REFUSED = {
    "alora_ratio": [(-1.0, r"a number in \[0, inf\)")],
    "eta": [(0.0, r"a number in \(0, inf\)")],
    "lokr_damping": [(-1.0, r"a number in \[0, inf\)")],
    "lokr_ratio": [(-1.0, r"a number in \[0, inf\)")],
    "loraplus_lr_ratio": [(-1.0, r"a number in \[0, inf\)")],
}
REPLAYS = {  # as in golden/test_replay.py: (family, published class) -> what makes the chain of a case
    ("hina_lora", "HinaAdamWOptimizer"): lambda case: presets.hina_adamw(**case.kwargs, published=True),
}
