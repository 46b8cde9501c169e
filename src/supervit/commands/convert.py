"""`supervit convert`."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from supervit.commands._opening import Overrides


@dataclass(frozen=True)
class Convert:
    """Write any weights that `supervit.load` takes as a model directory of ours."""

    source: tyro.conf.Positional[str]
    """Weights file or directory: released SuperViT, or DeiT/ViT with timm's or Hugging Face's names."""
    out: tyro.conf.Positional[Path]
    """Directory to write model.safetensors and config.json into."""
    overrides: Overrides = field(default_factory=Overrides)

    def run(self) -> None:
        """Load, then write."""
        from supervit.checkpoints import load
        from supervit.macs import macs

        model = load(self.source, **self.overrides.given())
        model.save(self.out)
        config = model.config
        cost = macs(config, config.space.largest) / 1e9
        print(
            f"wrote {self.out}: {config.family}, width {config.embed_dim}, {config.depth} blocks, {config.num_heads} heads, "
            f"{config.num_classes} classes, grid sizes {', '.join(map(str, config.grid_sizes))}, {cost:.2f} GMACs uncut"
        )
