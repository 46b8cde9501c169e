"""`supervit label`."""

import sys
from dataclasses import dataclass

from supervit.options import LabelConfig


@dataclass(frozen=True)
class Label(LabelConfig):
    """Make label maps of an image folder with any timm teacher: what token labelling (LV-ViT) learns from."""

    def run(self) -> None:
        """Label what has no label map yet, say what was done."""
        from supervit.label import label_folder

        done = label_folder(self)
        for image in done.damaged:
            print(f"skipped a damaged image: {image}", file=sys.stderr)
        print(f"wrote {done.written} label maps into {self.out}, kept {done.kept}, skipped {len(done.damaged)} damaged images")
