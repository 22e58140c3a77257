"""From the records of runs to the report: page, PDF and model card; needs neither torch nor training."""
