"""The command line's report of a spectrum: `command` runs it.

`inputs/` is the problem to analyze, `analysis/` the computations, `pictures/` the plots, and `output/` the files
and the HTML page.

Imports everything below it.
"""
