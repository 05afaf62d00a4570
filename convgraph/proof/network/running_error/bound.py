"""A running error bound: how far rounding may carry a network, operator by operator.

Beside every floating value x_hat of a run there is E >= |x_hat - x|, x exact on the same images and
parameters, that holds for *any* correct computation of the same operators: whatever the
order of its sums. So two correct runs differ by at most 2 E. Images and parameters have E = 0. What
moves values moves E; every operator that computes has a rule (derived in `running_setting`), and
one that has none ends the bound and is named.

Source: J. H. Wilkinson's running error analysis, as in N. J. Higham, "Accuracy and Stability of
Numerical Algorithms", 2nd ed., SIAM 2002, section 3.3.
"""

from collections.abc import Callable, Mapping
from math import inf
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode

from convgraph.proof import aten, trees
from convgraph.proof.network.running_error import (
    attention_rules,
    backward_rules,
    product_rules,
    sum_rules,
)
from convgraph.proof.network.running_error.backward_rules import BY_PRODUCTS
from convgraph.proof.network.running_error.call import (
    RULES,
    SEVERAL,
    BoundedCall,
    NoRule,
    WithError,
)
from convgraph.proof.surroundings import as_written

SWEEP = 16
FILES = (product_rules, sum_rules, backward_rules, attention_rules)
"""Where the rules are; importing them registers them."""


