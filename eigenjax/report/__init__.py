"""What a person sees of a spectrum: the problem, the run, tables, files and pictures."""
