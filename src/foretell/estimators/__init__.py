"""What users hold: ``fit``, ``predict``, ``save``, ``load`` around a learner and its training."""
