"""The competition's zip: packed, unpacked, and run as the competition runs it."""
