"""Training on data that stays with its clients, on Flower's message API."""

from __future__ import annotations

from importlib.util import find_spec

from foretell.errors import ForetellError

if find_spec("flwr") is None:
    raise ForetellError("federated training needs Flower: pip install 'foretell[federated]'")

from foretell.training.federated.accounting import ClientPrivacy, client_epsilons
from foretell.training.federated.activity import ActivityLog, private_activity
from foretell.training.federated.central import central_gap, train_centrally
from foretell.training.federated.client import client_app
from foretell.training.federated.clients import Clients, ListedClients, SplitClients
from foretell.training.federated.continual import (
    ContinualClients,
    ContinualResult,
    ContinualSchedule,
    Fifo,
    KeepAll,
    Reservoir,
    Window,
    run_continual,
)
from foretell.training.federated.draws import inclusion_probabilities
from foretell.training.federated.freezing import freeze
from foretell.training.federated.grid import InProcessGrid
from foretell.training.federated.guard import SizeCap
from foretell.training.federated.local import LocalTraining
from foretell.training.federated.nodes import ClientGrid
from foretell.training.federated.result import FederatedResult
from foretell.training.federated.run import run_federated
from foretell.training.federated.scaffold_server import Scaffold
from foretell.training.federated.selection import ActivitySelection
from foretell.training.federated.server import Server
from foretell.training.federated.statement import (
    FederatedStatement,
    federated_statement,
    local_statement,
)
from foretell.training.federated.strategies import make_strategy
from foretell.training.federated.weights import aggregation_weights
from foretell.training.federated.with_selection import WithSelection

__all__ = [
    "ActivityLog",
    "ActivitySelection",
    "ClientGrid",
    "ClientPrivacy",
    "Clients",
    "ContinualClients",
    "ContinualResult",
    "ContinualSchedule",
    "FederatedResult",
    "FederatedStatement",
    "Fifo",
    "InProcessGrid",
    "KeepAll",
    "ListedClients",
    "LocalTraining",
    "Reservoir",
    "Scaffold",
    "Server",
    "SizeCap",
    "SplitClients",
    "Window",
    "WithSelection",
    "aggregation_weights",
    "central_gap",
    "client_app",
    "client_epsilons",
    "federated_statement",
    "freeze",
    "inclusion_probabilities",
    "local_statement",
    "make_strategy",
    "private_activity",
    "run_continual",
    "run_federated",
    "train_centrally",
]
