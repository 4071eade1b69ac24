"""Learning one task after the other without forgetting: methods for any learner."""

from foretell.training.continual.fisher import Fisher, binary_outcomes, diagonal_fisher
from foretell.training.continual.memory import (
    Concatenation,
    Subset,
    exemplars,
    outputs,
    representations,
)
from foretell.training.continual.methods import (
    AGEM,
    GEM,
    SI,
    ContinualMethod,
    DERpp,
    ElasticWeightConsolidation,
    ExperienceReplay,
    Joint,
    LwF,
    Naive,
    WeightUncertaintyReplay,
)
from foretell.training.continual.rehearsal import (
    AveragedGradientMemory,
    DarkReplay,
    Distillation,
    GradientEpisodicMemory,
    Replay,
    RepresentationReplay,
    soft_labels,
    squared_distance,
)
from foretell.training.continual.sequence import (
    ContinualMatrix,
    ContinualTask,
    evaluate_orders,
    train_sequence,
)
from foretell.training.continual.synaptic import SynapticIntelligence

__all__ = [
    "AGEM",
    "GEM",
    "SI",
    "AveragedGradientMemory",
    "Concatenation",
    "ContinualMatrix",
    "ContinualMethod",
    "ContinualTask",
    "DERpp",
    "DarkReplay",
    "Distillation",
    "ElasticWeightConsolidation",
    "ExperienceReplay",
    "Fisher",
    "GradientEpisodicMemory",
    "Joint",
    "LwF",
    "Naive",
    "Replay",
    "RepresentationReplay",
    "Subset",
    "SynapticIntelligence",
    "WeightUncertaintyReplay",
    "binary_outcomes",
    "diagonal_fisher",
    "evaluate_orders",
    "exemplars",
    "outputs",
    "representations",
    "soft_labels",
    "squared_distance",
    "train_sequence",
]
