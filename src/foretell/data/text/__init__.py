"""Texts: utterances with intents and slots, and their vocabularies."""

from foretell.data.text.hashing import HashingVocabulary
from foretell.data.text.spans import Tagged, spans_of
from foretell.data.text.text_set import TextSet
from foretell.data.text.vocabulary import PADDING, UNKNOWN, Vocabulary

__all__ = ["PADDING", "UNKNOWN", "HashingVocabulary", "Tagged", "TextSet", "Vocabulary", "spans_of"]
