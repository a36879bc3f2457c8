"""Building a chain, taking it apart, and what it says of itself."""

import pickle
import warnings

import pytest

from gradchain import ChainError, ChainWarning, chain, masked, presets
from gradchain import transforms as t
from gradchain.chains import matrices

MINE = chain(t.Moments(), t.Laplacian(), t.Normalize(), t.WeightDecay(weight_decay=0.01), t.LearningRate(lr=1e-3))


def test_a_slot_must_be_written_before_it_is_read():
    with pytest.raises(ChainError) as error:
        chain(t.Laplacian(), t.Normalize())
    assert str(error.value) == (
        "'laplacian' reads second_moment, but no link before it writes it; links before it: none. "
        "Put Moments() or SecondMoment() earlier."
    )


def test_names_are_unique_and_the_message_says_how_to_name_one():
    with pytest.raises(ChainError, match=r"two links are named 'l2'.*L2\(name='second_l2'\)"):
        chain(t.L2(), t.L2(), t.LearningRate())


def test_two_links_with_one_hyperparameter_key_are_told_apart_by_a_name():
    with pytest.raises(ChainError, match=r"'l2' and 'weight_decay' both have a hyperparameter 'weight_decay'.*Name one"):
        chain(t.L2(), t.WeightDecay(), t.LearningRate())
    named = chain(t.L2(name="penalty"), t.WeightDecay(), t.LearningRate())
    assert list(named.hyperparameters) == ["penalty/weight_decay", "weight_decay", "lr"]


def test_a_chain_within_a_chain_stands_for_its_links():
    assert chain(chain(t.Moments(), t.Normalize()), t.LearningRate()) == chain(t.Moments(), t.Normalize(), t.LearningRate())


def test_only_transforms_make_a_chain():
    with pytest.raises(ChainError, match=r"made of transforms; found 'adam'"):
        chain("adam")
    with pytest.raises(ChainError, match="Pass instances"):
        chain(t.Moments)


def test_surgery_gives_new_chains():
    assert MINE.without("laplacian").names == ("moments", "normalize", "weight_decay", "learning_rate")
    assert MINE.replace(normalize=t.Normalize(eps=1e-6))["normalize"].eps == 1e-6
    assert MINE.insert_before("normalize", t.VarianceFloor()).names[2] == "variance_floor"
    assert MINE.insert_after("moments", t.VarianceFloor()).names[1] == "variance_floor"
    assert len(MINE.links) == 5


def test_surgery_is_checked_too():
    with pytest.raises(ChainError, match="'laplacian' reads second_moment"):
        MINE.without("moments")
    for operation in (MINE.without, MINE.insert_before, MINE.insert_after, MINE.__getitem__):
        with pytest.raises(ChainError, match="no link is named 'laplacain'; this chain has: moments, laplacian, normalize"):
            operation("laplacain")


def test_ablations_take_the_readers_of_an_only_writer_along_and_say_so():
    shorter = MINE.ablations()
    assert list(shorter) == ["moments", "laplacian", "normalize", "weight_decay"]
    assert shorter["laplacian"] == MINE.without("laplacian") and shorter["laplacian"].note == ""
    assert shorter["moments"].names == ("weight_decay", "learning_rate")
    assert "'laplacian', 'normalize': left out too" in shorter["moments"].note
    assert shorter["moments"].note in shorter["moments"].describe()


def test_a_second_writer_keeps_the_readers():
    two = chain(t.Moments(), t.SecondMoment(), t.Normalize(), t.LearningRate())
    assert two.ablations()["moments"].names == ("second_moment", "normalize", "learning_rate")


def test_describe_shows_links_hyperparameters_state_and_remarks():
    text = presets.ladam(lr=0.25).describe()
    for part in ("betas=(0.9, 0.999)", "lr=0.25", "first, second  8", "state: 8 bytes per element", "'weight_decay' is off"):
        assert part in text
    assert "no learning rate: the optimizer appends LearningRate(lr=1.0)" in chain(t.Moments()).describe()
    assert "'moments' writes second_moment, and no link after it reads it" in chain(t.Moments()).describe()
    assert "its decay is not scaled" in chain(t.LearningRate(), t.WeightDecay(weight_decay=0.1)).describe()


def test_the_table_of_a_long_chain_fits_on_a_screen_and_breaks_no_number():
    lines = presets.adaptive_hina().describe().splitlines()
    assert max(map(len, lines)) <= 120 and len(lines) <= 30
    assert any(line.strip() == "importance_range=(0.1, 3.0)" for line in lines)
    assert chain(t.LRMask()).describe().splitlines()[3].split() == [
        "max_lr=0.001,",
        "warmup_steps=500",
        "processed,",
        "scale",
        "peak,",
        "settled",
    ]


@pytest.mark.parametrize(
    ("links", "complaint"),
    [
        ((t.Moments(), t.Normalize(), t.Normalize(name="n", eps=0.0), t.LearningRate()), "normalize the update"),
        ((t.LearningRate(), t.LearningRate(name="more")), "multiply by the learning rate"),
        ((t.Moments(), t.Normalize(), t.Cautious(), t.Grams(), t.LearningRate()), "align the update"),
    ],
)
def test_nonsense_is_built_with_a_warning(links, complaint):
    with pytest.warns(ChainWarning, match=complaint):
        chain(*links)


