"""One technique a file; each is a pure transform of what flows along the chain for one parameter."""

from gradchain.transforms.absolute_importance import AbsoluteImportance
from gradchain.transforms.ada_decay import AdaDecay, GroupAdaDecay
from gradchain.transforms.adan_moments import AdanMoments
from gradchain.transforms.adapter_weight_decay import AdapterWeightDecay
from gradchain.transforms.ademamix import AdEMAMix
from gradchain.transforms.adopt import ADOPT
from gradchain.transforms.agc import AGC
from gradchain.transforms.agr import AGR
from gradchain.transforms.agreement_mask import AgreementMask
from gradchain.transforms.alignment_damping import AlignmentDamping
from gradchain.transforms.allora import ALLoRA
from gradchain.transforms.alora import ALoRA, PublishedALoRA
from gradchain.transforms.amsgrad_moments import AMSGradMoments
from gradchain.transforms.apply_scale import ApplyScale
from gradchain.transforms.atan2 import Atan2
from gradchain.transforms.average_momentum import AverageMomentum, NesterovAverage
from gradchain.transforms.background_regularization import BackgroundRegularization
from gradchain.transforms.blended_grams import BlendedGrams
from gradchain.transforms.cautious import Cautious
from gradchain.transforms.cautious_weight_decay import CautiousWeightDecay
from gradchain.transforms.centered_second_moment import CenteredSecondMoment
from gradchain.transforms.centralize import Centralize
from gradchain.transforms.clip_norm import ClipGlobalNorm, ClipNorm
from gradchain.transforms.clip_normalized_rms import ClipNormalizedRMS
from gradchain.transforms.clip_scale import ClipScale
from gradchain.transforms.clip_update_rms import ClipUpdateRMS, ScaledClipUpdateRMS
from gradchain.transforms.clip_value import ClipValue
from gradchain.transforms.confidence import Confidence, FactoredConfidence
from gradchain.transforms.corrected_second_moment import CorrectedSecondMoment
from gradchain.transforms.difference_penalty import DifferencePenalty
from gradchain.transforms.dual_momentum import DualMomentum
from gradchain.transforms.dynamic_weight_decay import DynamicWeightDecay, DynamicWeightDecayAfterStep
from gradchain.transforms.edge_damping import EdgeDamping
from gradchain.transforms.edge_suppression import EdgeSuppression
from gradchain.transforms.eight_bit_lr_mask import EightBitLRMask
from gradchain.transforms.eight_bit_momentum import EightBitMomentum
from gradchain.transforms.factored_second_moment import FactoredSecondMoment
from gradchain.transforms.first_moment import FirstMoment
from gradchain.transforms.frequency_penalty import FrequencyPenalty
from gradchain.transforms.grams import Grams
from gradchain.transforms.group_agr import EdgeGroupAGR, GroupAGR
from gradchain.transforms.growing_clamp import GrowingClamp
from gradchain.transforms.importance import Importance
from gradchain.transforms.initial_row_scale import InitialRowScale
from gradchain.transforms.int8_lr_mask import Int8LRMask
from gradchain.transforms.inverse_time_decay import InverseTimeDecay
from gradchain.transforms.kahan import Kahan
from gradchain.transforms.l2 import L2
from gradchain.transforms.lagged_moments import LaggedMoments
from gradchain.transforms.lagged_spd import LaggedSPD, PublishedOriginSPD, PublishedSPD, UphillSPD
from gradchain.transforms.laplacian import Laplacian, UpdateLaplacian, WeightDiffusion
from gradchain.transforms.laplacian_smoothing import LaplacianSmoothing
from gradchain.transforms.largest_second_moment import LargestSecondMoment
from gradchain.transforms.lars import LARS
from gradchain.transforms.last_partner_relations import LastPartnerRelations
from gradchain.transforms.learning_rate import LearningRate
from gradchain.transforms.lion import Lion
from gradchain.transforms.lokr_scale import LoKrScale, PublishedLoKrScale
from gradchain.transforms.lookahead import Lookahead
from gradchain.transforms.lora_plus import LoRAPlus
from gradchain.transforms.low_rank_emphasis import LowRankEmphasis
from gradchain.transforms.lr_mask import LRMask
from gradchain.transforms.mars import MARS
from gradchain.transforms.matrix_l2 import MatrixL2
from gradchain.transforms.mean_square import FactoredMeanSquare, MeanSquare
from gradchain.transforms.moments import Moments
from gradchain.transforms.momentum import Momentum
from gradchain.transforms.monotone_moments import MonotoneMoments
from gradchain.transforms.multilayer_lookahead import MultilayerLookahead
from gradchain.transforms.nesterov_moments import NesterovMoments
from gradchain.transforms.nesterov_momentum import NesterovMomentum
from gradchain.transforms.norm_ceiling import NormCeiling
from gradchain.transforms.normalize import Normalize
from gradchain.transforms.origin_spd import OriginSPD
from gradchain.transforms.orthogonal_component import OrthogonalComponent
from gradchain.transforms.orthogonal_gradient import OrthogonalGradient
from gradchain.transforms.orthogonalize import Orthogonalize
from gradchain.transforms.parameter_scale import ParameterScale
from gradchain.transforms.phase import Phase
from gradchain.transforms.previous_mean_square import PreviousMeanSquare
from gradchain.transforms.prodigy_distance import ProdigyDistance
from gradchain.transforms.proximal_weight_decay import ProximalWeightDecay
from gradchain.transforms.published_background_regularization import PublishedBackgroundRegularization
from gradchain.transforms.published_confidence import PublishedConfidence, RaisedConfidence
from gradchain.transforms.published_edge_history import PublishedEdgeHistory
from gradchain.transforms.published_frequency_penalty import PublishedFrequencyPenalty
from gradchain.transforms.published_lr_mask import DirectedLRMask, PublishedLRMask
from gradchain.transforms.published_spatial_awareness import PublishedSpatialAwareness
from gradchain.transforms.pull_to_start import PullToStart
from gradchain.transforms.radam import RAdam
from gradchain.transforms.rank_aware_decay import RankAwareDecay
from gradchain.transforms.rank_penalty import RankPenalty
from gradchain.transforms.rate_weighted_momentum import RateWeightedMomentum
from gradchain.transforms.relational_guide import (
    AllPairsGuide,
    PublishedAllPairsGuide,
    PublishedRelationalGuide,
    RelationalGuide,
)
from gradchain.transforms.relations import Relations
from gradchain.transforms.relative_step import RelativeStep
from gradchain.transforms.residual_momentum import FallingMomentum, ResidualMomentum
from gradchain.transforms.row_tam import RowTAM
from gradchain.transforms.sam import ASAM, SAM
from gradchain.transforms.scale_lr_mask import ElementLRMask, TensorLRMask
from gradchain.transforms.scaled_normalize import ScaledNormalize
from gradchain.transforms.scaled_weight_decay import ScaledWeightDecay
from gradchain.transforms.schedule_free import ScheduleFree
from gradchain.transforms.second_average import SecondAverage
from gradchain.transforms.second_moment import SecondMoment
from gradchain.transforms.signal import Signal
from gradchain.transforms.spatial_awareness import SpatialAwareness
from gradchain.transforms.spd import SPD
from gradchain.transforms.speed_limit import ComponentSpeedLimit, GlobalSpeedLimit, SpeedLimit
from gradchain.transforms.step_corrected_moments import StepCorrectedMoments
from gradchain.transforms.sum_amplification import SumAmplification
from gradchain.transforms.sum_of_squares import SumOfSquares
from gradchain.transforms.tam import TAM
from gradchain.transforms.top_eigenvalue_l2 import TopEigenvalueL2
from gradchain.transforms.torque_damping import TorqueDamping
from gradchain.transforms.torque_momentum import TorqueMomentum
from gradchain.transforms.trust_ratio import TrustRatio
from gradchain.transforms.uncorrected_moments import UncorrectedMoments
from gradchain.transforms.variance_floor import VarianceFloor
from gradchain.transforms.wave_variance import PublishedWaveVariance, WaveVariance
from gradchain.transforms.weight_decay import WeightDecay
from gradchain.transforms.weight_decay_after_step import WeightDecayAfterStep
from gradchain.transforms.weight_ema import WeightEMA
from gradchain.transforms.zclip import ZClip

