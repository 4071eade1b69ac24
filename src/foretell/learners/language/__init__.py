"""Language: joint models, classifiers, taggers, answers, text to text, language models."""

from foretell.learners.language.answers import Answers
from foretell.learners.language.bag_of_words import BagExamples, BagOfWordsLearner, BagReader
from foretell.learners.language.embeddings import CharacterCNN, WordEmbedding
from foretell.learners.language.encoders import BiLSTMEncoder, TransformerEncoder
from foretell.learners.language.hugging_face import HuggingFaceEncoder
from foretell.learners.language.joint import JointLearner, JointOutput, JointShape
from foretell.learners.language.language_model import LanguageModelLearner, LanguageModelShape
from foretell.learners.language.pair_reader import PairExamples, PairReader
from foretell.learners.language.reader import IGNORED, TextExamples, TextReader
from foretell.learners.language.recurrent import GRU
from foretell.learners.language.search import generate
from foretell.learners.language.seq2seq import Seq2SeqLearner, Seq2SeqOutput, Seq2SeqShape
from foretell.learners.language.span import SpanLearner, SpanOutput, SpanShape
from foretell.learners.language.span_reader import SpanExamples
from foretell.learners.language.stream_reader import (
    PRINTABLE,
    LanguageModelExamples,
    StreamReader,
)
from foretell.learners.language.tokens import TokenLearner
from foretell.learners.language.understanding import Understanding

__all__ = [
    "GRU",
    "IGNORED",
    "PRINTABLE",
    "Answers",
    "BagExamples",
    "BagOfWordsLearner",
    "BagReader",
    "BiLSTMEncoder",
    "CharacterCNN",
    "HuggingFaceEncoder",
    "JointLearner",
    "JointOutput",
    "JointShape",
    "LanguageModelExamples",
    "LanguageModelLearner",
    "LanguageModelShape",
    "PairExamples",
    "PairReader",
    "Seq2SeqLearner",
    "Seq2SeqOutput",
    "Seq2SeqShape",
    "SpanExamples",
    "SpanLearner",
    "SpanOutput",
    "SpanShape",
    "StreamReader",
    "TextExamples",
    "TextReader",
    "TokenLearner",
    "TransformerEncoder",
    "Understanding",
    "WordEmbedding",
    "generate",
]
