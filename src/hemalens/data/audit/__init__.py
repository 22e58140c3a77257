"""A source to its audit: statistics of each image, checks that read them, one table of issues, a page."""
