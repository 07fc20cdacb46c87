"""How: iterations that find eigenpairs, without derivatives."""
