"""Who shares the batches of a training: devices of this machine, and processes on this or other machines."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from captioner.model import ImageCaptioner
from trainers.run_folder import RunFolder
from trainers.settings import TrainSettings

log = logging.getLogger("captioner")

AUTO = "auto"
EXIT_SECONDS = 30
"""What JAX waits for lost processes when Python exits; those that are well exit together."""
_LOST = ("Gloo", "NCCL", "heartbeat", "coordination", "Coordination")
"""Words of JAX's errors when another process is gone."""


class LostProcessError(ConnectionError):
    """Another process of the training ended or cannot be reached."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workers:
    """What shares each batch: all devices of all processes, in equal parts."""

    devices: tuple[str, ...] = ()
    """Devices of this process by their names; none for the one that the backend takes by itself."""
    process_index: int = 0
    """Which process this is, from 0."""
    num_processes: int = 1
    """Processes, each with as many devices."""

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.process_index == 0

    @property
    def num_shares(self) -> int:
        """Parts that a batch is cut into."""
        return self.num_processes * max(len(self.devices), 1)

    def share_of(self, batch_size: int) -> int:
        """Images of a batch that this process reads.

        Raises:
            ValueError: If the batch cannot be cut into equal parts.
        """
        if batch_size % self.num_shares:
            raise ValueError(
                f"`batch_size` must be a multiple of {self.num_shares}, the devices of all processes; received "
                f"batch_size={batch_size}."
            )
        return batch_size // self.num_processes

    def highest(self, number: int) -> int:
        """The highest of the numbers that all processes call this with."""
        if self.num_processes == 1:
            return number
        from jax.experimental import multihost_utils

        return int(multihost_utils.process_allgather(np.int32(number)).max())

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """What is built in the block belongs to this process alone."""
        if self.num_processes == 1:
            yield
            return
        before = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(before)

    @contextlib.contextmanager
    def run_opened(self, settings: TrainSettings) -> Iterator[RunFolder]:
        """The folder of the run during the block, which only the first process writes; see `RunFolder.opened`."""
        run = RunFolder(settings.run_dir, writes=self.is_first)
        with contextlib.ExitStack() as stack:
            with self.first_before_others("the run folder"):
                stack.enter_context(run.opened(settings.to_dict(), settings.resume))
            yield run
            self.wait_for_all("the end of the run")

    @contextlib.contextmanager
    def first_before_others(self, place: str) -> Iterator[None]:
        """Runs a block in the first process, and then in the others."""
        if not self.is_first:
            self.wait_for_all(place)
        yield
        if self.is_first:
            self.wait_for_all(place)

    def wait_for_all(self, place: str) -> None:
        """Returns when all processes are at the same place of the program."""
        if self.num_processes > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(place)


ALONE = Workers()
"""One process on the device that its backend takes."""


@contextlib.contextmanager
def joined_workers(settings: TrainSettings) -> Iterator[Workers]:
    """Joins the other processes, if there are any, and takes the devices into use during the block.

    Models must be built in the block.

    Raises:
        ValueError: If the devices are not there, or the backend cannot do what is asked for.
        LostProcessError: If the other processes do not come.
    """
    _check(settings)
    if settings.num_processes > 1:
        _join(settings)
    available = _available_devices()
    chosen = choose_devices(settings.devices, available)
    if len(chosen) == settings.num_processes == 1 and chosen[0] == available[0]:
        yield ALONE
        return
    workers = Workers(
        devices=tuple(chosen), process_index=settings.process_index, num_processes=settings.num_processes
    )
    workers.share_of(settings.batch_size)
    log.info("%d devices in %d processes share each batch.", workers.num_shares, workers.num_processes)
    if keras.config.backend() == "tensorflow":
        yield workers
        return
    with explained_losses(), _data_parallel(settings.devices).scope():
        yield workers


def choose_devices(words: str, available: Sequence[str]) -> list[str]:
    """The devices that `auto`, a number of them, or their positions with commas between mean.

    Raises:
        ValueError: If the words mean nothing, or devices that are not there.
    """
    if words == AUTO:
        return list(available)
    try:
        numbers = [int(word) for word in words.split(",") if word]
    except ValueError:
        numbers = []
    places = numbers if "," in words else list(range(sum(numbers)))
    if not places or len(set(places)) < len(places) or not all(0 <= n < len(available) for n in places):
        raise ValueError(
            f"`devices` must be a number of devices, auto, or positions such as 0,2, of those that are there: "
            f"{', '.join(available)}; received {words!r}."
        )
    return [available[place] for place in places]


@contextlib.contextmanager
def explained_losses() -> Iterator[None]:
    """Says in a user's words what JAX reports when it cannot reach another process."""
    if keras.config.backend() != "jax":
        yield
        return
    import jax

    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # which of them, depends on where it happens
        if jax.process_count() == 1 or not any(word in str(error) for word in _LOST):
            raise
        raise LostProcessError(
            f"a process of this training ended or cannot be reached; its own message says why. The last checkpoint is "
            f"intact: start all processes again with --resume. ({str(error).splitlines()[0]})"
        ) from error


