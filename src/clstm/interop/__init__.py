"""Models from elsewhere, and back: one module per format.

Nothing here executes code from a file. A file that is damaged, foreign or hostile raises ValueError; one that holds
what this library does not support raises NotImplementedError and names it.
"""
