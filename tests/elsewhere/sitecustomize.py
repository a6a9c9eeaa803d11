"""A device that is not the model's home, for machines that have none: for every Python with this folder on its path.

What `Precision.pick()` places goes "elsewhere". A model there takes only tensors from there, a model at home takes
none, what comes out of it is there too, and nothing from there meets what was left at home: as with a GPU, but that
the numbers are the processor's own.
"""

import torch

from shalab import SHARNN, State, device

_MAY_MIX = {torch.Tensor.__getitem__, torch.Tensor.__setitem__, torch.Tensor.copy_}


class Elsewhere(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError("can't convert a tensor elsewhere to numpy: take it home with to_host first")
        strays = [x for x in _tensors((args, kwargs)) if not isinstance(x, Elsewhere | torch.nn.Parameter) and x.ndim]
        if strays and function not in _MAY_MIX:
            raise RuntimeError(
                f"{function.__name__}: one tensor is elsewhere, another of shape {strays[0].shape} at home"
            )
        return super().__torch_function__(function, types, args, kwargs)


def _tensors(x):
    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, dict):
        yield from _tensors(list(x.values()))
    elif isinstance(x, list | tuple):
        for part in x:
            yield from _tensors(part)


def _home(x):
    if isinstance(x, State):
        return State(*map(_home, x))
    if isinstance(x, tuple):
        return tuple(map(_home, x))
    return x.as_subclass(torch.Tensor) if isinstance(x, Elsewhere) else x


def _elsewhere(x):
    return x.as_subclass(Elsewhere) if isinstance(x, torch.Tensor) else x


_pick, _place, _to_host, _forward = (
    device.Precision.pick.__func__,
    device.Precision.place,
    device.to_host,
    SHARNN.forward,
)


def pick(cls, device="auto", *arguments, **options):
    precision = _pick(cls, device, *arguments, **options)
    object.__setattr__(precision, "follows", device != "auto")  # asked for by name: it goes where the model is
    return precision


def place(self, x):
    x = _place(self, x)
    if getattr(self, "follows", False):
        return x
    if isinstance(x, torch.nn.Module):
        x.elsewhere = True
        return x
    return _elsewhere(x)


def forward(self, x, *arguments, **options):
    there = getattr(self, "elsewhere", False)
    if isinstance(x, Elsewhere) != there:
        raise RuntimeError(f"the model is {'elsewhere' if there else 'at home'}, its input is not")
    out = _forward(self, *map(_home, (x, *arguments)), **options)
    return (_elsewhere(out[0]), *out[1:]) if there else out


device.Precision.pick, device.Precision.place, SHARNN.forward = classmethod(pick), place, forward
device.to_host = lambda x: _to_host(_home(x))
