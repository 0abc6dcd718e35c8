"""What the training benchmark measures: steps beside the peer's, products of matrices, training from cached features."""

import contextlib
import dataclasses

from tools.benchmarks.measure import PEER, medians_of
from tools.benchmarks.worker import Worker

OURS = "tools.benchmarks.train_ours"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """A training step to be measured beside the peer's in float32."""

    encoder: str
    """"vit", the peer's, or "named", that of the architecture."""
    num_captions: int
    """Captions of each image (G)."""
    library: str
    """"tensorflow", "jax" or "torch", Keras's backends; "peer" is the peer itself."""
    dtype: str
    """"float32" or "bfloat16"."""
    gradient_checkpointing: bool = False
    """Whether transformer blocks are computed again in the backward pass."""
    clipping: bool = True
    """Whether the global norm of the gradient is clipped."""

    def __str__(self) -> str:
        checkpointing = ", gradient checkpointing" if self.gradient_checkpointing else ""
        clipping = "" if self.clipping else ", no clipping"
        return (
            f"{self.encoder}, {self.num_captions} captions an image, {self.library}, {self.dtype}"
            f"{checkpointing}{clipping}"
        )


class Measurer:
    """Starts workers for the training benchmark.

    Args:
        common: what all configurations share.
        pythons: interpreter of each library; one that is missing is not measured.
        repetitions: measurements of each, in turns; medians are reported.
    """

    def __init__(self, common: dict, pythons: dict[str, str], repetitions: int):
        self.common, self.pythons, self.repetitions = common, pythons, repetitions
        self.versions: dict[str, str] = {}
        """Of the libraries, filled by workers as they start."""

    def step(self, contestant: Contestant) -> dict:
        """Seconds of a step, of the first, peak memory and operations, of a contestant and of the peer in float32."""
        shared = {"num_captions": contestant.num_captions, "encoder": contestant.encoder, "part": "step"}
        of_ours = {
            name: getattr(contestant, name) for name in ("dtype", "gradient_checkpointing", "clipping")
        }
        wanted = {"ours": (contestant.library, of_ours)}
        if "peer" in self.pythons and (contestant.library, contestant.dtype) != ("peer", "float32"):
            wanted["peer"] = ("peer", {"dtype": "float32"})
        with contextlib.ExitStack() as stack:
            workers = {
                name: stack.enter_context(self._worker(library, shared | changes))
                for name, (library, changes) in wanted.items()
            }
            answers = {name: [] for name in workers}
            for _ in range(self.repetitions):
                for name, worker in workers.items():
                    answers[name].append(worker.measure())
        medians = {name: medians_of(measured) for name, measured in answers.items()}
        return dataclasses.asdict(contestant) | {"ours": medians["ours"], "peer": medians.get("peer")}

    def peak(self, library: str, dtype: str, product: tuple[int, int, int]) -> float:
        """GFLOP/s of a product of matrices, the best of all measurements."""
        configuration = {"part": "peak", "dtype": dtype, "product": product}
        with self._worker(library, configuration) as worker:
            return max(worker.measure()["gflops"] for _ in range(self.repetitions))

    def cached(self, dtype: str) -> dict:
        """Captions/s and the share of waiting, of the default preset's shape from cached features on TensorFlow."""
        with self._worker("tensorflow", {"part": "cached", "dtype": dtype}) as worker:
            return medians_of([worker.measure() for _ in range(self.repetitions)])

    def _worker(self, library: str, configuration: dict) -> Worker:
        module = PEER if library == "peer" else OURS
        worker = Worker(self.pythons[library], module, self.common | {"backend": library} | configuration)
        self.versions.update(worker.about["versions"])
        return worker
