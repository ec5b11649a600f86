"""The configuration space's layout."""

import pytest

from ballonet.virtio.config import BalloonConfig, config_length
from ballonet.virtio.features import Feature


def test_fields_are_little_endian_at_their_offsets() -> None:
    raw = BalloonConfig(1, 2, 3, 0xAAAAAAAA).pack()
    assert raw == bytes.fromhex("01000000 02000000 03000000 aaaaaaaa")
    assert BalloonConfig.parse(raw) == BalloonConfig(1, 2, 3, 0xAAAAAAAA)


@pytest.mark.parametrize(
    ("offered", "length"),
    [
        (Feature(0), 8),
        (Feature.FREE_PAGE_HINT, 12),
        (Feature.PAGE_POISON, 16),
        (Feature.FREE_PAGE_HINT | Feature.PAGE_POISON, 16),
    ],
)
def test_length_follows_the_offered_features(offered: Feature, length: int) -> None:
    assert config_length(offered) == length
