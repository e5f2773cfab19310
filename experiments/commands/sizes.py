"""The ladder of sizes as a table."""

from dataclasses import dataclass

from experiments.commands.common import DONE


@dataclass
class SizesCommand:
    """The ladder of encoder sizes: width, blocks of each of two towers, heads x width, exact parameters, and matrix GFLOPs of an
    item with photo and title, forwards. Nothing is built.

    Example: moon sizes --vocabulary 151936 --side 224 --patch 16 --text 64
    """

    vocabulary: int = 32_768
    side: int = 224
    """Of square images, in pixels."""
    patch: int = 16
    text: int = 32
    """Tokens of a title."""
    embedding: int = 512

    def __call__(self) -> int:
        import jax
        import numpy as np
        from flax import nnx
        from rich.console import Console
        from rich.table import Table

        from moon_jax.flops import count_flops
        from moon_jax.models.encoder import EncoderConfig
        from moon_jax.models.shapes import WIDTHS
        from moon_jax.stages.contrastive_step import graph_of

        table = Table()
        for name in ("size", "width", "blocks", "heads", "parameters", "in tables", "GFLOP"):
            table.add_column(name, justify="left" if name == "size" else "right", no_wrap=True)
        for size in WIDTHS:
            config = EncoderConfig(
                size,
                height=self.side,
                width=self.side,
                patch=self.patch,
                vocabulary=self.vocabulary,
                embedding=self.embedding,
            )
            graph, read = graph_of(config), config.decoder_shape
            params = nnx.split(nnx.eval_shape(lambda config=config: config.build(0)))[1]
            images = jax.ShapeDtypeStruct((1, self.side, self.side, 3), np.uint8)
            words = jax.ShapeDtypeStruct((1, self.text), np.int32)
            forward = count_flops(lambda p, i, t, graph=graph: nnx.merge(graph, p)(i, t), params, images, words)
            tables = (self.vocabulary + config.patches) * read.width
            table.add_row(
                size,
                f"{read.width:,}",
                str(read.depth),
                f"{read.heads} x {read.head}",
                f"{config.parameters():,}",
                f"{tables / config.parameters():.0%}",
                f"{forward / 1e9:,.3g}",
            )
        Console().print(table)
        return DONE
