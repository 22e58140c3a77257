"""A document as data, and its three renderers: HTML, PDF and Markdown."""
