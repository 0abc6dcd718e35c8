"""Parts that the reports of all benchmarks share."""

from collections.abc import Iterable, Sequence


def heading(title: str, report: dict) -> list[str]:
    """Title, command, hardware and versions.

    Args:
        title: str.
        report: `command`, `hardware` as `tools.benchmarks.machine.hardware` gives it, `num_threads`, `versions`.
    """
    return [
        f"# {title}",
        "",
        f"    {report['command']}",
        "",
        f"{machine_line(report['hardware'])}; {report['num_threads']} threads. {versions_line(report['versions'])}.",
        "",
    ]


def machine_line(machine: dict) -> str:
    """What `hardware` gave, in words."""
    return (
        f"{machine['processor']}, {machine['num_cores']} cores ({', '.join(machine['instructions'])}), "
        f"{machine['memory_gb']} GB, {machine['system']}"
    )


def versions_line(versions: dict[str, str]) -> str:
    """Packages and their versions, in words."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def table(names: Sequence[str], rows: Iterable[Sequence]) -> list[str]:
    """The lines of a table."""
    return [
        "| " + " | ".join(str(cell) for cell in row) + " |" for row in (names, ("---",) * len(names), *rows)
    ]
