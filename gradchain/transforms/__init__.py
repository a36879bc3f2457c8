"""One technique a file; each is a pure transform of what flows along the chain for one parameter."""

from gradchain.transforms.amsgrad_moments import AMSGradMoments
from gradchain.transforms.centered_second_moment import CenteredSecondMoment
from gradchain.transforms.clip_update_rms import ClipUpdateRMS
from gradchain.transforms.factored_second_moment import FactoredSecondMoment
from gradchain.transforms.first_moment import FirstMoment
from gradchain.transforms.inverse_time_decay import InverseTimeDecay
from gradchain.transforms.l2 import L2
from gradchain.transforms.laplacian import Laplacian, UpdateLaplacian, WeightDiffusion
from gradchain.transforms.learning_rate import LearningRate
from gradchain.transforms.lion import Lion
from gradchain.transforms.moments import Moments
from gradchain.transforms.momentum import Momentum
from gradchain.transforms.nesterov_moments import NesterovMoments
from gradchain.transforms.nesterov_momentum import NesterovMomentum
from gradchain.transforms.normalize import Normalize
from gradchain.transforms.parameter_scale import ParameterScale
from gradchain.transforms.relative_step import RelativeStep
from gradchain.transforms.scaled_weight_decay import ScaledWeightDecay
from gradchain.transforms.second_moment import SecondMoment
from gradchain.transforms.sum_of_squares import SumOfSquares
from gradchain.transforms.variance_floor import VarianceFloor
from gradchain.transforms.wave_variance import PublishedWaveVariance, WaveVariance
from gradchain.transforms.weight_decay import WeightDecay

__all__ = [
    "AMSGradMoments",
    "CenteredSecondMoment",
    "ClipUpdateRMS",
    "FactoredSecondMoment",
    "FirstMoment",
    "InverseTimeDecay",
    "L2",
    "Laplacian",
    "LearningRate",
    "Lion",
    "Moments",
    "Momentum",
    "NesterovMoments",
    "NesterovMomentum",
    "Normalize",
    "ParameterScale",
    "PublishedWaveVariance",
    "RelativeStep",
    "ScaledWeightDecay",
    "SecondMoment",
    "SumOfSquares",
    "UpdateLaplacian",
    "VarianceFloor",
    "WaveVariance",
    "WeightDecay",
    "WeightDiffusion",
]
