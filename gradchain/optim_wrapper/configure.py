"""LAdam set up from a model: a kind for each parameter, a c2 for each kind, one parameter group for each c2.

    optimizer, scheduler = auto_configure(model, lr=1e-3, total_steps=10_000)
    print(analyze_model(model))

Kinds    The first that applies, for a parameter with its owner, the module that holds it:
           bias       0-d and 1-d (gains of norms too)
           conv       the owner is a convolution
           norm       the owner's class has "norm" in its name
           embedding  the owner is an Embedding or EmbeddingBag
           attention  the owner is a MultiheadAttention, or stands in an attention block: below a module named attention,
                      attn, self_attn or multihead_attn (or is one, and no Linear), or is one of {q, k, v, out}_proj,
                      query, key, value with q_proj and k_proj, or query and key, beside it
           conv       3 and more dimensions
           linear     2 dimensions
c2       1e-5 for linear, 0 (plain Adam) for everything else.
Source   auto_configure and analyze_model of ladam 0.4.0 and 0.4.1 (PyPI).
Differs  the original looks at names first, so that a Linear called value (an actor-critic's head) or a convolution below
         attn is attention; ours looks at the owner's type first and wants a projection to have its siblings. Its analysis is a
         dict with advice in prose. weight_decay goes to every parameter here as there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradchain.chains import presets
from gradchain.optim_wrapper.optimizer import ChainOptimizer
from gradchain.optim_wrapper.schedulers import ChiAnnealScheduler
from gradchain.types import ChainError

Kind = Literal["linear", "attention", "conv", "embedding", "norm", "bias"]

_C2: Mapping[Kind, float] = {"linear": 1e-5, "attention": 0.0, "conv": 0.0, "embedding": 0.0, "norm": 0.0, "bias": 0.0}
_BLOCKS = {"self_attn", "multihead_attn", "attention", "attn"}
_PROJECTIONS = {"q_proj", "k_proj", "v_proj", "out_proj", "query", "key", "value"}
_CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


@dataclass(frozen=True)
class ModelAnalysis:
    """What auto_configure makes of a model: names as in ``named_parameters()``, frozen parameters left out."""

    kinds: Mapping[str, Kind]  # parameter name -> kind
    c2: Mapping[str, float]  # parameter name -> c2
    counts: Mapping[Kind, int]  # kind -> elements in parameters of this kind
    frozen: int  # elements in parameters that need no gradient

    @property
    def total(self) -> int:
        """Elements in all parameters that are trained."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        tensors = Counter(self.kinds.values())
        rows = [("kind", "tensors", "elements", "c2")]
        rows += [(kind, str(tensors[kind]), f"{count:,}", f"{_C2[kind]:g}") for kind, count in self.counts.items()]
        lines = [f"{a:<9}  {b:>7}  {c:>13}  {d:>5}" for a, b, c, d in rows]
        return "\n".join([*lines, f"{self.total:,} elements are trained, {self.frozen:,} are frozen"])


def analyze_model(model: nn.Module) -> ModelAnalysis:
    """The kind and the c2 of each parameter. Raises ChainError if a lazy layer has no shape yet."""
    kinds: dict[str, Kind] = {}
    sizes: Counter[Kind] = Counter()
    frozen = 0
    for name, param in model.named_parameters():
        if is_lazy(param):
            raise ChainError(f"{name!r} belongs to a lazy layer and has no shape yet. Run the model on one batch first.")
        if param.requires_grad:
            kinds[name] = _kind(model, name, param)
            sizes[kinds[name]] += param.numel()
        else:
            frozen += param.numel()
    counts: dict[Kind, int] = {kind: sizes[kind] for kind in get_args(Kind) if kind in sizes}
    return ModelAnalysis(kinds, {name: _C2[kind] for name, kind in kinds.items()}, counts, frozen)


def auto_configure(
    model: nn.Module,
    lr: float = 1e-3,
    total_steps: int | None = None,
    total_epochs: int | None = None,
    steps_per_epoch: int | None = None,
    weight_decay: float = 0.0,
    use_scheduler: bool = True,
) -> tuple[ChainOptimizer, ChiAnnealScheduler | None]:
    """LAdam with a group for each c2, and a ChiAnnealScheduler where the number of steps is given.

    Give total_steps, or total_epochs with steps_per_epoch; with neither, or use_scheduler=False, the scheduler is None.
    Raises ChainError if the number of steps is half given or given twice, or if the model has nothing to train.
    """
    steps = _steps(total_steps, total_epochs, steps_per_epoch)
    analysis = analyze_model(model)
    if not analysis.kinds:
        raise ChainError(
            f"{type(model).__name__} has no parameter that needs a gradient; found {analysis.frozen:,} frozen elements. "
            "Set requires_grad on what is to be trained."
        )
    params = dict(model.named_parameters())
    groups = [
        {"params": [(name, params[name]) for name in analysis.c2 if analysis.c2[name] == c2], "c2": c2}
        for c2 in dict.fromkeys(analysis.c2.values())
    ]
    optimizer = ChainOptimizer(groups, presets.ladam(lr=lr, weight_decay=weight_decay))
    return optimizer, ChiAnnealScheduler(optimizer, steps) if use_scheduler and steps is not None else None


def _steps(total_steps: int | None, total_epochs: int | None, steps_per_epoch: int | None) -> int | None:
    """The number of steps, None where not given."""
    if total_steps is None and total_epochs is not None and steps_per_epoch is not None:
        return total_epochs * steps_per_epoch
    if total_epochs is None and steps_per_epoch is None:
        return total_steps
    raise ChainError(
        f"the number of steps must be given once; found total_steps={total_steps!r}, total_epochs={total_epochs!r}, "
        f"steps_per_epoch={steps_per_epoch!r}. Pass total_steps, or total_epochs with steps_per_epoch."
    )


def _kind(model: nn.Module, name: str, param: Tensor) -> Kind:
    path = name.rpartition(".")[0].split(".parametrizations.")[0]  # a parametrized weight belongs to its layer
    owner = model.get_submodule(path)
    if param.dim() <= 1:
        return "bias"
    if isinstance(owner, _CONVOLUTIONS):
        return "conv"
    if "norm" in type(owner).__name__.lower():
        return "norm"
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if _is_attention(model, path.split("."), owner):
        return "attention"
    return "conv" if param.dim() >= 3 else "linear"


def _is_attention(model: nn.Module, path: list[str], owner: nn.Module) -> bool:
    *above, own = path
    parent = model.get_submodule(".".join(above))
    if isinstance(owner, nn.MultiheadAttention) or isinstance(parent, nn.MultiheadAttention):
        return True
    if _BLOCKS.intersection(above) or (own in _BLOCKS and not isinstance(owner, nn.Linear)):
        return True
    beside = dict(parent.named_children()).keys()
    return own in _PROJECTIONS and ({"q_proj", "k_proj"} <= beside or {"query", "key"} <= beside)
