"""Jobs over whole data sets.

Empty on purpose: extraction needs torch, and what only reads a store must not load it.
"""
