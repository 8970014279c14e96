"""The expert store: weights under a hard limit of memory, experts beyond it streamed from the disk.

load.py is where it begins; store.py decides what is in memory, and reader.py brings it there.
"""
