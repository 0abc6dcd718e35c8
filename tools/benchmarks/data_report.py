"""The report of the data benchmark as Markdown."""

from tools.benchmarks.markdown import machine_line, table, versions_line

NAMES = {
    "tf": "**shards, engine tf**",
    "dali": "**shards, engine dali**",
    "csv": "**CSV trainer**",
    "decoder": "our decoder alone",
    "tf.data": "plain tf.data",
    "DALI": "plain DALI",
}
LIKE_FOR_LIKE = ("DALI", "webdataset+cv2", "webdataset+simplejpeg")
"""Peers that decode wholly, and resize with antialiasing, as ours."""


def markdown(report: dict) -> str:
    """Tables of speed, memory and start, with what they were measured on.

    Args:
        report: as `tools.benchmark_data.run` returns it.
    """
    left_out = ", ".join(NAMES.get(name, name).strip("*") for name in report["left_out"])
    readers = list(report["speed"][0]["cpu_ms"])
    return "\n".join([
        "# Reading training data",
        "",
        f"    {report['command']}",
        "",
        f"{machine_line(report['hardware'])}. {versions_line(report['versions'])}.",
        "",
        "CPU milliseconds of an image, all threads of a process together: read, decoded, resized with antialiasing, in "
        "float32 batches. Readers took turns, each in a process of its own; medians of "
        f"{report['repetitions']} differences between a long and a short pass. Photos are crops of a few, enlarged "
        f"where needed, as JPEGs of quality {report['jpeg_quality']}. "
        "Ours also shuffle, check and tokenize five captions an image; the others only read "
        "images, with their defaults. simplejpeg decodes wholly; `smaller` lets it decode to the next n/8 of the size "
        "above the result."
        + (f" Left out, as they cannot be imported: {left_out}." if left_out else ""),
        "",
        *table(
            ("JPEG", "bits a pixel", "to", *(NAMES.get(reader, reader) for reader in readers)),
            (_speed_row(row, readers) for row in report["speed"]),
        ),
        "",
        "Ratios of those, where more is better for us, but in the overhead:",
        "",
        *table(_RATIOS, map(_ratio_row, report["speed"])),
        "",
        "Indexing, once, CPU milliseconds of a sample: "
        + ", ".join(f"{size} {cost:.2f}" for size, cost in _indexing(report["speed"]).items())
        + ".",
        "",
        f"MB held after each epoch of {report['memory']['num_images']:,} small images:",
        "",
        *_memory_lines(report["memory"]),
        "",
        f"To the first batch of {report['first_batch']['num_shards']:,} indexed shards of "
        f"{report['first_batch']['samples_per_shard']:,} samples, imports apart, in a new process, the best of "
        f"{report['repetitions']}: "
        + ", ".join(
            f"engine {engine} {times['seconds']:.2f} s ({times['cpu_seconds']:.2f} s of CPU)"
            for engine, times in _engines(report["first_batch"])
        )
        + ".",
        "",
    ])  # fmt: skip


_RATIOS = (
    "JPEG", "to", "tf to plain tf.data", "CSV to plain tf.data", "dali to plain tf.data", "tf to the best peer",
    "best peer", "overhead of tf over its decoder",
)  # fmt: skip


def _speed_row(row: dict, readers: list[str]):
    return (
        _size(row), f"{row['bits_per_pixel']:.1f}", row["side"], *(f"{row['cpu_ms'][reader]:.2f}" for reader in readers)
    )  # fmt: skip


def _ratio_row(row: dict):
    cost = row["cpu_ms"]
    peers = [name for name in LIKE_FOR_LIKE if name in cost]
    best = min(peers, key=cost.get) if peers else None
    return (
        _size(row), row["side"],
        *(f"{cost['tf.data'] / cost[name]:.2f}" if name in cost else "-" for name in ("tf", "csv", "dali")),
        f"{cost[best] / cost['tf']:.2f}" if best else "-", NAMES.get(best, best) or "-",
        f"{cost['tf'] / cost['decoder'] - 1:.0%}",
    )  # fmt: skip


def _indexing(speed: list[dict]) -> dict[str, float]:
    return {_size(row): row["indexing_cpu_ms"] for row in speed}


def _memory_lines(memory: dict) -> list[str]:
    engines = _engines(memory)
    numbers = range(1, len(engines[0][1]) + 1)
    return table(
        ("engine", *numbers, "growth after the first"),
        (
            (engine, *(f"{held:.0f}" for held in epochs), f"{epochs[-1] / epochs[0] - 1:+.1%}")
            for engine, epochs in engines
        ),
    )


def _engines(values: dict) -> list:
    return [(engine, values[engine]) for engine in ("tf", "dali") if engine in values]


def _size(row: dict) -> str:
    return "{} x {}".format(*row["size"])
