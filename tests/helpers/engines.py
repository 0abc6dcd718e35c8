"""Both engines, as parameters of a test; that of DALI is skipped where it is not installed."""

import pytest

from trainers.shards import dali_decode

WITH_DALI = [
    pytest.mark.dali,
    pytest.mark.skipif(
        not dali_decode.is_available(), reason="needs DALI; run `captioner doctor --install-dali`"
    ),
]
ENGINES = ["tf", pytest.param("dali", marks=WITH_DALI)]
