"""What is done with a prediction: it takes predictions with their uncertainty, never a learner."""
