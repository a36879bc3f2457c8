"""HinaAdaptive (hinablue/sd-scripts) as published: AdaptiveHinaAdamW's sibling, with a learning rate per element and filters.

Its edge damping and its penalty on matrices stand behind AGR and ahead of the orthogonal gradient.
"""

from __future__ import annotations

from gradchain.chains.chain import Chain
from gradchain.chains.presets._arguments import preset
from gradchain.chains.presets.adaptive_hina import adaptive_hina
from gradchain.transforms import EdgeDamping, ElementLRMask, Signal, TopEigenvalueL2
from gradchain.types import ChainError

ELSEWHERE = {  # what can be switched on there and has no place in this chain
    "use_dynamic_adaptation": "its scores are drawn by chance; presets.adaptive_hina has them as its documents say",
    "spatial_awareness": "it only lowers gradients, and parameters drift; FrequencyPenalty does what is meant",
    "background_regularization": "it is ragged at the border; BackgroundRegularization does what is meant",
    "adaptive_features": "nothing in the program reads it",
    "reduce_precision": "how state is stored is the optimizer's business",
    "cpu_offload_states": "where state is kept is the optimizer's business",
    "memory_efficient": "how memory is used is the optimizer's business",
}
OWN = ("edge_suppression", "edge_penalty", "edge_threshold", "lora_rank_penalty", "rank_penalty_strength")


@preset
def hina_adaptive(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    use_spd: bool = True,
    spd_lambda: float = 0.06,
    use_cautious: bool = True,
    use_orthogonal_grad: bool = False,
    use_adopt_stability: bool = True,
    use_grams: bool = True,
    use_agr: bool = True,
    use_tam: bool = True,
    tam_beta: float = 0.999,
    use_lr_mask: bool = True,
    lr_bump: float = 3e-6,
    min_lr: float = 1e-7,
    max_lr: float = 1e-3,
    warmup_steps: int = 500,
    dynamic_weight_decay: bool = True,
    wd_transition_steps: int = 1000,
    wd_decay_factor: float = 0.7,
    wd_min_ratio: float = 0.1,
    edge_suppression: bool = False,
    edge_penalty: float = 0.1,
    edge_threshold: float = 0.6,
    lora_rank_penalty: bool = False,
    rank_penalty_strength: float = 0.01,
    use_dynamic_adaptation: bool = False,
    spatial_awareness: bool = False,
    background_regularization: bool = False,
    adaptive_features: bool = False,
    reduce_precision: bool = False,
    cpu_offload_states: bool = False,
    memory_efficient: bool = False,
) -> Chain:
    """HinaAdaptive as published; the last seven switches stay off. use_grams is taken and does nothing, as in the program."""
    given = dict(locals())
    for key, why in ELSEWHERE.items():
        if given.pop(key):
            raise ChainError(f"hina_adaptive does not take {key}=True: {why}. Leave it out.")
    common = {key: value for key, value in given.items() if key not in OWN}
    base = adaptive_hina(**common, use_dynamic_adaptation=False, published=True)
    if use_lr_mask:
        mask = base["tensor_lr_mask"]
        base = base.replace(tensor_lr_mask=ElementLRMask(**{field: getattr(mask, field) for field in mask.hyperparameters()}))
    added = (EdgeDamping(edge_penalty=edge_penalty, edge_threshold=edge_threshold),) if edge_suppression else ()
    added += (TopEigenvalueL2(rank_penalty_strength=rank_penalty_strength),) if lora_rank_penalty else ()
    if added and "signal" not in base.names:
        added += (Signal(),)
    ahead_of = next(name for name in ("orthogonal_gradient", "signal", "monotone_moments", "moments") if name in base.names)
    return base.insert_before(ahead_of, *added)
