"""The part of the decoding benchmark's report that is about a folder of photos."""

from tools.benchmarks.markdown import table
from tools.benchmarks.photos import CAPTIONS_WAITED_FOR

_FOLDER = ("decoder", "photos", "reading alone/s", "model alone/s", "both/s", "share of the slower")


def photos_section(photos: dict) -> list[str]:
    """Tables of a folder's speed and of the first captions.

    Args:
        photos: as `tools.benchmarks.measure.measure_photos` returns it.
    """
    idle = photos["idle_rows"]
    return [
        f"A folder of photos. The preset {photos['preset']} in batches of {photos['batch_size']} with its own "
        "decoding settings. Reading alone is the threads of `captioner caption` without a model; the model alone has its "
        "photos in memory and resizes them too; both is `captioner caption --output` of the folder, which overlaps them. "
        "Measured after the model was compiled; at least 80 % of the slower of the two is wanted.",
        "",
        *table(_FOLDER, (_folder_row(dtype, row) for dtype, row in photos["folder"].items())),
        "",
        f"Of the row-steps of a batch, {idle['idle_share']:.0%} go to photos whose captions are settled already; it would be "
        f"{idle['whole_idle_share']:.0%} if batches were not halved when half of their photos are done "
        f"({idle['num_photos']} photos, each one's steps counted by itself).",
        "",
        "Seconds to the n-th caption, one photo at a time, in a new process: the model is loaded, nothing is compiled. In "
        "brackets the processor's seconds, of all threads.",
        "",
        *table(
            ("decoder", *CAPTIONS_WAITED_FOR),
            (_first_row(dtype, row) for dtype, row in photos["first_captions"].items()),
        ),
        "",
    ]


def _folder_row(dtype: str, row: dict) -> tuple:
    rates = [f"{row['num_photos'] / row[f'{part}_seconds']:.1f}" for part in ("reading", "model", "both")]
    return (dtype, row["num_photos"], *rates, f"{row['share_of_slower']:.0%}")


def _first_row(dtype: str, row: dict) -> tuple:
    counts = [str(count) for count in CAPTIONS_WAITED_FOR]
    return (
        dtype,
        *(
            f"{row['seconds'][count]:.1f} ({row['processor_seconds'][count]:.1f})"
            if count in row["seconds"]
            else "-"
            for count in counts
        ),
    )
