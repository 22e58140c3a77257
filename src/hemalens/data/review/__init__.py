"""An audit to a person's decisions on it: a page on this machine, and the journal that outlives a kill."""
