"""Texts: utterances with intents and slots, questions, pairs, and their vocabularies."""

from foretell.data.text.conll import read_conll
from foretell.data.text.hashing import HashingVocabulary
from foretell.data.text.pairs import PairSet
from foretell.data.text.questions import QuestionSet
from foretell.data.text.spans import Tagged, repair_tags, spans_of
from foretell.data.text.subwords import SubwordTokenizer
from foretell.data.text.text_set import TextSet
from foretell.data.text.vocabulary import PADDING, UNKNOWN, Vocabulary

__all__ = [
    "PADDING",
    "UNKNOWN",
    "HashingVocabulary",
    "PairSet",
    "QuestionSet",
    "SubwordTokenizer",
    "Tagged",
    "TextSet",
    "Vocabulary",
    "read_conll",
    "repair_tags",
    "spans_of",
]