@final
class RunningBound(TorchDispatchMode):
    """Carries E beside a run.

    Attributes:
        missing: the operator without a rule that ended the bound, with its module; "" if none did.
    """

    def __init__(
        self, net: torch.nn.Module, off: Mapping[str, Tensor] = MappingProxyType({})
    ) -> None:
        """Start with E = 0, but for parameters that are `off` on the other side, by name."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.missing = ""
        self.paths = {id(module): path for path, module in net.named_modules()}
        self.open: list[str] = []
        self._errors: dict[int, tuple[StorageWeakRef, Tensor]] = {}
        self._tainted: dict[int, StorageWeakRef] = {}
        self._count = 0
        held: dict[str, Tensor] = {
            **dict(net.named_parameters(remove_duplicate=False)),
            **dict(net.named_buffers(remove_duplicate=False)),
        }
        for name, error in off.items():
            self._write(held[name], error)

    def bound(self, tensor: Tensor) -> Tensor:
        """Return E of a value, float64 of its shape."""
        found = self._errors.get(tensor.untyped_storage()._cdata)
        if found is None:
            return torch.zeros(tensor.shape, dtype=torch.float64, device=tensor.device)
        flat = found[1]
        return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def run(self, call: Callable[[], Any], *, gradients: bool = False) -> Any:
        """Run something with E beside it; with gradients, backward too."""

        def enter(module: torch.nn.Module, args: Any) -> None:
            self.open.append(self.paths.get(id(module), self.open[-1] if self.open else ""))

        def leave(module: torch.nn.Module, args: Any, output: Any) -> None:
            self.open.pop()

        before = hooks.register_module_forward_pre_hook(enter)
        behind = hooks.register_module_forward_hook(leave, always_call=True)
        try:
            with as_written(), torch.set_grad_enabled(gradients), self:
                return call()
        finally:
            before.remove()
            behind.remove()

    def _write(self, tensor: Tensor, error: Tensor) -> None:
        storage = tensor.untyped_storage()
        found = self._errors.get(storage._cdata)
        if found is None:
            count = storage.nbytes() // tensor.element_size()
            flat = torch.zeros(count, dtype=torch.float64, device=tensor.device)
            found = (StorageWeakRef(storage), flat)
            self._errors[storage._cdata] = found
        place = found[1].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        place.copy_(error)

    def _knows(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._errors

    def _off(self, tensor: Tensor) -> bool:
        """Whether another run may hold other numbers there."""
        return self._knows(tensor) and bool(self.bound(tensor).any())

    def _chosen(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._tainted

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in trees.leaves((args, kwargs)) if isinstance(t, Tensor)]
        floating = [t for t in tensors if t.is_floating_point()]
        name = aten.name_of(func)
        if self.missing or torch.Tag.inplace_view in func.tags:
            return func(*args, **kwargs)
        if any(map(self._chosen, tensors)) and not func.is_view:
            named = aten.arguments(func, args, kwargs)
            rest = [v for k, v in named.items() if k not in BY_PRODUCTS.get(name, ())]
            if any(self._chosen(t) for t in trees.leaves(rest) if isinstance(t, Tensor)):
                self._end(name, "it depends on a choice that rounding can change")
        if self.missing or not floating or name in aten.FILLS:
            return func(*args, **kwargs)
        targets = aten.written(func, args, kwargs)
        cast = name == "_to_copy" and kwargs.get("dtype") not in (None, args[0].dtype)
        if name in aten.MOVES and not cast:
            out = func(*args, **kwargs)
            if any(map(self._knows, floating)):
                moved = aten.on_numbers(func, args, kwargs, self.bound, lambda value: 0)
                self._into(out, moved)
            return out
        if name in aten.WRITES:
            fresh = self.bound(args[1]) if isinstance(args[1:2] and args[1], Tensor) else None
            out = func(*args, **kwargs)
            if fresh is not None or self._knows(args[0]):
                self._write(
                    args[0], torch.zeros((), dtype=torch.float64) if fresh is None else fresh
                )
            return out
        call = self._call(func, args, kwargs, copy=bool(targets)) if not func.is_view else None
        out = func(*args, **kwargs)
        outputs = [t for t in trees.leaves(out) if isinstance(t, Tensor)]
        made = {t.untyped_storage()._cdata for t in outputs}
        for tensor in targets:
            if tensor.is_floating_point() and tensor.untyped_storage()._cdata not in made:
                self._write(tensor, torch.tensor(inf, dtype=torch.float64))  # statistics
        storages = {t.untyped_storage()._cdata for t in tensors}
        if not targets and all(t.untyped_storage()._cdata in storages for t in outputs):
            return out  # a view
        compares = bool(outputs) and not outputs[0].is_floating_point()
        if any(self._off(t) if compares else self._knows(t) for t in floating) and (
            name not in SEVERAL
        ):  # what was chosen, and by-products nobody bounds
            for tensor in outputs[not compares :]:
                if not tensor.numel():  # as what a norm in evaluation keeps for backward
                    continue
                storage = tensor.untyped_storage()
                self._tainted[storage._cdata] = StorageWeakRef(storage)
        if call is None or not outputs or not outputs[0].is_floating_point():
            return out
        rule = RULES.get(name)
        try:
            if rule is None:
                raise NoRule("no rule for its error")
            call.y = outputs[0].double()
            error = rule(call)
        except NoRule as reason:
            self._end(name, str(reason))
            return out
        if isinstance(error, list):
            for tensor, one in zip(outputs, error, strict=True):
                self._write(tensor, one)
        else:
            self._write(outputs[0], error)
        self._count += 1
        if not self._count % SWEEP:
            self._errors = {k: v for k, v in self._errors.items() if not v[0].expired()}
        return out

    def _end(self, name: str, reason: str) -> None:
        path = self.open[-1] if self.open else ""
        self.missing = self.missing or f"{name} at {path!r} ({reason})"

    def _into(self, out: Any, moved: Any) -> None:
        before = [t for t in trees.leaves(out) if isinstance(t, Tensor)]
        after = [t for t in trees.leaves(moved) if isinstance(t, Tensor)]
        for tensor, error in zip(before, after, strict=True):
            if tensor.is_floating_point():
                self._write(tensor, error)

    def _call(self, func: Any, args: Any, kwargs: Any, *, copy: bool) -> BoundedCall:
        named = aten.arguments(func, args, kwargs)
        floats = [v for v in trees.leaves(named) if isinstance(v, Tensor) and v.is_floating_point()]
        dtype = max((t.dtype for t in floats), key=lambda d: torch.finfo(d).eps)

        def entry(value: Any) -> Any:
            if isinstance(value, Tensor) and value.is_floating_point():
                return WithError(value.to(torch.float64, copy=copy), self.bound(value).clone())
            return value

        return BoundedCall(func, {k: entry(v) for k, v in named.items()}, dtype)
