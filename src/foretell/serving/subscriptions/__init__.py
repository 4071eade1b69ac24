"""Subscriptions: others are told what is new here, and we hear what is new elsewhere."""

from foretell.serving.subscriptions.criteria import TOPICS, Criteria, read_criteria
from foretell.serving.subscriptions.fanout import FanOut
from foretell.serving.subscriptions.incoming import Notification, read_notification
from foretell.serving.subscriptions.notifications import notification, status_of
from foretell.serving.subscriptions.resource import Wanted, read_subscription, shown
from foretell.serving.subscriptions.sink import SubscriptionSink

__all__ = [
    "TOPICS",
    "Criteria",
    "FanOut",
    "Notification",
    "SubscriptionSink",
    "Wanted",
    "notification",
    "read_criteria",
    "read_notification",
    "read_subscription",
    "shown",
    "status_of",
]
