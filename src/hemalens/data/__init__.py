"""From a source of pictures to clean, split samples; needs no torch."""
