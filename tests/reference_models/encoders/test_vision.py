"""The image backbones: cells of the stages, embedding, frozen parameters, and small batches."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import models as torchvision_models

from reference_models.encoders import vision
from reference_models.encoders.stages import pool_stages
from reference_models.encoders.vision import BACKBONES, VisionBackbone
from reference_models.errors import UserError

WIDTHS = {
    "resnet18": (64, 128, 256, 512),
    "resnet34": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
    "resnet101": (256, 512, 1024, 2048),
    "resnet152": (256, 512, 1024, 2048),
    "mobilenet_v2": (24, 32, 96, 1280),
    "tiny": (16, 32, 48, 64),
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_pixels(count: int = 2, side: int = 64) -> Tensor:
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def normalise(pixels: Tensor) -> Tensor:
    return (pixels.float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def record_counts(backbone: VisionBackbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of images of each pass."""
    counts: list[int] = []
    whole = backbone._stages

    def stages(scaled: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        counts.append(len(scaled))
        return whole(scaled)

    monkeypatch.setattr(backbone, "_stages", stages)
    return counts


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_has_four_stages(name: str) -> None:
    backbone = VisionBackbone(name).eval()
    assert backbone.stage_widths == WIDTHS[name]
    assert backbone.widths["pooled"] == WIDTHS[name][-1]
    with torch.no_grad():
        features = backbone(make_pixels(1))
    assert features["cells"].shape == (1, 4, sum(WIDTHS[name]))


def test_cells_are_means_of_the_torchvision_stages() -> None:
    backbone = VisionBackbone("resnet18").eval()
    whole = torchvision_models.resnet18(weights=None).eval()
    whole.load_state_dict(backbone.body.state_dict(), strict=False)
    assert not any(name.startswith("fc") for name in backbone.body.state_dict())
    with torch.no_grad():
        x = whole.maxpool(whole.relu(whole.bn1(whole.conv1(normalise(make_pixels())))))
        features = backbone(make_pixels())
        cells_of_stages = features["cells"].split(backbone.stage_widths, dim=-1)
        layers = (whole.layer1, whole.layer2, whole.layer3, whole.layer4)
        for cells, layer in zip(cells_of_stages, layers, strict=True):
            x = layer(x)
            half = x.shape[2] // 2
            for number, (y, z) in enumerate(((0, 0), (0, half), (half, 0), (half, half))):
                mean = x[:, :, y : y + half, z : z + half].mean(dim=(2, 3))
                torch.testing.assert_close(cells[:, number], mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features["pooled"], x.mean(dim=(2, 3)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", [2, 4, 5, 7])
def test_floor_pooling_omits_the_last_row_and_column_of_odd_maps(side: int) -> None:
    stage = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    half = side // 2
    corners = [(0, 0), (0, half), (half, 0), (half, half)]
    expected = [stage[:, :, y : y + half, x : x + half].mean(dim=(2, 3)) for y, x in corners]
    [floor], [whole] = pool_stages([stage], "floor"), pool_stages([stage])
    torch.testing.assert_close(floor, torch.stack(expected, dim=1))
    assert torch.allclose(floor, whole) == (side % 2 == 0)


def test_floor_pooling_of_a_single_cell_raises() -> None:
    with pytest.raises(UserError, match=r"stage_pooling=floor needs larger images.*set data\.image_size to 64"):
        VisionBackbone("tiny", pooling="floor")(make_pixels(side=32))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_class_logits_equal_torchvision(name: str) -> None:
    backbone = VisionBackbone(name, views=("cells", "logits")).eval()
    whole = getattr(torchvision_models, name)(weights=None).eval()
    whole.load_state_dict(backbone.body.state_dict())
    assert backbone.widths["logits"] == 1000
    assert backbone.stage_widths == WIDTHS[name]
    with torch.no_grad():
        expected = whole(normalise(make_pixels()))
        torch.testing.assert_close(backbone(make_pixels())["logits"], expected, atol=1e-4, rtol=1e-4)


def test_invalid_backbone_or_view_raises() -> None:
    with pytest.raises(UserError, match=r"unknown image backbone 'vgg', expected one of resnet18"):
        VisionBackbone("vgg")
    with pytest.raises(UserError, match="no class logits"):
        VisionBackbone("tiny", views=("cells", "logits"))


@pytest.mark.parametrize("name", ["tiny", "resnet18"])
def test_frozen_backbone_has_no_gradients_and_keeps_its_statistics(name: str) -> None:
    backbone = VisionBackbone(name, frozen=True)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.train()
    features = backbone(make_pixels())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(tensor.requires_grad for tensor in features.values())
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("views", [("cells", "grid"), ("pooled", "logits")])
def test_frozen_backbone_processes_images_in_pieces(views: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = VisionBackbone("resnet18", frozen=True, views=views)
    pixels = make_pixels(19)
    taken = record_counts(backbone, monkeypatch)
    pieces = backbone(pixels)
    assert taken == [8, 8, 3]
    monkeypatch.setattr(vision, "CPU_PIECE", 19)
    torch.testing.assert_close(pieces, backbone(pixels))
    assert taken[3:] == [19]


@pytest.mark.parametrize("options", [{}, {"frozen": True, "train_mode": True}])
def test_batch_statistics_use_all_images(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = VisionBackbone("tiny", **options).train()
    taken = record_counts(backbone, monkeypatch)
    backbone(make_pixels(19))
    assert taken == [19]


@pytest.mark.parametrize("name", ["tiny", "resnet18"])
def test_frozen_backbone_in_train_mode_updates_only_statistics(name: str) -> None:
    """A fault of published code that freezes the weights: the features of an image depend on its batch."""
    backbone = VisionBackbone(name, frozen=True, train_mode=True).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    pixels = make_pixels()
    together, alone = backbone(pixels)["pooled"], backbone(torch.cat([pixels[:1], 255 - pixels[:1]]))["pooled"]
    assert not torch.allclose(together[0], alone[0], atol=1e-2)
    assert not together.requires_grad
    after = backbone.state_dict()
    moved = {key for key in before if not torch.equal(after[key], before[key])}
    assert moved == {key for key in before if key.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    backbone.eval()
    torch.testing.assert_close(backbone(pixels)["pooled"][:1], backbone(pixels[:1])["pooled"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["tiny", "resnet18"])
def test_fine_tuned_backbone_trains_parameters_and_statistics(name: str) -> None:
    backbone = VisionBackbone(name).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    sum((cells * torch.randn_like(cells)).sum() for cells in backbone(make_pixels()).values()).backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.grad.abs().sum() > 0, key
    moved = [key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])]
    assert any("running_mean" in key for key in moved)


@pytest.mark.parametrize("name", ["tiny", "resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_do_not_update_statistics(name: str, count: int) -> None:
    backbone = VisionBackbone(name).train()
    before = {key: value.clone() for key, value in backbone.named_buffers()}
    features = backbone(make_pixels(count, side=32))
    assert len(features["cells"]) == count
    sum(view.sum() for view in features.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in backbone.parameters())
    torch.testing.assert_close(dict(backbone.named_buffers()), before, rtol=0, atol=0)
    backbone(make_pixels(2))
    assert backbone.body.training


def test_absent_image_is_encoded_as_the_mean_colour() -> None:
    backbone = VisionBackbone("tiny").eval()
    pixels = make_pixels()
    other = pixels.clone()
    other[1] = 255 - other[1]
    with torch.no_grad():
        hidden = [backbone(p, torch.tensor([True, False]))["pooled"] for p in (pixels, other)]
        zero = backbone.body(torch.zeros(1, 3, 64, 64)).last_hidden_state.mean(dim=(2, 3))
        shown = backbone(pixels)["pooled"]
    assert torch.equal(*hidden)
    torch.testing.assert_close(hidden[0][1], zero[0])
    torch.testing.assert_close(hidden[0][0], shown[0])


@pytest.mark.parametrize("name", ["tiny", "resnet18"])
def test_backbone_in_bfloat16_and_under_autocast(name: str) -> None:
    backbone = VisionBackbone(name).eval()
    with torch.no_grad():
        exact = backbone(make_pixels())["pooled"]
        with torch.autocast("cpu", torch.bfloat16):
            mixed = backbone(make_pixels())["pooled"]
        reduced = backbone.bfloat16()(make_pixels())["pooled"]
    assert reduced.dtype == torch.bfloat16
    for other in (mixed, reduced):
        torch.testing.assert_close(other.float(), exact, atol=0.1 * exact.abs().max().item(), rtol=0.1)


def test_backbone_on_the_meta_device_has_the_same_widths() -> None:
    with torch.device("meta"):
        backbone = VisionBackbone("resnet18", views=("cells", "logits"))
    assert backbone.stage_widths == WIDTHS["resnet18"]
    assert backbone.widths["logits"] == 1000
    assert all(parameter.is_meta for parameter in backbone.parameters())
