"""``exporter report``: artifacts and what was measured of them, as one page.

`read.gather` finds and reads, `build.build` lays out, `page` writes.
"""
