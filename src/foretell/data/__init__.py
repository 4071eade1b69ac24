"""What was observed: panels of series, readers, splits, public data sets, simulators."""
