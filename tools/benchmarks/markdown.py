"""Parts that the reports of all benchmarks share."""

from collections.abc import Iterable, Sequence


def heading(title: str, report: dict) -> list[str]:
    """Title, command, hardware and versions.

    Args:
        title: str.
        report: `command`, `hardware` as `tools.benchmarks.machine.hardware` gives it, `num_threads`, `versions`.
    """
    machine = report["hardware"]
    return [
        f"# {title}",
        "",
        f"    {report['command']}",
        "",
        f"{machine['processor']}, {machine['num_cores']} cores ({', '.join(machine['instructions'])}), "
        f"{machine['memory_gb']} GB, {machine['system']}; {report['num_threads']} threads. "
        + ", ".join(f"{name} {version}" for name, version in report["versions"].items())
        + ".",
        "",
    ]


def table(names: Sequence[str], rows: Iterable[Sequence]) -> list[str]:
    """The lines of a table."""
    return [
        "| " + " | ".join(str(cell) for cell in row) + " |" for row in (names, ("---",) * len(names), *rows)
    ]
