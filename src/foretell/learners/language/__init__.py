"""Language: joint intent and slot models, text classifiers, taggers."""

from foretell.learners.language.bag_of_words import BagExamples, BagOfWordsLearner, BagReader
from foretell.learners.language.embeddings import CharacterCNN, WordEmbedding
from foretell.learners.language.encoders import BiLSTMEncoder, TransformerEncoder
from foretell.learners.language.joint import JointLearner, JointOutput, JointShape
from foretell.learners.language.reader import IGNORED, TextExamples, TextReader
from foretell.learners.language.understanding import Understanding

__all__ = [
    "IGNORED",
    "BagExamples",
    "BagOfWordsLearner",
    "BagReader",
    "BiLSTMEncoder",
    "CharacterCNN",
    "JointLearner",
    "JointOutput",
    "JointShape",
    "TextExamples",
    "TextReader",
    "TransformerEncoder",
    "Understanding",
    "WordEmbedding",
]
