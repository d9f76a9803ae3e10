"""A model of the training step against the number of chips: where data parallelism stops paying.

    python -m benchmarks.scaling_model [--chip h100] [--batch 64] [--peak_share 0.3]
        [--gradient_bytes 4]

Prints a Markdown table, as in docs/launching.md. Nothing is measured: every constant says where
it comes from. A chip takes its share of the batch, then gradients are summed over all chips, then
each chip applies the same update; that nothing of this overlaps is a bound from above, since XLA
begins to sum before the last gradient is there.
"""

import argparse
import dataclasses

PARAMETERS = 124_557_126
"""Of `configs/flexunet.py`: the size of its parameter tree."""
FLOP_AN_IMAGE = 216e9
"""Training at 512 x 512: three times the 72 GFLOP of the forward pass."""
READ_CPU_S_A_SLICE = 3.0e-3
"""Reading, shuffling and decoding, CPU seconds; measured: RESULTS.md, "Data preparation"."""
UPDATE_PASSES = 7
"""Adam reads parameters, gradients and two moments, and writes all but the gradients."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip and the host it sits in; all figures are its vendor's, reached by no program.

    Attributes:
        name: as in tables.
        flops: FLOP/s of dense matrix products in the precision of the recipe's float32 on it.
        memory: bytes/s of the chip's own memory.
        link: bytes/s of a chip to the others of its host (TPU: of its slice), in one direction.
        network: bytes/s of a chip's share of the network between hosts, in one direction.
        host_chips: chips joined by `link`.
    """

    name: str
    flops: float
    memory: float
    link: float
    network: float
    host_chips: int


CHIPS = {
    # NVIDIA H100 data sheet, SXM: TF32 without sparsity, NVLink 900 GB/s both ways. DGX H100 data
    # sheet: eight chips, a port of 400 Gb/s each.
    "h100": Chip("H100 SXM", 495e12, 3.35e12, 450e9, 50e9, 8),
    # NVIDIA A100 data sheet, SXM 80 GB: TF32, NVLink 600 GB/s both ways. DGX A100 data sheet: eight
    # chips, a port of 200 Gb/s each.
    "a100": Chip("A100 SXM", 156e12, 2.04e12, 300e9, 25e9, 8),
    # Cloud TPU documentation, v5e: bfloat16 products, links of 400 GB/s both ways, up to 256 chips.
    "v5e": Chip("TPU v5e", 197e12, 0.82e12, 200e9, 200e9, 256),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """What a training step takes, in seconds.

    Attributes:
        images: of the whole batch.
        compute: of forward and backward pass, of one chip's share of the batch.
        all_reduce: of summing the gradients.
        update: of Adam.
    """

    images: int
    compute: float
    all_reduce: float
    update: float

    @property
    def seconds(self) -> float:
        """The three together."""
        return self.compute + self.all_reduce + self.update

    @property
    def images_a_second(self) -> float:
        """Over all chips."""
        return self.images / self.seconds

    @property
    def reading_cores(self) -> float:
        """CPU cores, over all hosts, that read as fast as the chips train."""
        return self.images_a_second * READ_CPU_S_A_SLICE


def all_reduce_seconds(size: float, chips: int, chip: Chip) -> float:
    """A ring within each host, then one ring between the hosts for each of a host's chips.

    A ring of n sends 2 (n - 1) / n of the bytes over each link (Patarasuk and Yuan 2009, "Bandwidth
    optimal all-reduce algorithms"); after the first, every chip of a host has 1/k of them to sum.

    Args:
        size: bytes.
        chips: how many in all; above `host_chips`, a multiple of it.
        chip: gives the bandwidths.
    """
    inside = min(chips, chip.host_chips)
    hosts = chips // inside
    within = 2 * (inside - 1) / inside * size / chip.link
    between = 2 * (hosts - 1) / hosts * size / inside / chip.network
    return within + between


def model(chip: Chip, chips: int, images: int, peak_share: float, gradient_bytes: int = 4) -> Step:
    """A step of `images`, divided over `chips`; float32 parameters and moments.

    Args:
        chip: vendor's figures.
        chips: devices.
        images: the batch of all chips; at least one a chip.
        peak_share: share of `chip.flops` that the network's convolutions reach.
        gradient_bytes: of each gradient that is summed: 4, or 2 for bfloat16.
    """
    return Step(
        images,
        compute=images / chips * FLOP_AN_IMAGE / (peak_share * chip.flops),
        all_reduce=all_reduce_seconds(PARAMETERS * gradient_bytes, chips, chip),
        update=UPDATE_PASSES * 4 * PARAMETERS / chip.memory,
    )


def table(chip: Chip, images: int, peak_share: float, gradient_bytes: int = 4) -> str:
    """Markdown: a row for 1, 2, 4, ... chips until each has one image of the batch."""
    lines = [
        "| chips | images a chip | compute, ms | all-reduce, ms | update, ms | images/s "
        "| of ideal | gain of the last doubling | cores to read |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    first = previous = model(chip, 1, images, peak_share, gradient_bytes)
    chips = 1
    while chips <= images:
        step = model(chip, chips, images, peak_share, gradient_bytes)
        ideal = step.images_a_second / (chips * first.images_a_second)
        gain = f"{step.images_a_second / previous.images_a_second:.2f}" if chips > 1 else ""
        lines.append(
            f"| {chips} | {images // chips} | {1e3 * step.compute:.1f} "
            f"| {1e3 * step.all_reduce:.1f} | {1e3 * step.update:.1f} "
            f"| {step.images_a_second:.0f} | {ideal:.0%} | {gain} | {step.reading_cores:.1f} |"
        )
        previous = step
        chips *= 2
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chip", choices=sorted(CHIPS), default="h100")
    parser.add_argument("--batch", type=int, default=64, help="images of all chips together")
    parser.add_argument(
        "--peak_share", type=float, default=0.3, help="share of the peak FLOP/s that is reached"
    )
    parser.add_argument(
        "--gradient_bytes", type=int, choices=(2, 4), default=4, help="2: bfloat16 gradients"
    )
    arguments = parser.parse_args()
    if arguments.batch < 1 or not 0 < arguments.peak_share <= 1:
        parser.error("--batch is from 1 up, --peak_share above 0 and up to 1")
    chip = CHIPS[arguments.chip]
    print(table(chip, arguments.batch, arguments.peak_share, arguments.gradient_bytes))


if __name__ == "__main__":
    main()
