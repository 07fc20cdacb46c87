"""Report of a spectrum, as written by the command line: `command` runs it.

`inputs/` holds the problem to analyze, `analysis/` the computations, `pictures/` the plots, and `output/` the files
and the HTML page.

Imports every other folder of the package.
"""
