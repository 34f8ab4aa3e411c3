"""Fake quantization in one pass equals its plain twin, in every memory layout."""

import pytest
import torch

from qat.kernels.elementwise import (
    fake_quantize,
    fake_quantize_gradient,
    fake_quantize_gradient_torch,
    fake_quantize_torch,
)
from qat.kernels.geometry import channels_last

SHAPES = [(7,), (3, 5), (2, 3, 5, 4), (4, 1, 6, 6), (1, 9000)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bounds", [(0, 255), (-8, 7), (0, 1)])
@pytest.mark.parametrize("layout", ["plain", "channels_last", "holes"])
def test_one_pass_equals_twin(shape, bounds, layout):
    generator = torch.Generator().manual_seed(sum(shape))
    x, grad = (torch.randn(shape, generator=generator) * 20 for _ in range(2))
    x.flatten()[:3] = torch.tensor([0.25 * bounds[0], 0.25 * (bounds[1] + 0.5), -0.125])  # borders and a tie
    if layout == "channels_last" and x.dim() == 4:
        x, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
    if layout == "holes":
        x = torch.stack([x, x], -1)[..., 0]
    assert torch.equal(fake_quantize(x, 0.25, *bounds), fake_quantize_torch(x, 0.25, *bounds))
    (grad_x, slope), (twin_x, twin_slope) = (
        gradient(grad, x, 0.25, *bounds) for gradient in (fake_quantize_gradient, fake_quantize_gradient_torch)
    )
    assert torch.equal(grad_x, twin_x)
    torch.testing.assert_close(slope, twin_slope, rtol=1e-4, atol=1e-3)


def test_gradient_in_another_layout_is_read_by_position():
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    grad = torch.randn(2, 3, 4, 5)
    assert torch.equal(
        fake_quantize_gradient(grad, x, 0.5, -2, 1)[0], fake_quantize_gradient_torch(grad, x, 0.5, -2, 1)[0]
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_weight_keeps_the_layout_that_convolutions_like(channels):
    """A convolution reads its memory format from the weight's strides, ambiguous with one channel."""
    conv = torch.nn.Conv2d(channels, 4, 3).to(memory_format=torch.channels_last)
    weight = channels_last(conv.weight.detach().contiguous() * 1)
    assert torch.equal(weight, conv.weight) and weight.stride() == conv.weight.stride()
    x = torch.randn(2, channels, 8, 8).contiguous(memory_format=torch.channels_last)
    assert torch.nn.functional.conv2d(x, weight).is_contiguous(memory_format=torch.channels_last)
