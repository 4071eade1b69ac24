"""Public data sets: folder in; panel, event log, table or set of texts out."""

from foretell.data.public.clinical import physionet2012, physionet2019
from foretell.data.public.competitions import hierarchical_bottom, m3, tourism, tourism_australia
from foretell.data.public.demand import favorita, m4, walmart
from foretell.data.public.feedback import (
    adult,
    completejourney,
    hotel_bookings,
    movielens_100k,
    starbucks,
)
from foretell.data.public.language import atis, nlu_atis_snips, nlu_evaluation, snips
from foretell.data.public.newsgroups import newsgroups20
from foretell.data.public.retail import orange_juice
from foretell.data.public.sensors import ett, exchange_rate, pedestrian, vic_elec
from foretell.data.public.supplied import favorita_full, m5, rossmann, uci_electricity
from foretell.data.public.texts import (
    clinc150,
    lm_text,
    question_generation,
    seq2seq_small,
    wnut17,
    xquad,
)

__all__ = [
    "adult",
    "atis",
    "clinc150",
    "completejourney",
    "ett",
    "exchange_rate",
    "favorita",
    "favorita_full",
    "hierarchical_bottom",
    "hotel_bookings",
    "lm_text",
    "m3",
    "m4",
    "m5",
    "movielens_100k",
    "newsgroups20",
    "nlu_atis_snips",
    "nlu_evaluation",
    "orange_juice",
    "pedestrian",
    "physionet2012",
    "physionet2019",
    "question_generation",
    "rossmann",
    "seq2seq_small",
    "snips",
    "starbucks",
    "tourism",
    "tourism_australia",
    "uci_electricity",
    "vic_elec",
    "walmart",
    "wnut17",
    "xquad",
]
