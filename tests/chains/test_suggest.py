"""The published table of smoothing strengths."""

import pytest

from gradchain.chains.presets.suggest import suggest_c2
from gradchain.types import ChainError


@pytest.mark.parametrize(
    ("name", "c2"),
    [("pinn", 1e-5), ("transformer", 1e-4), ("mlp", 5e-4), ("cnn", 0.0), ("cnn_denoise", 1e-3), ("auto", 1e-4)],
)
def test_a_name_in_any_case_has_its_published_value(name, c2):
    assert suggest_c2(name) == suggest_c2(name.upper()) == c2


@pytest.mark.parametrize("name", ["rnn", "", None])
def test_another_name_is_refused_with_the_choices(name):
    with pytest.raises(ChainError, match=f"for {name!r}; there are: pinn, transformer, mlp, cnn, cnn_denoise, auto. Use one"):
        suggest_c2(name)
