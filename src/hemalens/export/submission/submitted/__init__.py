"""What goes into a submission as it is: ``model.py`` and the runtimes it may load; nothing here imports hemalens."""
