"""`supervit convert`."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from supervit.commands._opening import Overrides
from supervit.complexity import grid_text
from supervit.errors import InputError


@dataclass(frozen=True)
class Convert:
    """Write any weights that `supervit.load` takes as a model directory of ours."""

    source: tyro.conf.Positional[str]
    """Weights file or directory: released SuperViT, or DeiT/ViT with timm's or Hugging Face's names."""
    out: tyro.conf.Positional[Path]
    """Directory to write model.safetensors and config.json into."""
    overwrite: bool = False
    """Write over weights that are there."""
    overrides: Overrides = field(default_factory=Overrides)

    def run(self) -> None:
        """Load, then write."""
        from supervit.checkpoints import load
        from supervit.macs import macs
        from supervit.storage import CONFIG_FILE, WEIGHTS_FILE

        if not self.overwrite and (there := [name for name in (WEIGHTS_FILE, CONFIG_FILE) if (self.out / name).exists()]):
            raise InputError(
                f"{str(self.out)!r} has {' and '.join(there)} already; name another directory, or write over them: --overwrite"
            )
        model = load(self.source, **self.overrides.given())
        model.save(self.out)
        config = model.config
        cost = macs(config, config.space.largest) / 1e9
        print(
            f"wrote {self.out}: {config.family}, width {config.embed_dim}, {config.depth} blocks, {config.num_heads} heads, "
            f"{config.num_classes} classes, grid sizes {', '.join(map(grid_text, config.grid_sizes))}, {cost:.2f} GMACs uncut"
        )
