"""From bytes to pixels, one image or many: decoding by stated rules, resizing, worker processes; no torch."""
