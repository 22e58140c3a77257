"""A trained model in service: exported, opened without torch, run over many pictures."""
