"""``python -m hemalens``: the command line, where no script of that name is on the path."""

from hemalens.cli import main

if __name__ == "__main__":  # worker processes import this module too
    main()
