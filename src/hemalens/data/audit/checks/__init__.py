"""One module per kind of finding; each turns statistics into rows of issues.csv."""
