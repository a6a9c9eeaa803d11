"""The course for a reader without a kernel: pages in which the widgets go on working.

Nothing in the model or the training code imports this package.
"""
