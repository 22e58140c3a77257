"""From clean samples to a trained model; the only phase built on torch."""
