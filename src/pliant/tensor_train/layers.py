"""TTLinear and TTConv2d: layers whose weight is a tensor train, computed with the cores alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.tensor_train.contraction import cheapest
from pliant.tensor_train.errors import TrainError
from pliant.tensor_train.form import Form
from pliant.tensor_train.train import contract

Device = torch.device | str | None


class TTLinear(nn.Module):
    """A linear layer y = W x + b whose weight is a tensor train.

    The parameters are `cores.0`, `cores.1`, ... of shapes (r_{k-1}, n_k, r_k), and `bias`. The input is multiplied
    with one core after the other, in the direction that multiplies least; the weight is only made where the ranks are
    so large that this takes less.

    Args:
        form: shapes of weight (out, in), modes and ranks.
        bias: whether there is one.
        device: of the parameters.
        dtype: of the parameters.

    Reference: Novikov, Podoprikhin, Osokin, Vetrov (2015).
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        form: Form,
        *,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.form = form
        self.out_features, self.in_features = form.shape
        self.contraction = cheapest(form)
        self.cores = _cores(form, device, dtype)
        self.register_parameter("bias", _bias(form, bias, device, dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw parameters such that the entries of weight and bias vary as those of a new `nn.Linear`."""
        _draw(self.form, self.cores, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return W x + b.

        Args:
            x: shape (*, in).

        Returns:
            shape (*, out).

        Raises:
            TrainError: if the input has another width.
        """
        if x.is_nested:  # as nn.TransformerEncoder makes it of padded sequences
            return torch.nested.as_nested_tensor([self(sample) for sample in x.unbind()])
        _check_inputs(x, -1, self.in_features)
        flat = F.pad(x.reshape(-1, self.in_features), (0, self.form.padded[1] - self.in_features))
        made = self.contraction.run(self.form, tuple(self.cores), flat, F.linear)
        y = made[:, : self.out_features].reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)  # under autocast the product is in 16 bits

    @property
    def weight(self) -> Tensor:
        """Return the product of the cores, (out, in), which `nn.TransformerEncoder` asks whether it learns."""
        return _weight(self)

    def __prepare_scriptable__(self) -> NoReturn:
        _refuse_script()

    def macs(self, reads: int, writes: int) -> int:
        """Return the multiply-accumulates of one call.

        Args:
            reads: positions (samples, tokens) that it reads.
            writes: positions that it writes, the same.
        """
        return self.contraction.macs(self.form, reads, writes)

    def dense(self) -> nn.Linear:
        """Return a plain layer with the same function, and nothing in common with this one."""
        twin = nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta", self.cores[0].dtype)
        return _filled(twin, self)

    def extra_repr(self) -> str:
        return f"{_describe(self.form)}, bias={self.bias is not None}"


class TTConv2d(nn.Module):
    """A convolution in two dimensions, of one group, whose kernel is a tensor train.

    Parameters and contraction are those of `TTLinear`; the core of the window is a small convolution.

    Args:
        form: shapes of kernel (out, in, kh, kw), modes and ranks.
        stride: as of `nn.Conv2d`, and so are the others.
        padding: one number a side, "same" or "valid".
        dilation: of the window.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        bias: whether there is one.
        device: of the parameters.
        dtype: of the parameters.

    Reference: Garipov, Podoprikhin, Novikov, Vetrov (2016).
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        form: Form,
        *,
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        padding_mode: str = "zeros",
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.form = form
        outputs, inputs, *window = form.shape
        options = {"stride": stride, "padding": padding, "dilation": dilation, "padding_mode": padding_mode}
        plain = nn.Conv2d(inputs, outputs, (window[0], window[1]), device="meta", **options)  # type: ignore[arg-type]
        self.out_channels, self.in_channels, self.groups = outputs, inputs, 1
        self.kernel_size, self.stride, self.dilation = (
            pair(plain.kernel_size),
            pair(plain.stride),
            pair(plain.dilation),
        )
        self.padding = plain.padding if isinstance(plain.padding, str) else pair(plain.padding)
        self.padding_mode = plain.padding_mode
        self.contraction = cheapest(form, self.stride)
        self.cores = _cores(form, device, dtype)
        self.register_parameter("bias", _bias(form, bias, device, dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw parameters such that the entries of kernel and bias vary as those of a new `nn.Conv2d`."""
        _draw(self.form, self.cores, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution.

        Args:
            x: shape (batch, in, height, width), or without the batch.

        Returns:
            shape (batch, out, height', width'), or without the batch.

        Raises:
            TrainError: if the input has another number of channels.
        """
        _check_inputs(x, -3, self.in_channels)
        batch = x if x.ndim == 4 else x[None]
        y = self._run(F.pad(batch, (0, 0, 0, 0, 0, self.form.padded[1] - self.in_channels)))[:, : self.out_channels]
        y = y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]
        return y if x.ndim == 4 else y[0]

    def _run(self, x: Tensor) -> Tensor:
        cores = tuple(self.cores)
        if not self.form.pointwise:
            return self.contraction.run(self.form, cores, x, self._convolve)
        padded = x if self.padding in {"same", "valid", (0, 0)} else F.pad(x, self._margins(), self._mode())
        places = padded[..., :: self.stride[0], :: self.stride[1]]
        return self.contraction.run(self.form, cores, places, F.conv2d)

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.padding_mode == "zeros":
            return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation)
        return F.conv2d(F.pad(x, self._margins(), self._mode()), weight, None, self.stride, 0, self.dilation)

    def _mode(self) -> str:
        return "constant" if self.padding_mode == "zeros" else self.padding_mode

    def _margins(self) -> list[int]:
        """Return the padding as `F.pad` takes it: left, right, top, bottom."""
        if isinstance(self.padding, tuple):
            return [self.padding[1], self.padding[1], self.padding[0], self.padding[0]]
        wide = self.padding == "same"
        reach = [d * (k - 1) * wide for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        return [reach[1] // 2, reach[1] - reach[1] // 2, reach[0] // 2, reach[0] - reach[0] // 2]

    def __prepare_scriptable__(self) -> NoReturn:
        _refuse_script()

    def macs(self, reads: int, writes: int) -> int:
        """Return the multiply-accumulates of one call.

        Args:
            reads: pixels that it reads, all samples together.
            writes: pixels that it writes.
        """
        return self.contraction.macs(self.form, reads, writes)

    def dense(self) -> nn.Conv2d:
        """Return a plain layer with the same function, and nothing in common with this one."""
        twin = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            bias=self.bias is not None,
            padding_mode=self.padding_mode,
            device="meta",
            dtype=self.cores[0].dtype,
        )
        return _filled(twin, self)

    def extra_repr(self) -> str:
        return (
            f"{_describe(self.form)}, stride={self.stride}, padding={self.padding!r}, dilation={self.dilation}, "
            f"padding_mode={self.padding_mode!r}, bias={self.bias is not None}"
        )


def _refuse_script() -> NoReturn:
    """Say what to do instead of `torch.jit.script`, which asks for this."""
    raise NotImplementedError(
        "torch.jit.script cannot compile tensor-train layers, whose way through the cores is chosen by their sizes: "
        "use torch.jit.trace or pliant.export, or put layer.dense() in their places"
    )


def _check_inputs(x: Tensor, dim: int, expected: int) -> None:
    if x.ndim < -dim or x.shape[dim] != expected:
        wanted = ", ".join(("*", str(expected), *["*"] * (-dim - 1)))
        raise TrainError(f"the input must have the shape ({wanted}), as the weight has it, found {tuple(x.shape)}")


def _cores(form: Form, device: Device, dtype: torch.dtype | None) -> nn.ParameterList:
    return nn.ParameterList(torch.empty(shape, device=device, dtype=dtype) for shape in form.cores)


def _bias(form: Form, wanted: bool, device: Device, dtype: torch.dtype | None) -> nn.Parameter | None:
    return nn.Parameter(torch.empty(form.shape[0], device=device, dtype=dtype)) if wanted else None


def _draw(form: Form, cores: nn.ParameterList, bias: nn.Parameter | None) -> None:
    fan_in = math.prod(form.shape[1:])
    variance = 1 / (3 * fan_in) / math.prod(form.ranks)  # of a product of one entry of each core
    with torch.no_grad():
        for core in cores:
            core.normal_(std=variance ** (0.5 / len(cores)))
        if bias is not None:
            bias.uniform_(-(fan_in**-0.5), fan_in**-0.5)


def _describe(form: Form) -> str:
    shape = " x ".join(map(str, form.shape))
    return f"{shape}, modes={form.modes.sizes}, ranks={form.ranks}"


def _weight(layer: TTLinear | TTConv2d) -> Tensor:
    return layer.form.modes.unfold(contract(tuple(layer.cores)), layer.form.shape)


_Twin = TypeVar("_Twin", nn.Linear, nn.Conv2d)


def _filled(twin: _Twin, layer: TTLinear | TTConv2d) -> _Twin:
    twin.weight = nn.Parameter(_weight(layer).detach().clone(), layer.cores[0].requires_grad)
    if layer.bias is not None:
        twin.bias = nn.Parameter(layer.bias.detach().clone(), layer.bias.requires_grad)
    twin.train(layer.training)
    return twin


def pair(value: Sequence[int]) -> tuple[int, int]:
    """Return two numbers, as torch keeps them, as a pair."""
    return value[0], value[1]
