"""hemalens: from a pile of labelled blood-cell pictures, dirty as they come, to a classifier its user can trust."""
