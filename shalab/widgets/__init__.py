"""What a reader looks at and touches: anywidgets that work offline and leave a picture and a text behind.

Nothing in the model or the training code imports this package.
"""

from shalab.widgets.explorer import AttentionExplorer

__all__ = ["AttentionExplorer"]