def require_shareable(settings: TrainSettings, captioner: ImageCaptioner) -> None:
    """Refuses what cannot be trained on several devices.

    Raises:
        ValueError: If that is so.
    """
    if settings.objective == "self_critical":
        raise ValueError(
            "`objective`=self_critical trains on one device in one process; received several. Leave `devices` and "
            "`num_processes` at 1."
        )
    if settings.num_processes > 1 and settings.gradient_accumulation_steps > 1:
        raise ValueError(
            "`gradient_accumulation_steps` must be 1 with several processes, which do not know how many tokens the others "
            f"have in an update; received {settings.gradient_accumulation_steps}. Raise `num_processes` or `batch_size` instead."
        )
    if captioner.backbone.train_batch_norm:
        raise ValueError(
            "`image_encoder_weights`=none with image_encoder among the train_parts learns batch statistics, which are "
            "those of one device only: take pretrained weights, or leave `devices` and `num_processes` at 1."
        )


def _check(settings: TrainSettings) -> None:
    backend = keras.config.backend()
    if settings.num_processes > 1 and backend != "jax":
        raise ValueError(
            f"`num_processes`={settings.num_processes} needs KERAS_BACKEND=jax; it is {backend}. Within one machine "
            "`devices` works on TensorFlow too."
        )
    if settings.devices != "1" and backend not in ("jax", "tensorflow"):
        raise ValueError(
            f"`devices`={settings.devices!r} needs KERAS_BACKEND=tensorflow or jax; it is {backend}."
        )


def _join(settings: TrainSettings) -> None:
    import jax

    if jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(
            coordinator_address=settings.coordinator,
            num_processes=settings.num_processes,
            process_id=settings.process_index,
            initialization_timeout=round(settings.process_timeout_s),
            heartbeat_timeout_seconds=round(settings.process_timeout_s),
            shutdown_timeout_seconds=EXIT_SECONDS,
        )
    except (jax.errors.JaxRuntimeError, RuntimeError) as error:
        raise LostProcessError(
            f"process {settings.process_index} did not find all {settings.num_processes} processes at "
            f"{settings.coordinator}: {str(error).splitlines()[0]} They must start within "
            f"{settings.process_timeout_s:g} s of each other (--process-timeout-s)."
        ) from error


def _available_devices() -> list[str]:
    """The devices of this process: GPUs, or processors where there are none."""
    if keras.config.backend() == "jax":
        import jax

        return [_name(device) for device in jax.local_devices()]
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return [
            device.name
            for device in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        ]
    return ["0"]


def _data_parallel(words: str) -> keras.distribution.DataParallel:
    """The devices of all processes, process after process."""
    import jax

    devices = [
        name
        for process in range(jax.process_count())
        for name in choose_devices(words, [_name(device) for device in jax.local_devices(process)])
    ]
    # Each process reads its own share.
    return keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)


def _name(device) -> str:
    return f"{device.platform}:{device.id}"
