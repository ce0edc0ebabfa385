"""``exporter report``: one page about artifacts and their measurements.

`read.gather` finds and reads, `build.build` lays out, `page` writes.
"""
