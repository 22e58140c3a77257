"""From a source of images to clean, split samples; needs no torch."""
