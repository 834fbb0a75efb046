"""Binding: an unmodified module runs on weights that are views of one flat buffer.

Legend: P parameters of the layout.
"""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from tombola.errors import TombolaError

from .layout import Layout
from .narrow import guarded
from .roles import is_expanded

_bound: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


class Binding:
    """Context within which the module's parameters are views of `theta` [P]; after it, the module is as it was.

    Its parameters, gradients, buffers and training mode come back, also after an exception, and what a forward pass has
    replaced or made of buffers, parameters and parts. `theta` may be overwritten between passes: call `wrote()` then, so
    that a backward pass through old values is an error and not a wrong gradient. Parameters of another dtype than `theta`
    are converted copies, which `wrote()` renews; they are on its device, too. So are channels-last weights of a module that
    is no convolution of torch's own: its code may need them contiguous, as `view` does.
    """

    def __init__(self, module: nn.Module, layout: Layout, theta: Tensor, buffers: Mapping[str, Tensor] | None = None):
        layout.check(module)
        self.module, self.theta = module, theta
        named = dict(module.named_parameters())
        self._params = [named[s.name] for s in layout.segments]
        views = list(layout.views(theta).values())
        foreign = of_foreign_code(module)
        self._views = [shown(v, p, id(p) in foreign) for p, v in zip(self._params, views, strict=True)]
        self._copies = [(v, own) for v, own in zip(self._views, views, strict=True) if v is not own]
        self.converted = [s.slice for s, v, own in zip(layout.segments, self._views, views, strict=True) if v is not own]
        """Places in `theta` of the parameters that are copies, in another dtype or order of memory."""
        self._initial_buffers = buffers
        self._segments = layout.segments
        self._targets: tuple[Tensor, list[Tensor]] = theta, views  # the last buffer of gradients, and the views of it

    def __enter__(self) -> "Binding":
        if self.module in _bound:
            raise RuntimeError(f"{type(self.module).__name__} is bound already: one binding at a time")
        with ExitStack() as undo:  # an error on the way undoes the steps before it
            _bound.add(self.module)
            undo.callback(_bound.discard, self.module)
            undo.enter_context(guarded(self.module, self.theta.device))
            undo.callback(torch.clear_autocast_cache)
            undo.callback(_restore_modes, [(m, m.training) for m in self.module.modules()])
            undo.callback(_restore_buffers, *_saved_buffers(self.module))
            undo.callback(_restore_registered, _registered(self.module))
            self._checked = False
            for buffer in self.module.buffers():
                buffer.data = buffer.data.to(self.theta.device)
            if self._initial_buffers is not None:
                load_buffers(self.module, self._initial_buffers)
            undo.callback(_restore_parameters, [(p, p.data, p.grad) for p in self._params])
            for p, view in zip(self._params, self._views, strict=True):
                p.grad, p.data = None, view
            self._renew()
            torch.clear_autocast_cache()  # within the caller's autocast: its copies of other weights
            self._undo = undo.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._undo.close()

    def wrote(self) -> None:
        """Declare that `theta` was overwritten: running a graph of the old values backward becomes an error.

        Raises RuntimeError if `.to()`, `.half()` or the like has replaced the parameters' storage meanwhile.
        """
        for p, view, segment in zip(self._params, self._views, self._segments, strict=True):
            if p.data_ptr() != view.data_ptr():
                name = segment.name
                raise RuntimeError(f"parameter {name!r} was moved or converted while the module was bound; do that before")
        self._renew()
        torch.autograd.graph.increment_version(self._params)
        torch.clear_autocast_cache()  # it keeps low-precision copies of weights, which are now of the last values

    def _renew(self) -> None:
        if self._copies:
            copies, views = zip(*self._copies, strict=True)
            torch._foreach_copy_(copies, views)

    def backward(self, losses: Tensor | Iterable[Tensor], out: Tensor) -> None:
        """Write d loss / d theta into `out` [P]; zero for parameters that the loss does not reach.

        Several losses are summed; each is taken from the iterable when the graph of the one before is freed. Autograd fills
        each parameter's `.grad`, so that hooks fire, and the gradient is then copied out: one copy, and no zeroing.
        """
        for p in self._params:
            p.grad = None
        for loss in (losses,) if isinstance(losses, Tensor) else losses:
            try:
                loss.backward()
            except CheckpointError as error:
                raise TombolaError(
                    "activations that checkpointing makes again differ from the first ones, as by estimators local and "
                    "flipout; use estimator weight_sample, or switch checkpointing off"
                ) from error
            del loss  # its graph too, before the next one is built
        if not self._checked:
            _check_registered(self.module, self._params)
            self._checked = True
        if self._targets[0] is not out:
            self._targets = out, [segment.view(out) for segment in self._segments]
        targets, sources = [], []
        for p, target in zip(self._params, self._targets[1], strict=True):
            if p.grad is None:
                target.zero_()
            else:
                targets.append(target)
                sources.append(p.grad.to_dense() if p.grad.is_sparse else p.grad)
            p.grad = None
        torch._foreach_copy_(targets, sources)