def test_links_that_take_turns_are_no_nonsense():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chain(t.Phase(t.Grams(), stop=5), t.Phase(t.Cautious(), start=5), t.LearningRate())
    with pytest.warns(ChainWarning, match="'grams' and 'cautious' align"):
        chain(t.Phase(t.Grams(), stop=6), t.Phase(t.Cautious(), start=5), t.LearningRate())


def test_sense_is_built_without():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chain(*MINE.links)


def test_equality_repr_and_pickle():
    assert MINE == chain(*MINE.links) and hash(MINE) == hash(chain(*MINE.links))
    assert MINE != MINE.without("laplacian")
    assert eval(repr(MINE), {**vars(t), "chain": chain}) == MINE
    assert repr(chain(t.L2(name="mine"))) == "chain(L2(weight_decay=0.0, name='mine'))"
    assert pickle.loads(pickle.dumps(MINE)) == MINE


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: t.Laplacian(c2=0.31), r"c2 must be in \[0, 0.3\] for the 9point stencil.*found 0.31. Use a smaller c2"),
        (lambda: t.Laplacian(c2=0.26, stencil="5point"), r"c2 must be in \[0, 0.25\]"),
        (lambda: presets.ladam(c2=-1.0), r"'laplacian': c2 must be a number in \[0, inf\)"),
        (lambda: t.Laplacian(stencil="7point"), "stencil must be one of '9point', '5point'; found '7point'"),
        (lambda: presets.adam(betas=(0.9, 1.5)), r"betas must be each a number in \[0, 1\).*found \(0.9, 1.5\)"),
        (lambda: presets.adam(betas=(0.9,)), "betas must be 2 numbers"),
        (lambda: presets.adam(betas=0.9), "betas must be 2 numbers"),
        (lambda: presets.adam(lr=-1e-3), r"lr must be a number in \[0, inf\).*found -0.001. Pass lr=0.001, for example"),
        (lambda: presets.adam(lr="fast"), "lr must be a number.*found 'fast'"),
        (lambda: presets.adam(lr=True), "lr must be a number.*found True"),
        (lambda: presets.adam(eps=float("nan")), "eps must be a number"),
        (lambda: t.Laplacian(min_spatial_size=1.5), "min_spatial_size must be a whole number"),
        (lambda: t.Laplacian(bounded="yes"), "bounded must be a bool"),
        (lambda: t.Moments(name="a/b"), "'a/b' cannot name a link"),
        (lambda: presets.ladam(mode="variance"), "mode must be one of 'variance_lap'"),
        (lambda: presets.ladam(decay="l2"), "decay must be 'decoupled' or 'coupled'"),
        (lambda: presets.sgd(nesterov=True), "nesterov needs momentum > 0"),
        (lambda: presets.ladam(mode="wave_variance", wave_dt=10.0), "for a stable wave; found"),
        (lambda: presets.relativistic_adam(relativistic_mode="local"), "relativistic_mode must be one of"),
    ],
)
def test_a_bad_hyperparameter_is_refused_with_the_remedy(make, complaint):
    with pytest.raises(ChainError, match=complaint):
        make()


def test_numbers_are_kept_in_one_form():
    assert t.LearningRate(lr=1) == t.LearningRate(lr=1.0)
    assert t.Moments(betas=[0.9, 0.99]) == t.Moments(betas=(0.9, 0.99))


ADAM = (t.Moments(), t.Normalize())


@pytest.mark.parametrize(
    ("links", "remark"),
    [
        (
            (*ADAM, t.ClipUpdateRMS(), t.Cautious(), t.LearningRate()),
            "'cautious' may enlarge what 'clip_update_rms' has capped",
        ),
        ((*ADAM, t.LearningRate(), t.SpeedLimit(), t.Cautious()), "'cautious' may enlarge what 'speed_limit' has capped"),
        (
            (t.ADOPT(), t.WeightDecay(weight_decay=0.1), t.LearningRate()),
            "'adopt' skips steps, and where it does, the decay of 'weight_decay' is skipped with them.",
        ),
        (
            (t.LearningRate(), t.WeightEMA(), t.SpeedLimit()),
            "'weight_ema' averages the weights without what 'speed_limit'",
        ),
        (ADAM, "no learning rate: the optimizer appends LearningRate(lr=1.0)."),
    ],
)
def test_doubtful_orders_are_remarked_on_and_built_in_silence(links, remark):
    assert f"note: {remark}" in chain(*links).describe()


def test_a_remark_is_not_made_of_links_for_different_parameters():
    matrix, rest = masked(t.ClipUpdateRMS(), by=matrices), masked(t.Cautious(), by=~matrices)
    assert "enlarge" not in chain(*ADAM, matrix, rest, t.LearningRate()).describe()
    assert "enlarge" not in chain(*ADAM, t.Cautious(), t.ClipUpdateRMS(), t.LearningRate()).describe()
    chain(masked(t.Grams(), by=matrices), masked(t.Cautious(), by=~matrices), t.LearningRate())
