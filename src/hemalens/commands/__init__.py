"""The commands as functions, one thin one a stage; ``hemalens.cli`` registers them. Stages are imported when called."""
