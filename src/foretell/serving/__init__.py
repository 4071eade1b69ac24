"""The service: messages in, scores and alarms out, nothing lost on the way."""
