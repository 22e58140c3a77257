"""A model in service without torch: opened, run over many images, served by HTTP."""
