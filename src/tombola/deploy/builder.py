"""State of a lowering: where each value is, in a block of the kernels or in torch."""

from dataclasses import dataclass, field

from .blocks import Block
from .chains import Chain, sizes_of
from .dead import shape_of
from .graph import Graph, Ref
from .program import Program, load, store


@dataclass
class Builder:
    """State of a lowering."""

    graph: Graph
    program: Program
    chains: dict[str, Chain]
    """By the last node of each."""
    blocks: dict[str, Block] = field(default_factory=dict)
    phases: dict[tuple[str, int], Block] = field(default_factory=dict)
    torch: set[str] = field(default_factory=set)
    """Values that torch has at this place of the program."""
    pads: dict[tuple[str, int], int] = field(default_factory=dict)
    """Zeros that readers of a value's phases need around, by value and stride."""

    def new_block(self, name: str, channels: int, height: int = 1, width: int = 1) -> Block:
        pad = self.pads.get((name, 1), 0)
        self.blocks[name] = Block(channels, height, width, self.program.chunk, pad)
        return self.blocks[name]

    def block(self, ref: Ref) -> Block:
        """Return the block of a value, loaded from torch if it has none."""
        if ref.name not in self.blocks:
            block = self.new_block(ref.name, *sizes_of(shape_of(self.graph, ref.name)))
            self.program.step(ref.name, load(ref.name, block, shape_of(self.graph, ref.name)))
        return self.blocks[ref.name]

    def strided(self, ref: Ref, stride: int) -> Block:
        """Return the block of the stride^2 phases of a value."""
        x = self.block(ref)
        if stride == 1:
            return x
        if (ref.name, stride) not in self.phases:
            height, width = -(-x.height // stride), -(-x.width // stride)
            pad = self.pads[ref.name, stride]
            y = Block(x.channels * stride**2, height, width, x.chunk, pad)
            sizes = {"channels": x.channels, "height": x.height, "width": x.width, "chunk": x.chunk, "stride": stride}
            self.program.operation("phase", ref.name, **places("x", x), **places("y", y), **sizes)
            self.program.held.append(y.buffer)
            self.phases[ref.name, stride] = y
        return self.phases[ref.name, stride]

    def in_torch(self, name: str) -> None:
        """Have a value in torch, copied from its block if need be."""
        if name in self.blocks and name not in self.torch:
            shape = shape_of(self.graph, name)
            self.program.step(name, store(name, self.blocks[name], shape))
        self.torch.add(name)


def places(prefix: str, block: Block) -> dict[str, int]:
    """Return the address and strides of a block as fields of an operation."""
    return {prefix: block.address, f"{prefix}_row": block.row, f"{prefix}_plane": block.plane}
