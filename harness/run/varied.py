"""The same measurement with other batches, or in another number of processes."""

from harness.descriptions import OptionsBase


def vary_batch(options: OptionsBase) -> OptionsBase:
    """The same measurement with batches half as large; of two where they hold one."""
    if options.BATCH is None:
        return options
    size = getattr(options, options.BATCH)
    half = options.VARIED if size == "auto" else min(size // 2, options.VARIED) or 2
    return options.model_copy(update={options.BATCH: half})


def with_repeats(options: OptionsBase, repeats: int) -> OptionsBase:
    """The same measurement in so many processes, where it can be made in several."""
    known = options.REPEATS
    return options if known is None else options.model_copy(update={known: repeats})
