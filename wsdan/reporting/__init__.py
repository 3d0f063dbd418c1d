"""The report of a checkpoint: one HTML page that needs nothing else.

`observe` reads the validation images once and keeps counts and a few examples, `photographs` shows
those, `content` gathers all that the page says, and `page` fills in the template.
"""
