"""Images to batches."""

import numpy as np
import torch

from hemalens.training.tensors import LabelledImages, to_batch


def test_a_batch_holds_the_same_values_from_zero_to_one() -> None:
    images = torch.randint(0, 256, (2, 5, 5, 3), dtype=torch.uint8)
    batch = to_batch(images)
    assert batch.shape == (2, 3, 5, 5)
    assert batch.dtype == torch.float32
    assert torch.equal((batch * 255).round().to(torch.uint8).permute(0, 2, 3, 1), images)
    assert images.dtype == torch.uint8


def test_a_set_is_as_long_as_its_labels() -> None:
    assert len(LabelledImages(np.zeros((3, 4, 4, 3), np.uint8), np.zeros(3, np.int64), ("a", "b", "c"))) == 3
