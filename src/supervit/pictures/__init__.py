"""Pictures: curves of a run, accuracy over cost, confusions, what is dropped. Matplotlib is imported where they are drawn."""

from supervit.pictures._canvas import FORMS, check_plotting, picture, picture_files

__all__ = ["FORMS", "check_plotting", "picture", "picture_files"]
