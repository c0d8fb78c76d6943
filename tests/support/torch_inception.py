"""InceptionV3 in the FID arrangement, in plain torch and by hand, with random weights.

Written from the published architecture, one convolution after the other, so that nothing is shared
with the table of layers that it checks.
"""

import numpy as np
import torch
import torch.nn.functional as F


class Weights:
    """Random weights made as they are asked for, kept under the names of PyTorch's ports."""

    def __init__(self, seed=0):
        self.rng, self.tensors = np.random.default_rng(seed), {}

    def draw(self, name, *shape, low=None, high=None, std=1.0):
        if name not in self.tensors:
            if low is None:
                values = std * self.rng.normal(size=shape)
            else:
                values = self.rng.uniform(low, high, shape)
            self.tensors[name] = values.astype(np.float32)
        return torch.tensor(self.tensors[name])

    def conv(self, x, name, out, kernel=1, stride=1, padding=0):
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        fan_in = x.shape[1] * high * wide
        weight = self.draw(
            f"{name}.conv.weight", out, x.shape[1], high, wide, std=(2 / fan_in) ** 0.5
        )
        x = F.conv2d(x, weight, stride=stride, padding=padding)
        mean = self.draw(f"{name}.bn.running_mean", out, std=0.1)
        variance = self.draw(f"{name}.bn.running_var", out, low=0.5, high=1.5)
        scale = self.draw(f"{name}.bn.weight", out, low=0.5, high=1.5)
        bias = self.draw(f"{name}.bn.bias", out, std=0.1)
        return F.relu(F.batch_norm(x, mean, variance, scale, bias, training=False, eps=1e-3))


def average(x):
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def shrink(x):
    return F.max_pool2d(x, 3, stride=2)


def block_a(w, x, name, pooled):
    def c(x, branch, *args, **kwargs):
        return w.conv(x, f"{name}.{branch}", *args, **kwargs)

    one = c(x, "branch1x1", 64)
    five = c(c(x, "branch5x5_1", 48), "branch5x5_2", 64, 5, padding=2)
    double = c(c(x, "branch3x3dbl_1", 64), "branch3x3dbl_2", 96, 3, padding=1)
    double = c(double, "branch3x3dbl_3", 96, 3, padding=1)
    return torch.cat([one, five, double, c(average(x), "branch_pool", pooled)], 1)


def block_b(w, x, name):
    three = w.conv(x, f"{name}.branch3x3", 384, 3, stride=2)
    double = w.conv(x, f"{name}.branch3x3dbl_1", 64)
    double = w.conv(double, f"{name}.branch3x3dbl_2", 96, 3, padding=1)
    double = w.conv(double, f"{name}.branch3x3dbl_3", 96, 3, stride=2)
    return torch.cat([three, double, shrink(x)], 1)


def block_c(w, x, name, c7):
    def c(x, branch, *args, **kwargs):
        return w.conv(x, f"{name}.{branch}", *args, **kwargs)

    across, down = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
    one = c(x, "branch1x1", 192)
    seven = c(c(x, "branch7x7_1", c7), "branch7x7_2", c7, **across)
    seven = c(seven, "branch7x7_3", 192, **down)
    double = c(c(x, "branch7x7dbl_1", c7), "branch7x7dbl_2", c7, **down)
    double = c(double, "branch7x7dbl_3", c7, **across)
    double = c(double, "branch7x7dbl_4", c7, **down)
    double = c(double, "branch7x7dbl_5", 192, **across)
    return torch.cat([one, seven, double, c(average(x), "branch_pool", 192)], 1)


def block_d(w, x, name):
    three = w.conv(x, f"{name}.branch3x3_1", 192)
    three = w.conv(three, f"{name}.branch3x3_2", 320, 3, stride=2)
    seven = w.conv(x, f"{name}.branch7x7x3_1", 192)
    seven = w.conv(seven, f"{name}.branch7x7x3_2", 192, (1, 7), padding=(0, 3))
    seven = w.conv(seven, f"{name}.branch7x7x3_3", 192, (7, 1), padding=(3, 0))
    seven = w.conv(seven, f"{name}.branch7x7x3_4", 192, 3, stride=2)
    return torch.cat([three, seven, shrink(x)], 1)


def block_e(w, x, name, pooled):
    def both(x, branch):
        a = w.conv(x, f"{name}.{branch}a", 384, (1, 3), padding=(0, 1))
        return torch.cat([a, w.conv(x, f"{name}.{branch}b", 384, (3, 1), padding=(1, 0))], 1)

    one = w.conv(x, f"{name}.branch1x1", 320)
    three = both(w.conv(x, f"{name}.branch3x3_1", 384), "branch3x3_2")
    double = w.conv(x, f"{name}.branch3x3dbl_1", 448)
    double = both(w.conv(double, f"{name}.branch3x3dbl_2", 384, 3, padding=1), "branch3x3dbl_3")
    return torch.cat([one, three, double, w.conv(pooled, f"{name}.branch_pool", 192)], 1)


def inception(w, x, classes=1008):
    """Features and logits of pictures [B 3 S S] that are prepared already."""
    x = w.conv(x, "Conv2d_1a_3x3", 32, 3, stride=2)
    x = w.conv(x, "Conv2d_2a_3x3", 32, 3)
    x = shrink(w.conv(x, "Conv2d_2b_3x3", 64, 3, padding=1))
    x = w.conv(x, "Conv2d_3b_1x1", 80)
    x = shrink(w.conv(x, "Conv2d_4a_3x3", 192, 3))
    for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        x = block_a(w, x, name, pooled)
    x = block_b(w, x, "Mixed_6a")
    for name, c7 in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        x = block_c(w, x, name, c7)
    x = block_d(w, x, "Mixed_7a")
    x = block_e(w, x, "Mixed_7b", average(x))
    x = block_e(w, x, "Mixed_7c", F.max_pool2d(x, 3, stride=1, padding=1))
    features = x.mean(dim=(2, 3))
    weight = w.draw("fc.weight", classes, 2048, std=2048**-0.5)
    return features, features @ weight.T + w.draw("fc.bias", classes, std=0.1)


def tf1_resize(image, side):
    """TensorFlow 1's bilinear resize of one picture [H W C], pixel by pixel in float64."""
    height, width, channels = image.shape
    image, out = image.astype(np.float64), np.empty((side, side, channels))
    for i in range(side):
        y = i * height / side
        top, bottom = int(y), min(int(y) + 1, height - 1)
        for j in range(side):
            x = j * width / side
            left, right = int(x), min(int(x) + 1, width - 1)
            above = image[top, left] + (image[top, right] - image[top, left]) * (x - left)
            below = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * (x - left)
            out[i, j] = above + (below - above) * (y - top)
    return out
