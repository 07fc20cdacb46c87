"""Files of a report: the folder and its manifest, records as JSON, the HTML page.

Imports `report.inputs`, `report.analysis` and `report.pictures`.
"""
