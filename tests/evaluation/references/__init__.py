"""What other programs made, to compare with, and how it was recorded."""
