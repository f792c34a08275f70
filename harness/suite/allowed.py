"""The fields of a question, which stop a comparison where they differ unless that is allowed."""

from harness.errors import InputError

# The first parts of their names, `protocol` of `protocol.shots`.
QUESTION = ("tokenizer", "items", "protocol", "cpu", "threads", "gpu")
# Of these groups, but none of the question: settings of a machine, and software.
CONDITIONS = ("gpu.power_limit_w", "gpu.max_sm_mhz", "gpu.max_memory_mhz")
DRIVER = "gpu.driver"


def is_question(field: str) -> bool:
    """Whether a difference in ``field`` means that something else was asked."""
    return field.partition(".")[0] in QUESTION and field not in (*CONDITIONS, DRIVER)


def check_allowed(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names; raises `InputError` for one that no field of a question can have."""
    for name in names:
        if not is_question(name):
            raise InputError(
                f"{name!r} is no field that stops a comparison; those are {', '.join(QUESTION)} "
                "and their parts, such as protocol.shots"
            )
    return names