__all__ = [
    "ADOPT",
    "AGC",
    "AGR",
    "ALLoRA",
    "ALoRA",
    "AMSGradMoments",
    "ASAM",
    "AbsoluteImportance",
    "AdEMAMix",
    "AdaDecay",
    "AdanMoments",
    "AdapterWeightDecay",
    "AgreementMask",
    "AlignmentDamping",
    "AllPairsGuide",
    "ApplyScale",
    "Atan2",
    "AverageMomentum",
    "BackgroundRegularization",
    "BlendedGrams",
    "Cautious",
    "CautiousWeightDecay",
    "CenteredSecondMoment",
    "Centralize",
    "ClipGlobalNorm",
    "ClipNorm",
    "ClipNormalizedRMS",
    "ClipScale",
    "ClipUpdateRMS",
    "ClipValue",
    "ComponentSpeedLimit",
    "Confidence",
    "CorrectedSecondMoment",
    "DifferencePenalty",
    "DirectedLRMask",
    "DualMomentum",
    "DynamicWeightDecay",
    "DynamicWeightDecayAfterStep",
    "EdgeDamping",
    "EdgeGroupAGR",
    "EdgeSuppression",
    "EightBitLRMask",
    "EightBitMomentum",
    "ElementLRMask",
    "FactoredConfidence",
    "FactoredMeanSquare",
    "FactoredSecondMoment",
    "FallingMomentum",
    "FirstMoment",
    "FrequencyPenalty",
    "GlobalSpeedLimit",
    "Grams",
    "GroupAGR",
    "GroupAdaDecay",
    "GrowingClamp",
    "Importance",
    "InitialRowScale",
    "Int8LRMask",
    "InverseTimeDecay",
    "Kahan",
    "L2",
    "LARS",
    "LRMask",
    "LaggedMoments",
    "LaggedSPD",
    "Laplacian",
    "LaplacianSmoothing",
    "LargestSecondMoment",
    "LastPartnerRelations",
    "LearningRate",
    "Lion",
    "LoKrScale",
    "LoRAPlus",
    "Lookahead",
    "LowRankEmphasis",
    "MARS",
    "MatrixL2",
    "MeanSquare",
    "Moments",
    "Momentum",
    "MonotoneMoments",
    "MultilayerLookahead",
    "NesterovAverage",
    "NesterovMoments",
    "NesterovMomentum",
    "NormCeiling",
    "Normalize",
    "OriginSPD",
    "OrthogonalComponent",
    "OrthogonalGradient",
    "Orthogonalize",
    "ParameterScale",
    "Phase",
    "PreviousMeanSquare",
    "ProdigyDistance",
    "ProximalWeightDecay",
    "PublishedALoRA",
    "PublishedAllPairsGuide",
    "PublishedBackgroundRegularization",
    "PublishedConfidence",
    "PublishedEdgeHistory",
    "PublishedFrequencyPenalty",
    "PublishedLRMask",
    "PublishedLoKrScale",
    "PublishedOriginSPD",
    "PublishedRelationalGuide",
    "PublishedSPD",
    "PublishedSpatialAwareness",
    "PublishedWaveVariance",
    "PullToStart",
    "RAdam",
    "RaisedConfidence",
    "RankAwareDecay",
    "RankPenalty",
    "RateWeightedMomentum",
    "RelationalGuide",
    "Relations",
    "RelativeStep",
    "ResidualMomentum",
    "RowTAM",
    "SAM",
    "SPD",
    "ScaledClipUpdateRMS",
    "ScaledNormalize",
    "ScaledWeightDecay",
    "ScheduleFree",
    "SecondAverage",
    "SecondMoment",
    "Signal",
    "SpatialAwareness",
    "SpeedLimit",
    "StepCorrectedMoments",
    "SumAmplification",
    "SumOfSquares",
    "TAM",
    "TensorLRMask",
    "TopEigenvalueL2",
    "TorqueDamping",
    "TorqueMomentum",
    "TrustRatio",
    "UncorrectedMoments",
    "UpdateLaplacian",
    "UphillSPD",
    "VarianceFloor",
    "WaveVariance",
    "WeightDecay",
    "WeightDecayAfterStep",
    "WeightDiffusion",
    "WeightEMA",
    "ZClip",
]
