"""Adam guided by relations between parameters of similar value (relational-gradient, GitHub).

``version="0.6"`` relates each element to its nearest, ``"0.5"`` to all others. The default is the bounded guide, of a constant
strength; ``published=True`` gives the program's: gradient and guide clipped, strength falling with the norm of the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from gradchain.chains.chain import Chain, chain
from gradchain.chains.presets._arguments import preset
from gradchain.transforms import (
    AllPairsGuide,
    ClipValue,
    LearningRate,
    Moments,
    Normalize,
    PublishedAllPairsGuide,
    PublishedRelationalGuide,
    RelationalGuide,
)
from gradchain.types import ChainError, Transform

Version = Literal["0.6", "0.5"]
# (version, published) -> the guide and the keywords that it takes besides its strength
FORMS: dict[tuple[str, bool], tuple[Callable[..., Transform[Any]], tuple[str, ...]]] = {
    ("0.6", False): (RelationalGuide, ("k_neighbors", "update_interval")),
    ("0.5", False): (AllPairsGuide, ("update_interval",)),
    ("0.6", True): (PublishedRelationalGuide, ("k_neighbors", "update_interval", "guide_clip")),
    ("0.5", True): (PublishedAllPairsGuide, ("lambda_reg", "guide_clip")),
}


def _guide(version: str, published: bool, beta_0: float, lr_R: float, **keywords: float | None) -> Transform[Any]:
    if (version, published) not in FORMS:
        raise ChainError(f"version must be '0.5' or '0.6'; found {version!r}. 0.7 is announced only: pass one of these.")
    if lr_R != 0:
        raise ChainError(f"lr_R must be 0; found {lr_R!r}. The program learns relations away from the distances: leave it out.")
    kind, taken = FORMS[version, published]
    given = {key: value for key, value in keywords.items() if value is not None}
    if unfit := [key for key in given if key not in taken]:
        raise ChainError(
            f"{unfit[0]} plays no part with version={version!r}, published={published}; found {given[unfit[0]]!r}. "
            f"Leave it out; besides beta_0, the guide takes {' and '.join(taken)}."
        )
    return kind(**{"beta_0" if published else "beta": beta_0}, **given)


@preset
def relational_gradient(
    lr: float = 0.01,
    beta_0: float = 0.1,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    k_neighbors: int | None = None,
    update_interval: int | None = None,
    lr_R: float = 0.0,
    lambda_reg: float | None = None,
    grad_clip: float | None = None,
    guide_clip: float | None = None,
    version: Version = "0.6",
    published: bool = False,
) -> Chain:
    """Adam on a gradient that is compared with those of similar parameters. None: the value that this form starts from."""
    keywords = {"k_neighbors": k_neighbors, "update_interval": update_interval, "lambda_reg": lambda_reg}
    guide = _guide(version, published, beta_0, lr_R, guide_clip=guide_clip, **keywords)
    grad_clip = 10.0 if published and grad_clip is None else grad_clip
    clip = [] if grad_clip is None else [ClipValue(clip_value=grad_clip)]
    return chain(*clip, guide, Moments(betas=(beta1, beta2)), Normalize(eps=eps), LearningRate(lr=lr))
