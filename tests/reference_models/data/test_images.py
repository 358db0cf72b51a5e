"""Checks of images by policy, and image loading."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from reference_models.config import Policy
from reference_models.data import images
from reference_models.data.images import BadImage, BadImages, check_images, load_image
from reference_models.data.samples import Sample
from reference_models.errors import UserError

SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def encode_noise(kind: str, size: tuple[int, int] = (60, 40)) -> bytes:
    """Encode an image of random noise, so that every part of the file matters."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size but contains no pixels."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + content + struct.pack(">I", zlib.crc32(content))
    return start + struct.pack(">I", 1) + b"IDAT"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    (tmp_path / "good one.jpg").write_bytes(encode_noise("JPEG"))
    return tmp_path / "good one.jpg"


@pytest.fixture
def truncated(tmp_path: Path) -> Path:
    (tmp_path / "cut.jpg").write_bytes(encode_noise("JPEG")[:-300])
    return tmp_path / "cut.jpg"


def sample(line: int, image: Path | None, *crops: Path) -> Sample:
    return Sample(f"train.txt:{line}", ("word",), image, crops)


@pytest.mark.parametrize("policy", ["error", "blank", "drop"])
def test_valid_images_leave_samples_unchanged(good: Path, policy: Policy, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [sample(1, good, good), sample(2, None), sample(3, good)]
    kept, bad = check_images(samples, policy, progress=False)
    assert kept == samples
    assert bad == BadImages(policy, checked=1, found=())
    assert bad.summary() == "1 images checked, all can be read"
    assert capsys.readouterr().err == ""
    check_images(samples, policy)
    assert "checking images: 100%" in capsys.readouterr().err


def test_decodable_contents_are_not_decoded_again(
    good: Path, truncated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    decode = images.decode_image

    def record_and_decode(path: Path, least: int) -> Image.Image:
        decoded.append(path.name)
        return decode(path, least)

    monkeypatch.setattr(images, "decode_image", record_and_decode)
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(good.read_bytes())
    absent = tmp_path / "absent.jpg"
    samples = [sample(1, good, copy), sample(2, truncated, absent)]
    first, second = (
        check_images(samples, "blank", memory=tmp_path / "memory", progress=False)[1].to_json() for _ in range(2)
    )
    assert first == second
    assert sorted(decoded[:4]) == ["absent.jpg", "copy.jpg", "cut.jpg", "good one.jpg"]
    assert sorted(decoded[4:]) == ["absent.jpg", "cut.jpg"]
    copy.write_bytes(truncated.read_bytes())  # unreadable content under a name that was readable before
    _, third = check_images(samples, "blank", memory=tmp_path / "memory", progress=False)
    assert [bad.file for bad in third.found] == [str(copy), str(truncated), str(absent)]


def test_error_names_file_sample_and_reason(good: Path, truncated: Path) -> None:
    with pytest.raises(
        UserError, match=rf"^{truncated}: .*truncated.*; sample train.txt:4 lists it \(data.bad_images is 'error'"
    ):
        check_images([sample(1, good), sample(4, truncated)], "error", progress=False)
    absent = good.with_name("absent.png")
    with pytest.raises(
        UserError, match=rf"^{absent}: the file does not exist; sample train.txt:4 .*; 1 more of 3 images"
    ):
        check_images([sample(1, good), sample(4, good, absent), sample(7, truncated)], "error", progress=False)


def test_blank_removes_the_image_or_the_crop(good: Path, truncated: Path) -> None:
    absent = good.with_name("absent.png")
    samples = [sample(1, truncated, good), sample(4, good, good, absent, good), sample(9, good)]
    kept, bad = check_images(samples, "blank", progress=False)
    assert list(kept) == [sample(1, None, good), sample(4, good, good, good), sample(9, good)]
    assert samples[0].image == truncated
    assert (bad.policy, bad.checked) == ("blank", 3)
    assert [(entry.file, entry.sample, entry.action) for entry in bad.found] == [
        (str(truncated), "train.txt:1", "image blanked"),
        (str(absent), "train.txt:4", "crop left out"),
    ]
    assert bad.summary().splitlines() == [
        "2 of 3 images cannot be used (image blanked: 1, crop left out: 1)",
        f"  {truncated} of train.txt:1: {bad.found[0].reason}; image blanked",
        f"  {absent} of train.txt:4: the file does not exist; crop left out",
    ]


def test_drop_removes_the_sample(good: Path, truncated: Path) -> None:
    samples = [sample(1, truncated, truncated), sample(4, good, truncated), sample(9, good, good)]
    kept, bad = check_images(samples, "drop", progress=False)
    assert list(kept) == samples[2:]
    assert bad.summary().startswith("1 of 2 images cannot be used (sample dropped: 2)\n")
    with pytest.raises(UserError, match=rf"no sample is left: {truncated}: .*train\.txt:1"):
        check_images(samples[:2], "drop", progress=False)


def test_unknown_policy_raises(good: Path) -> None:
    with pytest.raises(UserError, match="'skip', expected one of error, blank, drop"):
        check_images([sample(1, good)], "skip")


def test_long_summary_names_the_file_with_all_entries() -> None:
    bad = BadImages("blank", 9, tuple(BadImage(f"{i}.jpg", f"a.txt:{i}", "gone", "image blanked") for i in range(5)))
    assert bad.summary(Path("bad.json"), limit=2).splitlines()[2:] == [
        "  1.jpg of a.txt:1: gone; image blanked",
        "  and 3 more; all are in bad.json",
    ]
    assert bad.summary(limit=4).endswith("\n  and 1 more")
    read_back = json.loads(json.dumps(bad.to_json()))
    assert (
        BadImages(read_back["policy"], read_back["checked"], tuple(BadImage(**entry) for entry in read_back["found"]))
        == bad
    )


def test_bad_images_are_reported_in_sample_order(tmp_path: Path) -> None:
    samples = [sample(i, tmp_path / f"{i % 40}.jpg") for i in range(80)]
    (kept, bad), again = (check_images(samples, "blank", progress=False) for _ in range(2))
    assert (list(kept), bad) == (list(again[0]), again[1])
    assert [entry.sample for entry in bad.found] == [one.id for one in samples]
    assert bad.checked == 40


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "not an image in a supported format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image in a supported format"),
        (png_header(60_000, 60_000), "cannot be read as an image .*decompression bomb"),
        (png_header(9_000, 9_000), "9000 x 9000 pixels are above the limit of 80,000,000 pixels"),
        (png_header(9, 9), "cannot be read as an image .*truncated"),
        (png_header(0, 9), "not an image in a supported format"),
        (encode_noise("PNG")[:3000], "cannot be read as an image .*truncated"),
        (encode_noise("GIF")[:900], "cannot be read as an image .*truncated"),
        (encode_noise("BMP")[:900], "cannot be read as an image .*truncated"),
    ],
    ids=[
        "empty",
        "html",
        "eps",
        "bomb",
        "large",
        "no pixels",
        "zero-sized",
        "truncated png",
        "truncated gif",
        "truncated bmp",
    ],
)
def test_invalid_image_raises_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{path}: ({reason})"):
        load_image(path, 8)
    _, bad = check_images([sample(1, path)], "blank", progress=False)
    assert len(bad.found) == 1


