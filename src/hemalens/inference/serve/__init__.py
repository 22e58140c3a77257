"""The server's parts: what it accepts, how it batches, what it answers, and its page. No torch."""
