"""dbbench: subject-driven generation measured by the DreamBooth protocol.

Nothing is imported here, so that `import dbbench` costs nothing.
"""

__version__ = "0.1.0"
