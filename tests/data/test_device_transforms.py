"""What the device makes of a batch is what the workers would have made: labels equal, images within 1/255."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from barm.api import fit
from barm.data.base import Sample
from barm.data.device_transforms import finish, place
from barm.data.sources.shapes import render
from barm.data.transforms import TrainTransform, train_transform
from barm.engine.checkpoint.directory import RunDirectory

LUT = np.random.default_rng(0).permutation(256).astype(np.uint8)
CPU = torch.device("cpu")
TRANSFORMS = {
    "rescale": TrainTransform(65, pad_label=255),
    "narrow": TrainTransform(96, scale=(0.05, 0.4)),
    "wide": TrainTransform(33, scale=(3.0, 9.0)),
    "resized_crop": TrainTransform(64, "resized_crop", (0.2, 1.0)),
    "small part": TrainTransform(48, "resized_crop", (0.01, 0.1)),
}


def sample_of(index: int, size: tuple[int, int]) -> Sample:
    scene = render(index, split="train", num_classes=10, size=size, seed=0)
    return Sample(
        Image.fromarray(scene.image), Image.fromarray(scene.mask), {"saliency": Image.fromarray(scene.saliency)}
    )


def differences(samples, transform: TrainTransform) -> float:
    """Largest difference of the images in grey levels; labels and maps must be equal."""
    theirs = [train_transform(s, LUT, np.random.default_rng(i), transform) for i, s in enumerate(samples)]
    batch = finish([place(s, LUT, np.random.default_rng(i), transform) for i, s in enumerate(samples)], CPU)
    assert batch.image.dtype == torch.uint8
    assert batch.label.dtype == torch.int64
    assert torch.equal(batch.label, torch.stack([label for _, label, _ in theirs]).long())
    assert torch.equal(batch.extras["saliency"], torch.stack([maps["saliency"] for _, _, maps in theirs]))
    images = torch.stack([image for image, _, _ in theirs]).float()
    return float((batch.image.float() - images).abs().max())


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_same_images_of_any_size(name):
    """In one batch, padded, scaled up and down."""
    sizes = [(125, 94), (60, 201), (33, 47), (96, 96), (300, 40), (64, 65), (90, 90), (200, 150)]
    assert differences([sample_of(i, s) for i, s in enumerate(sizes)], TRANSFORMS[name]) <= 1.01


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(16, 70), st.integers(0, 10_000), st.booleans())
@example(1, 1, 16, 0, False)
@example(1, 90, 16, 0, True)
def test_noise(width, height, crop, seed, stretch):
    """White noise is the worst case of rounding after each axis."""
    rng = np.random.default_rng(seed)
    mask = Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8))
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    geometry = TrainTransform(crop, "resized_crop", (0.2, 1.0)) if stretch else TrainTransform(crop)
    assert differences([Sample(noise, mask, {"saliency": mask})], geometry) <= 2.01


def test_only_what_the_crop_needs_is_sent():
    sample = sample_of(0, (400, 300))
    image, mask, maps, _ = place(sample, LUT, np.random.default_rng(0), TrainTransform(32, scale=(2.0, 2.0)))
    assert image.shape[:2] == mask.shape == maps["saliency"].shape
    assert max(mask.shape) <= 32 // 2 + 8


@pytest.mark.slow
@pytest.mark.parametrize(("method", "words"), [("ssul-m", ()), ("mib", ("data.cache_mb=1", "runtime.workers=2"))])
def test_runs(method, words, tiny, tmp_path):
    """With kept images and saliency, resized crops and decoded images; two runs end in the same weights."""
    found = []
    for name in ("a", "b"):
        fit(tiny(method, "3-1", "runtime.augment=device", *words), out=tmp_path / name, quiet=True)
        found.append((RunDirectory(tmp_path / name).step_path(1) / "model.safetensors").read_bytes())
    assert found[0] == found[1]


@pytest.mark.gpu
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_gpu_makes_the_same(name):
    sizes = [(125, 94), (60, 201), (33, 47), (500, 375)]
    samples = [sample_of(i, s) for i, s in enumerate(sizes)]
    made = [
        finish([place(s, LUT, np.random.default_rng(i), TRANSFORMS[name]) for i, s in enumerate(samples)], device)
        for device in (CPU, torch.device("cuda"))
    ]
    assert torch.equal(made[0].label, made[1].label.cpu())
    assert torch.equal(made[0].extras["saliency"], made[1].extras["saliency"].cpu())
    assert float((made[0].image.float() - made[1].image.cpu().float()).abs().max()) <= 1
