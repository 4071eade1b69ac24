"""How it is learned: one loop, and one file a strategy."""

from foretell.training.averaging import WeightAveraging
from foretell.training.checkpoint import load_checkpoint, save_checkpoint
from foretell.training.context import Context, Evaluation
from foretell.training.examples import Examples, TensorExamples, pad_batch
from foretell.training.fit import fit
from foretell.training.gradient import weighted_gradient
from foretell.training.machine import use_threads, useful_threads
from foretell.training.penalty import L2ToReference, ParameterPenalty
from foretell.training.result import FitResult, TrainingInterrupted
from foretell.training.strategy import Gradient, Strategy
from foretell.training.weighting import ImportanceWeighting

__all__ = [
    "Context",
    "Evaluation",
    "Examples",
    "FitResult",
    "Gradient",
    "ImportanceWeighting",
    "L2ToReference",
    "ParameterPenalty",
    "Strategy",
    "TensorExamples",
    "TrainingInterrupted",
    "WeightAveraging",
    "fit",
    "load_checkpoint",
    "pad_batch",
    "save_checkpoint",
    "use_threads",
    "useful_threads",
    "weighted_gradient",
]