@pytest.mark.parametrize(("name", "reason"), [("gone", "does not exist"), ("", "directory"), ("a\0b", "null byte")])
def test_invalid_paths_raise(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"(?s){reason}"):
        load_image(tmp_path / name, 8)


@given(st.integers(1, len(encode_noise("JPEG")) - 1))
@SHARED
def test_jpeg_truncated_at_any_byte_raises(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encode_noise("JPEG")[:length])
    _, bad = check_images([sample(1, path)], "blank", progress=False)
    assert len(bad.found) == 1
    with pytest.raises(UserError, match=str(path)):
        load_image(path, 64)


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.data())
@settings(SHARED, max_examples=150)
def test_corrupted_file_gives_an_image_or_a_user_error(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(encode_noise(data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"]))))
    for _ in range(data.draw(st.integers(1, 5))):
        near_the_start = st.integers(0, 200) if data.draw(st.booleans()) else st.integers(0, len(content) - 1)
        content[data.draw(near_the_start)] = data.draw(st.integers(0, 255))
    path = tmp_path / "a"
    path.write_bytes(content)
    shape, message = torch.Size((3, 8, 8)), str(path)
    try:
        shape = load_image(path, 8).shape
    except UserError as error:
        message = str(error)
    assert tuple(shape) == (3, 8, 8)
    assert message.startswith(str(path))


def load_flat_image(mode: str, colour: object, tmp_path: Path, name: str = "a.png", **options: object) -> torch.Tensor:
    """Load a single-colour image of the given mode and return its RGB colour."""
    Image.new(mode, (6, 5), colour).save(tmp_path / name, **options)
    tensor = load_image(tmp_path / name, 4)
    assert tensor.dtype == torch.uint8
    assert tensor.shape == (3, 4, 4)
    assert tensor.is_contiguous()
    assert (tensor == tensor[:, :1, :1]).all()
    return tensor[:, 0, 0]


@pytest.mark.filterwarnings("error")
def test_image_modes_are_converted_to_rgb(tmp_path: Path) -> None:
    assert load_flat_image("RGB", (10, 20, 30), tmp_path).tolist() == [10, 20, 30]
    assert load_flat_image("L", 77, tmp_path).tolist() == [77] * 3
    assert load_flat_image("LA", (77, 0), tmp_path).tolist() == [77] * 3
    assert load_flat_image("1", 1, tmp_path).tolist() == [255] * 3
    assert load_flat_image("RGBA", (10, 20, 30, 0), tmp_path).tolist() == [10, 20, 30]
    assert load_flat_image("CMYK", (0, 255, 255, 0), tmp_path, "a.tif").tolist() == [255, 0, 0]
    assert load_flat_image("I;16", 30_000, tmp_path).tolist() == [30_000 // 256] * 3
    image = Image.new("RGB", (6, 6), (200, 100, 0))
    image.putpixel((5, 5), (1, 2, 3))
    image.quantize(2).save(tmp_path / "p.png", transparency=bytes([0, 128]))
    assert load_image(tmp_path / "p.png", 6)[:, 5, 4:].T.tolist() == [[200, 100, 0], [1, 2, 3]]


def test_16_bit_pgm_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 2 2 65535\n" + struct.pack(">4H", *[30_000] * 4))
    assert load_image(tmp_path / "a.pgm", 2).unique().tolist() == [30_000 // 256]


@pytest.mark.parametrize(("full", "share"), [(1.0, 0.5), (255.0, 0.5), (65535.0, 0.5), (1.0, 0.0)])
def test_floating_point_grey_is_scaled_and_not_black(full: float, share: float, tmp_path: Path) -> None:
    values = np.full((8, 8), full * share, np.float32)
    values[0] = full, np.nan, np.inf, *[full] * 5
    Image.fromarray(values).save(tmp_path / "a.tiff")
    pixels = load_image(tmp_path / "a.tiff", 8)
    assert pixels[:, 5, 5].tolist() == [round(255 * share)] * 3
    assert pixels[:, 0, 7].tolist() == [255] * 3
    assert pixels[:, 0, 1].tolist() == [0] * 3


def test_first_frame_of_an_animation_is_used(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "a.gif", 2)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(64, 16), (16, 64), (8, 8), (1, 1)])
def test_images_are_resized_to_a_square_without_cropping(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[:, : max(1, size[0] // 4)] = 255  # the left quarter is white and would be lost by a centre crop
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = load_image(tmp_path / "a.png", 8)
    assert tensor.shape == (3, 8, 8)
    assert (tensor[:, :, 0] == 255).all()
    if size[0] > 1:
        assert (tensor[:, :, 7] == 0).all()


def test_exif_rotation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    pixels[:2] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert load_image(tmp_path / "a.png", 4)[0, :, 0].tolist() == [255, 255, 0, 0]


def test_reduced_jpeg_decoding_matches_full_decoding(tmp_path: Path) -> None:
    waves = 128 + 100 * np.sin(np.arange(900) / 6)
    pixels = np.stack(np.broadcast_arrays(waves[None, :], waves[:700, None], 128.0), axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        whole = np.array(image.convert("RGB").resize((100, 100), Image.Resampling.BILINEAR))
    difference = load_image(tmp_path / "a.jpg", 100).permute(1, 2, 0).int() - torch.from_numpy(whole).int()
    assert difference.abs().max() <= 8


def test_downscaling_averages_fine_detail(tmp_path: Path) -> None:
    Image.fromarray(np.tile(np.array([[0, 255], [255, 0]], dtype=np.uint8), (32, 32))).save(tmp_path / "a.png")
    assert (load_image(tmp_path / "a.png", 8).int() - 128).abs().max() <= 8


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (60, 61), (500, 40)])
@pytest.mark.parametrize("size", [224, 32])
def test_centre_crop_matches_torchvision(shape: tuple[int, int], size: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    short = {224: 256, 32: 37}[size]
    theirs = transforms.Compose([transforms.Resize(short), transforms.CenterCrop(size)])(Image.fromarray(noise))
    assert np.array_equal(load_image(tmp_path / "a.png", size, "centre-crop").permute(1, 2, 0).numpy(), theirs)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_window_is_a_random_crop_that_is_fixed_per_file(kind: str, tmp_path: Path) -> None:
    """As in published code, a window keeps only a part of a large image, and half of the windows are mirrored."""
    found = set()
    for number in range(40):
        path = tmp_path / f"{number}.{kind.lower()}"
        noise = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, kind)
        whole = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
        window = load_image(path, 16, "window")
        assert torch.equal(load_image(path, 16, "window"), window)
        found |= {
            (top, left, mirrored)
            for top in range(5)
            for left in range(15)
            for mirrored in (False, True)
            if torch.equal(whole[:, top : top + 16, left : left + 16], window.flip(2) if mirrored else window)
        }
    assert {top for top, _, _ in found} == set(range(5))
    assert {mirrored for _, _, mirrored in found} == {False, True}
    assert len({left for _, left, _ in found}) > 10


def test_window_of_a_small_image_is_cut_from_the_upscaled_image(good: Path) -> None:
    window = load_image(good, 90, "window")
    scaled = torch.from_numpy(np.array(Image.open(good).resize((135, 90), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    parts = [scaled[:, :, left : left + 90] for left in range(46)]
    assert any(torch.equal(part, side) for part in parts for side in (window, window.flip(2)))
