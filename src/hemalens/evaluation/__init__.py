"""From a model and samples to scores, figures and the report."""