def shown(view: Tensor, p: nn.Parameter, foreign: bool) -> Tensor:
    """Return what the module gets for a parameter: its view of flat memory, or a copy of that."""
    if foreign and not view.is_contiguous():
        return view.to(p.dtype, memory_format=torch.contiguous_format, copy=True)
    return view.to(p.dtype)


def of_foreign_code(module: nn.Module) -> set[int]:
    """Return the ids of the parameters that a module owns whose forward pass is not torch's convolution."""
    return {id(p) for m in module.modules() if not _is_convolution(m) for p in m.parameters(recurse=False) if p.ndim == 4}


def _is_convolution(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        kind: type[nn.Conv2d] = type(module)
        return kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward
    return isinstance(module, nn.ConvTranspose2d) and type(module).forward is nn.ConvTranspose2d.forward


def _restore_parameters(saved: list[tuple[nn.Parameter, Tensor, Tensor | None]]) -> None:
    for p, data, grad in saved:
        p.grad = None  # first: a gradient and its parameter share a device
        p.data = data
        p.grad = grad


Registered = list[tuple[nn.Module, dict[str, nn.Parameter | None], dict[str, nn.Module | None]]]
"""Modules, and the parameters and parts that each has."""


def _registered(module: nn.Module) -> Registered:
    plain = [m for m in module.modules() if not isinstance(m, torch.jit.ScriptModule)]
    return [(m, dict(m._parameters), dict(m._modules)) for m in plain]


def _restore_registered(saved: Registered) -> None:
    for module, parameters, parts in saved:
        for own, before in ((module._parameters, parameters), (module._modules, parts)):
            own.clear()
            own.update(before)  # type: ignore[arg-type]


def _check_registered(module: nn.Module, bound: Iterable[nn.Parameter]) -> None:
    """Raise TombolaError if a forward pass has made parameters beside the bound ones: they would not be trained."""
    known = {id(p) for p in bound}
    for name, p in module.named_parameters():
        if id(p) not in known:
            raise TombolaError(
                f"the forward pass of {type(module).__name__} makes the parameter {name!r}, which is not trained; make it "
                "before, in __init__ or by one pass on a batch, and do not replace it"
            )


def _saved_buffers(module: nn.Module) -> tuple[list[tuple[nn.Module, dict]], list[tuple[Tensor, Tensor, Tensor]]]:
    """Return the buffers of each submodule by name, and (buffer, its memory, a copy of its values)."""
    plain = [m for m in module.modules() if not isinstance(m, torch.jit.ScriptModule)]  # whose buffers are fixed
    return [(m, dict(m._buffers)) for m in plain], [(b, b.data, b.detach().clone()) for b in module.buffers()]


def _restore_buffers(own: list[tuple[nn.Module, dict]], saved: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    for module, buffers in own:  # a forward pass may have put other tensors there
        module._buffers.clear()
        module._buffers.update(buffers)
    for buffer, data, values in saved:
        buffer.data = data
        if not is_expanded(data):  # which no forward pass can have written to
            data.copy_(values)


def _restore_modes(saved: list[tuple[nn.Module, bool]]) -> None:
    for module, training in saved:
        module.training = training


def buffers_of(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the persistent buffers (batch-norm statistics) by name."""
    return {name: owner._buffers[leaf].detach().clone() for name, owner, leaf in _persistent(module)}  # type: ignore[union-attr]


def load_buffers(module: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Write `buffers` into the module's own; a buffer that a forward pass gave another shape is replaced."""
    for name, value in buffers.items():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        own = owner._buffers[leaf]
        if own is not None and own.shape == value.shape and own.dtype == value.dtype and not is_expanded(own):
            own.data.copy_(value)
        else:
            owner._buffers[leaf] = value.clone()


def _persistent(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (name, owner, name in it) of the buffers that a state_dict has, under every name."""
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for leaf, buffer in owner._buffers.items():
            if buffer is not None and leaf not in owner._non_persistent_buffers_set:
                yield f"{prefix}.{leaf}" if prefix else leaf, owner, leaf
