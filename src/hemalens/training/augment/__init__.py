"""Batched augmentation on the device: whole batches at once, every sample with its own draw."""
