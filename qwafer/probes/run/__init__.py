"""A run, executed again by code that shares nothing with the training path: does it hold what it claims?"""
