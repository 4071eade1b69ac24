"""HL7 version 2: messages, their times and what they say."""

from foretell.data.clinical.hl7.message import Hl7Error, Message
from foretell.data.clinical.hl7.reader import Hl7Reader, read_hl7, split_messages
from foretell.data.clinical.hl7.times import read_time

__all__ = ["Hl7Error", "Hl7Reader", "Message", "read_hl7", "read_time", "split_messages"]
