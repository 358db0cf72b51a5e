"""Each crop must come from the image of its sample; otherwise an error names the sample, the crop and both images."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from reference_models.data.crop_sources import check_crop_sources, manifest_path
from reference_models.data.samples import Sample
from reference_models.errors import UserError


def write(root: Path, rows: Sequence[dict[str, str | None]]) -> None:
    manifest_path(root, "train").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def samples(root: Path, *pairs: tuple[str | None, str]) -> list[Sample]:
    return [
        Sample(str(number), ("a",), image and root / image, (root / "crops" / crop,))
        for number, (image, crop) in enumerate(pairs)
    ]


def check(root: Path, some: list[Sample]) -> list[Sample]:
    return list(check_crop_sources(some, root, "train", root / "crops"))


def test_crops_of_the_same_image_and_unlisted_crops_pass(tmp_path: Path) -> None:
    some = samples(tmp_path, ("a.jpg", "1.png"), ("b.jpg", "2.png"), (None, "made_by_others.png"))
    assert check(tmp_path, some) == some
    write(tmp_path, [{"crop": "1.png", "image": "a.jpg"}, {"crop": "2.png", "image": "./b.jpg"}, {"crop": None}])
    assert check(tmp_path, some) == some
    manifest_path(tmp_path, "train").write_text("no JSON")
    assert check(tmp_path, some) == some


@pytest.mark.parametrize("image", ["b.jpg", None])
def test_crop_of_another_image_raises(tmp_path: Path, image: str | None) -> None:
    write(tmp_path, [{"crop": "1.png", "image": "a.jpg"}])
    with pytest.raises(UserError, match=r"^0: its crop .*1\.png was cut from .*a\.jpg, but its image is .*: repeat"):
        check(tmp_path, samples(tmp_path, (image, "1.png")))
