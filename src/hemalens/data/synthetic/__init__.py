"""The embedded demo set: rendered (synthetic) blood-smear crops of the eight classes, drawn from a seed, without files.

No pixel comes from a patient. The images show the way through the program; a score on them says nothing about real
blood. Needs numpy and scipy.ndimage; no torch.
"""

from hemalens.data.synthetic.dataset import SyntheticSet, render_cell, synthetic_set, write_synthetic

__all__ = ["SyntheticSet", "render_cell", "synthetic_set", "write_synthetic"]
